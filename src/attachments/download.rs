//! Finding the file behind a file URL.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use lru::LruCache;

use crate::blob::{Blob, BlobKey, ObjectHeaders};
use crate::clock::Timestamp;
use crate::db::attachments as table;
use crate::domain::attachment::{Attachment, UploadState};
use crate::domain::tier::Tier;
use crate::domain::{disposition, filename};
use crate::id::{AttachmentId, PartnerId};
use crate::service::database::Holder;
use crate::service::{Error, Service};

/// Files kept open for the next request; each costs one file descriptor.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// How long a URL of the store itself is good: the time it takes to follow a redirect.
const DIRECT_URL_LIFETIME: Duration = Duration::from_mins(1);

/// A file that can be served.
#[derive(Debug)]
pub struct FileHandle {
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
    pub expires_at: Option<Timestamp>,
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
pub(crate) fn metadata(media_type: &str, filename: &str, tier: Tier) -> ObjectHeaders {
    ObjectHeaders {
        content_type: media_type.to_owned(),
        content_disposition: disposition::for_file(media_type, filename),
        cache_control: cache_control(tier),
    }
}

impl FileHandle {
    /// How long it is kept.
    #[must_use]
    pub fn tier(&self) -> Tier {
        if self.expires_at.is_some() {
            Tier::Ephemeral
        } else {
            Tier::Persistent
        }
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

/// A form that an attachment has: each has a name, and so a URL, of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Rendition {
    Original,
    Variant,
}

/// Files that were asked for lately, open.
#[derive(Debug)]
pub(crate) struct OpenFileCache(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    files: LruCache<(PartnerId, AttachmentId, Rendition), Arc<FileHandle>>,
    /// Counts deletions. A file that was looked up before a deletion and is put in after it might be the deleted one.
    deletions: u64,
}

impl Default for OpenFileCache {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            files: LruCache::new(OPEN_FILES),
            deletions: 0,
        }))
    }
}

impl OpenFileCache {
    /// The form that `fits`, or how many deletions there were.
    fn get(
        &self,
        (partner, id): (PartnerId, AttachmentId),
        fits: impl Fn(&FileHandle) -> bool,
    ) -> Result<Arc<FileHandle>, u64> {
        let mut inner = self.0.lock().expect("no panic while locked");
        let form = [Rendition::Original, Rendition::Variant]
            .into_iter()
            .find(|form| {
                inner
                    .files
                    .peek(&(partner, id, *form))
                    .is_some_and(|file| fits(file))
            });
        form.and_then(|form| inner.files.get(&(partner, id, form)).cloned())
            .ok_or(inner.deletions)
    }

    fn put(&self, form: Rendition, file: Arc<FileHandle>, deletions: u64) {
        let mut inner = self.0.lock().expect("no panic while locked");
        if inner.deletions == deletions {
            inner.files.put((file.partner_id, file.id, form), file);
        }
    }

    pub(crate) fn evict(&self, partner: PartnerId, id: AttachmentId) {
        let mut inner = self.0.lock().expect("no panic while locked");
        inner.deletions += 1;
        for form in [Rendition::Original, Rendition::Variant] {
            inner.files.pop(&(partner, id, form));
        }
    }

