//! Finding the file behind a file URL.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lru::LruCache;

use super::database::Holder;
use super::{Error, Service};
use crate::blob::{Blob, BlobKey, Metadata, Reading};
use crate::clock::Timestamp;
use crate::db::attachments as table;
use crate::domain::attachment::{Attachment, Content};
use crate::domain::tier::Tier;
use crate::domain::{disposition, filename};
use crate::id::{AttachmentId, PartnerId};

/// Files kept open for the next request; each costs one file descriptor.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// How long a URL of the store itself is good: the time it takes to follow a redirect.
const DIRECT_URL_LIFETIME: Duration = Duration::from_mins(1);

/// A file that can be served.
#[derive(Debug)]
pub struct StoredFile {
    /// Whose it is.
    pub partner_id: PartnerId,
    /// The name as given.
    pub filename: String,
    /// The type it is delivered under.
    pub media_type: String,
    /// MD5 of the bytes: the entity tag.
    pub md5: String,
    /// When it was stored. It never changes.
    pub stored_at: Timestamp,
    /// When it is gone, if it is ephemeral: then it is for those who have a signed URL only.
    pub purge_at: Option<Timestamp>,
    /// The bytes.
    pub blob: Arc<dyn Blob>,
    /// Which attachment's it is.
    id: AttachmentId,
    key: BlobKey,
}

/// `Cache-Control` of a file.
#[must_use]
pub fn cache_control(tier: Tier) -> &'static str {
    match tier {
        // It never changes, and its URL never means another.
        Tier::Persistent => "public, max-age=31536000, immutable",
        // It is gone soon, and its URL sooner.
        Tier::Ephemeral => "private, no-store",
    }
}

/// What is told of a file to who gets it from the store itself: what our own answers say.
pub(super) fn metadata(media_type: &str, filename: &str, tier: Tier) -> Metadata {
    Metadata {
        content_type: media_type.to_owned(),
        content_disposition: disposition::of_file(media_type, filename),
        cache_control: cache_control(tier),
    }
}

impl StoredFile {
    /// How long it is kept.
    #[must_use]
    pub fn tier(&self) -> Tier {
        if self.purge_at.is_some() { Tier::Ephemeral } else { Tier::Persistent }
    }

    fn is_gone(&self, now: Timestamp) -> bool {
        self.purge_at.is_some_and(|purge_at| purge_at <= now)
    }
}

/// A form that an attachment has: each has a name, and so a URL, of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    Uploaded,
    Delivered,
}

/// Files that were asked for lately, open.
#[derive(Debug)]
pub(super) struct FileCache(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    files: LruCache<(PartnerId, AttachmentId, Form), Arc<StoredFile>>,
    /// Counts deletions. A file that was looked up before a deletion and is put in after it might be the deleted one.
    deletions: u64,
}

impl Default for FileCache {
    fn default() -> Self {
        Self(Mutex::new(Inner { files: LruCache::new(OPEN_FILES), deletions: 0 }))
    }
}

impl FileCache {
    /// The form that `fits`, or how many deletions there were.
    fn get(
        &self,
        (partner, id): (PartnerId, AttachmentId),
        fits: impl Fn(&StoredFile) -> bool,
    ) -> Result<Arc<StoredFile>, u64> {
        let mut inner = self.0.lock().expect("no panic while locked");
        let form = [Form::Uploaded, Form::Delivered]
            .into_iter()
            .find(|form| inner.files.peek(&(partner, id, *form)).is_some_and(|file| fits(file)));
        form.and_then(|form| inner.files.get(&(partner, id, form)).cloned()).ok_or(inner.deletions)
    }

    fn put(&self, form: Form, file: Arc<StoredFile>, deletions: u64) {
        let mut inner = self.0.lock().expect("no panic while locked");
        if inner.deletions == deletions {
            inner.files.put((file.partner_id, file.id, form), file);
        }
    }

    pub(super) fn forget(&self, partner: PartnerId, id: AttachmentId) {
        let mut inner = self.0.lock().expect("no panic while locked");
        inner.deletions += 1;
        for form in [Form::Uploaded, Form::Delivered] {
            inner.files.pop(&(partner, id, form));
        }
    }

