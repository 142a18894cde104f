//! Downloads: from a file URL to an open blob.

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

/// Lifetime of a signed URL of the bucket: enough to follow a redirect.
const DIRECT_URL_LIFETIME: Duration = Duration::from_mins(1);

/// A file open for download.
#[derive(Debug)]
pub struct FileHandle {
    pub partner_id: PartnerId,
    pub filename: String,
    pub media_type: String,
    /// MD5 of the bytes: the entity tag.
    pub md5: String,
    /// Time at which it was stored; it never changes afterwards.
    pub stored_at: Timestamp,
    /// Expiry, if it is ephemeral; then it is served to signed URLs only.
    pub expires_at: Option<Timestamp>,
    pub blob: Arc<dyn Blob>,
    /// The attachment.
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
    /// Opens the file that a file URL names. Returns `None` unless partner, id and filename all
    /// match a stored file.
    ///
    /// # Errors
    /// Database or store fail.
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

    /// Checks that no other server has deleted a cached file.
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
            // The attachment may have been deleted since its row was read.
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

    /// Returns a signed URL of the bucket for a file, if downloads are redirected there.
    #[must_use]
    pub fn direct_url(&self, file: &FileHandle, method: &Method) -> Option<String> {
        let bucket = self
            .blobs
            .bucket()
            .filter(|_| self.config.cdn_mode == CdnMode::Redirect)?;
        Some(bucket.presign_get(&file.key, method, DIRECT_URL_LIFETIME))
    }

    /// Closes a file whose blob turned out to be missing or replaced.
    pub fn evict(&self, file: &FileHandle) {
        self.open_files.evict(file.partner_id, file.id);
    }
}

/// Returns the rendition of an attachment that has this filename in its URL.
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