    /// Closes the files whose time is over: while one is open the system keeps its bytes.
    pub(crate) fn drop_expired(&self, now: Timestamp) {
        let mut inner = self.0.lock().expect("no panic while locked");
        let gone: Vec<_> = inner
            .files
            .iter()
            .filter(|(_, file)| file.is_expired(now))
            .map(|(key, _)| *key)
            .collect();
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
    ) -> Result<Option<Arc<FileHandle>>, Error> {
        let now = self.clock.now();
        let fits = |file: &FileHandle| {
            !file.is_expired(now) && filename::url_segment(&file.filename) == segment
        };
        let deletions = match self.files.get((partner, id), fits) {
            // Another server may have deleted it.
            Ok(_)
                if self.db.is_shared()
                    && self
                        .stored_for(Holder::Downloads, partner, id)
                        .await?
                        .is_none() =>
            {
                self.files.evict(partner, id);
                return Ok(None);
            }
            Ok(file) => return Ok(Some(file)),
            Err(deletions) => deletions,
        };
        let found = table::find(
            &mut *self.db.read(Holder::Downloads).await?,
            partner,
            id,
            now,
        )
        .await?;
        let Some(attachment) = found else {
            return Ok(None);
        };
        let Some(form) = form(&attachment, segment) else {
            return Ok(None);
        };
        let Some(attachment) = self.finalize_if_direct(attachment).await? else {
            return Ok(None);
        };
        let Some(file) = self.open(attachment, form).await? else {
            return Ok(None);
        };
        self.files.put(form, Arc::clone(&file), deletions);
        Ok(Some(file))
    }

    async fn open(
        &self,
        attachment: Attachment,
        form: Rendition,
    ) -> Result<Option<Arc<FileHandle>>, Error> {
        let (partner_id, id, expires_at) =
            (attachment.partner_id, attachment.id, attachment.expires_at);
        let key = match form {
            Rendition::Original => attachment.uploaded_key(),
            Rendition::Variant => attachment.delivered_key(),
        };
        let UploadState::Stored {
            md5: uploaded_md5,
            at,
            ..
        } = attachment.state
        else {
            return Ok(None);
        };
        let uploaded = (
            attachment.filename,
            attachment.media_type,
            attachment.size_bytes,
            uploaded_md5,
        );
        let (filename, media_type, size_bytes, md5) = match (form, attachment.variant) {
            (Rendition::Variant, Some(made)) => {
                (made.filename, made.media_type, made.size_bytes, made.md5)
            }
            _ => uploaded,
        };
        let Some(blob) = self.blobs.open(&key).await? else {
            // Deleted between the two looks, or lost.
            let is_there = self
                .stored_for(Holder::Downloads, partner_id, id)
                .await?
                .is_some();
            return if is_there {
                Err(Error::BlobMissing(id))
            } else {
                Ok(None)
            };
        };
        if blob.size() != size_bytes {
            return Err(Error::BlobMissing(id));
        }
        Ok(Some(Arc::new(FileHandle {
            partner_id,
            filename,
            media_type,
            md5,
            stored_at: at,
            expires_at,
            blob,
            id,
            key,
        })))
    }

    /// A URL of the store itself that gives a file for a moment, if files are to be got there.
    #[must_use]
    pub fn direct_url(&self, file: &FileHandle, method: &Method) -> Option<String> {
        let bucket = self.blobs.bucket().filter(|_| self.redirects)?;
        Some(bucket.presign_get(&file.key, method, DIRECT_URL_LIFETIME))
    }

    /// Closes a file that turned out to be gone: another server may have deleted it.
    pub fn evict(&self, file: &FileHandle) {
        self.files.evict(file.partner_id, file.id);
    }

    /// The attachment, if its bytes were stored.
    pub(crate) async fn stored(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        self.stored_for(Holder::Partner(partner), partner, id).await
    }

    async fn stored_for(
        &self,
        holder: Holder,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        let found = table::find(
            &mut *self.db.read(holder).await?,
            partner,
            id,
            self.clock.now(),
        )
        .await?;
        Ok(found.filter(|attachment| matches!(attachment.state, UploadState::Stored { .. })))
    }
}

/// The form whose name this is.
fn form(attachment: &Attachment, segment: &str) -> Option<Rendition> {
    let is = |filename: &str| filename::url_segment(filename) == segment;
    if is(&attachment.filename) {
        return Some(Rendition::Original);
    }
    attachment
        .variant
        .as_ref()
        .filter(|variant| is(&variant.filename))
        .map(|_| Rendition::Variant)
}