    /// Closes the files whose time is over: while one is open the system keeps its bytes.
    pub(super) fn forget_gone(&self, now: Timestamp) {
        let mut inner = self.0.lock().expect("no panic while locked");
        let gone: Vec<_> = inner.files.iter().filter(|(_, file)| file.is_gone(now)).map(|(key, _)| *key).collect();
        for key in gone {
            inner.deletions += 1;
            inner.files.pop(&key);
        }
    }
}

impl Service {
    /// The file behind a file URL; `None` if partner, id and name do not all fit a stored file.
    ///
    /// # Errors
    /// Database or store fail.
    pub async fn stored_file(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
        segment: &str,
    ) -> Result<Option<Arc<StoredFile>>, Error> {
        let now = self.clock.now();
        let fits = |file: &StoredFile| !file.is_gone(now) && filename::url_segment(&file.filename) == segment;
        let deletions = match self.files.get((partner, id), fits) {
            // Another server may have deleted it.
            Ok(_) if self.db.is_shared() && self.stored_for(Holder::Downloads, partner, id).await?.is_none() => {
                self.files.forget(partner, id);
                return Ok(None);
            }
            Ok(file) => return Ok(Some(file)),
            Err(deletions) => deletions,
        };
        let found = table::find(&mut *self.db.read(Holder::Downloads).await?, partner, id, now).await?;
        let Some(attachment) = found else { return Ok(None) };
        let Some(form) = form(&attachment, segment) else { return Ok(None) };
        let Some(attachment) = self.arrived(attachment).await? else { return Ok(None) };
        let Some(file) = self.open(attachment, form).await? else { return Ok(None) };
        self.files.put(form, Arc::clone(&file), deletions);
        Ok(Some(file))
    }

    async fn open(&self, attachment: Attachment, form: Form) -> Result<Option<Arc<StoredFile>>, Error> {
        let (partner_id, id, purge_at) = (attachment.partner_id, attachment.id, attachment.purge_at);
        let key = match form {
            Form::Uploaded => attachment.uploaded_key(),
            Form::Delivered => attachment.delivered_key(),
        };
        let Content::Stored { md5: uploaded_md5, at, .. } = attachment.content else { return Ok(None) };
        let uploaded = (attachment.filename, attachment.media_type, attachment.size_bytes, uploaded_md5);
        let (filename, media_type, size_bytes, md5) = match (form, attachment.delivery) {
            (Form::Delivered, Some(made)) => (made.filename, made.media_type, made.size_bytes, made.md5),
            _ => uploaded,
        };
        let Some(blob) = self.blobs.open(&key).await? else {
            // Deleted between the two looks, or lost.
            let is_there = self.stored_for(Holder::Downloads, partner_id, id).await?.is_some();
            return if is_there { Err(Error::Lost(id)) } else { Ok(None) };
        };
        if blob.size() != size_bytes {
            return Err(Error::Lost(id));
        }
        Ok(Some(Arc::new(StoredFile { partner_id, filename, media_type, md5, stored_at: at, purge_at, blob, id, key })))
    }

    /// A URL of the store itself that gives a file for a moment, if files are to be got there.
    #[must_use]
    pub fn direct_url(&self, file: &StoredFile, reading: Reading) -> Option<String> {
        let bucket = self.blobs.bucket().filter(|_| self.redirects)?;
        Some(bucket.presign_get(&file.key, reading, DIRECT_URL_LIFETIME))
    }

    /// Closes a file that turned out to be gone: another server may have deleted it.
    pub fn forget(&self, file: &StoredFile) {
        self.files.forget(file.partner_id, file.id);
    }

    /// The attachment, if its bytes were stored.
    pub(super) async fn stored(&self, partner: PartnerId, id: AttachmentId) -> Result<Option<Attachment>, Error> {
        self.stored_for(Holder::Partner(partner), partner, id).await
    }

    async fn stored_for(
        &self,
        holder: Holder,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        let found = table::find(&mut *self.db.read(holder).await?, partner, id, self.clock.now()).await?;
        Ok(found.filter(|attachment| matches!(attachment.content, Content::Stored { .. })))
    }
}

/// The form whose name this is.
fn form(attachment: &Attachment, segment: &str) -> Option<Form> {
    let is = |filename: &str| filename::url_segment(filename) == segment;
    if is(&attachment.filename) {
        return Some(Form::Uploaded);
    }
    attachment.delivery.as_ref().filter(|delivery| is(&delivery.filename)).map(|_| Form::Delivered)
}
