//! Reuses a fetched file: if its origin answers 304, a new attachment gets an earlier attachment's
//! bytes.

use super::staging::StagedFile;
use super::{Attachments, Error};
use crate::blob::BlobKey;
use crate::clock::Timestamp;
use crate::domain::attachment::{Attachment, Variant};
use crate::domain::tier::Tier;
use crate::id::{AttachmentId, BlobId};

impl Attachments {
    /// Returns true if a stored attachment's blob exists and is complete.
    pub(crate) async fn has_blob(&self, attachment: &Attachment) -> Result<bool, Error> {
        let blob = self.blobs.open(&attachment.uploaded_key()).await?;
        Ok(blob.is_some_and(|blob| blob.size() == attachment.size_bytes))
    }

    /// Creates an attachment with an earlier attachment's bytes. In a folder, the two share a blob.
    /// In a bucket, where object keys equal URL paths, the objects are copied; the copies are
    /// returned for publishing.
    pub(crate) async fn reuse(
        &self,
        earlier: Attachment,
        tier: Tier,
        now: Timestamp,
    ) -> Result<(Attachment, Vec<StagedFile>), Error> {
        let original_key = earlier.uploaded_key();
        let variant_key = earlier
            .variant
            .as_ref()
            .map(|variant| earlier.variant_key(variant));
        let mut attachment = Attachment {
            id: AttachmentId::new(),
            created_at: now,
            upload_expires_at: now,
            expires_at: tier.expires_at(now),
            ..earlier
        };
        let Some(bucket) = self.blobs.bucket() else {
            return Ok((attachment, Vec::new()));
        };
        attachment.blob_id = attachment.id.blob_id();
        attachment.variant = attachment.variant.map(|variant| Variant {
            blob_id: BlobId::new(),
            ..variant
        });
        let copy = async |key: &BlobKey| bucket.staged_copy(key).await?.ok_or(Error::Deleted);
        let mut copies = vec![StagedFile::original(
            &attachment,
            copy(&original_key).await?,
        )];
        if let (Some(key), Some(variant)) = (&variant_key, &attachment.variant) {
            copies.push(StagedFile::variant(&attachment, variant, copy(key).await?));
        }
        Ok((attachment, copies))
    }
}
