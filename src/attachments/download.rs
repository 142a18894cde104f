//! Resolves file URLs to open blobs for downloads.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;

use super::open_files::Rendition;
use super::{Attachments, CdnMode, Error};
use crate::blob::{Blob, BlobKey};
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::attachments as table;
use crate::domain::attachment::{Attachment, UploadState};
use crate::domain::filename;
use crate::domain::tier::Tier;
use crate::id::{AttachmentId, PartnerId};

/// Lifetime of a signed bucket URL, long enough for a client to follow a redirect.
const DIRECT_URL_LIFETIME: Duration = Duration::from_mins(1);

/// A file open for download.
#[derive(Debug)]
pub struct FileHandle {
    pub partner_id: PartnerId,
    pub filename: String,
    pub media_type: String,
    /// MD5 of the file's bytes, used as the entity tag.
    pub md5: String,
    /// Time at which the file was stored; its bytes never change afterwards.
    pub stored_at: Timestamp,
    /// Time at which the file expires, if it is ephemeral. Such a file is served only to requests
    /// with a signed URL.
    pub expires_at: Option<Timestamp>,
    pub blob: Arc<dyn Blob>,
    /// Attachment that the file belongs to.
    pub(super) id: AttachmentId,
    key: BlobKey,
}

impl FileHandle {
    #[must_use]
    pub fn tier(&self) -> Tier {
        if self.expires_at.is_some() {
            Tier::Ephemeral
        } else {
            Tier::Persistent
        }
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

impl Attachments {
    /// Opens the file that a file URL names. Returns `None` unless the URL's partner, id and
    /// filename all match a stored file.
    ///
    /// # Errors
    /// The database or the store fails.
    pub async fn open_file(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
        segment: &str,
    ) -> Result<Option<Arc<FileHandle>>, Error> {
        let now = self.clock.now();
        let matches = |file: &FileHandle| {
            !file.is_expired(now) && filename::url_segment(&file.filename) == segment
        };
        let generation = match self.open_files.get((partner, id), matches) {
            Ok(file) => return self.revalidate(file).await,
            Err(generation) => generation,
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
        let Some(rendition) = rendition_named(&attachment, segment) else {
            return Ok(None);
        };
        let Some(attachment) = self.finalize_if_direct(attachment).await? else {
            return Ok(None);
        };
        let Some(file) = self.open(attachment, rendition).await? else {
            return Ok(None);
        };
        self.open_files
            .put(rendition, Arc::clone(&file), generation);
        Ok(Some(file))
    }

    /// Checks in the database that a cached file still exists, as another server may have deleted
    /// it. Returns `None` if it was deleted.
    async fn revalidate(&self, file: Arc<FileHandle>) -> Result<Option<Arc<FileHandle>>, Error> {
        if !self.db.is_shared() {
            return Ok(Some(file));
        }
        let (partner, id) = (file.partner_id, file.id);
        let stored = self.find_stored_for(Holder::Downloads, partner, id).await?;
        if stored.is_none() {
            self.open_files.evict(partner, id);
            return Ok(None);
        }
        Ok(Some(file))
    }

    async fn open(
        &self,
        attachment: Attachment,
        rendition: Rendition,
    ) -> Result<Option<Arc<FileHandle>>, Error> {
        let (partner_id, id, expires_at) =
            (attachment.partner_id, attachment.id, attachment.expires_at);
        let UploadState::Stored { md5, at, .. } = &attachment.state else {
            return Ok(None);
        };
        let variant = attachment
            .variant
            .as_ref()
            .filter(|_| rendition == Rendition::Variant);
        let (key, filename, media_type, size_bytes, md5) = match variant {
            Some(variant) => (
                attachment.variant_key(variant),
                &variant.filename,
                &variant.media_type,
                variant.size_bytes,
                &variant.md5,
            ),
            None => (
                attachment.uploaded_key(),
                &attachment.filename,
                &attachment.media_type,
                attachment.size_bytes,
                md5,
            ),
        };
        let Some(blob) = self.blobs.open(&key).await? else {
            // The blob is missing: the attachment may have been deleted after its row was read.
            let stored = self
                .find_stored_for(Holder::Downloads, partner_id, id)
                .await?;
            return stored.map_or(Ok(None), |_| Err(Error::BlobMissing(id)));
        };
        if blob.size() != size_bytes {
            return Err(Error::BlobMissing(id));
        }
        Ok(Some(Arc::new(FileHandle {
            partner_id,
            filename: filename.clone(),
            media_type: media_type.clone(),
            md5: md5.clone(),
            stored_at: *at,
            expires_at,
            blob,
            id,
            key,
        })))
    }

    /// Returns a signed bucket URL for a file, or `None` if downloads are not redirected to the
    /// bucket.
    #[must_use]
    pub fn direct_url(&self, file: &FileHandle, method: &Method) -> Option<String> {
        let bucket = self
            .blobs
            .bucket()
            .filter(|_| self.config.cdn_mode == CdnMode::Redirect)?;
        Some(bucket.presign_get(&file.key, method, DIRECT_URL_LIFETIME))
    }

    /// Removes a file from the cache of open files, after its blob was found missing or replaced.
    pub fn evict(&self, file: &FileHandle) {
        self.open_files.evict(file.partner_id, file.id);
    }
}

/// Returns the attachment's rendition whose URL ends in this filename.
fn rendition_named(attachment: &Attachment, segment: &str) -> Option<Rendition> {
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
