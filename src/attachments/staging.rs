//! Publishes staged blobs, and deletes blobs that no attachment references.

use super::{Attachments, Error};
use crate::blob::{self, BlobKey, BlobWriter, ObjectHeaders, StagedBlob};
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::{Connection, blob_deletions};
use crate::domain::attachment::{Attachment, Variant};
use crate::id::PartnerId;
use std::time::Duration;

/// Time after which the sweeper deletes a published blob that still has no reference. Only a crash
/// leaves such a blob.
const ORPHAN_TTL: Duration = Duration::from_hours(1);

/// Staged blob with the key and the headers under which it is published.
#[derive(Debug)]
pub(crate) struct StagedFile {
    pub key: BlobKey,
    pub headers: ObjectHeaders,
    pub blob: Box<dyn StagedBlob>,
}

impl StagedFile {
    /// Creates the staged file for an attachment's bytes as they were uploaded or fetched.
    pub(crate) fn original(attachment: &Attachment, blob: Box<dyn StagedBlob>) -> Self {
        let headers = ObjectHeaders::for_file(
            &attachment.media_type,
            &attachment.filename,
            attachment.tier(),
        );
        Self {
            key: attachment.uploaded_key(),
            headers,
            blob,
        }
    }

    /// Creates the staged file for a variant of an attachment's file.
    pub(crate) fn variant(
        attachment: &Attachment,
        variant: &Variant,
        blob: Box<dyn StagedBlob>,
    ) -> Self {
        let headers =
            ObjectHeaders::for_file(&variant.media_type, &variant.filename, attachment.tier());
        Self {
            key: attachment.variant_key(variant),
            headers,
            blob,
        }
    }
}

impl Attachments {
    /// Creates an empty staged blob and returns its writer.
    pub(crate) async fn create_blob(&self) -> Result<Box<dyn BlobWriter>, Error> {
        Ok(self.blobs.create().await?)
    }

    /// Publishes staged files. Their deletion is queued first, in case of a crash; the transaction
    /// that references them cancels it.
    pub(crate) async fn publish_staged(
        &self,
        partner: PartnerId,
        files: Vec<StagedFile>,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let keys: Vec<BlobKey> = files.iter().map(|file| file.key.clone()).collect();
        let queued = keys.clone();
        let enqueue = self
            .db
            .transaction(partner, async move |db: &mut Connection| {
                for key in queued {
                    blob_deletions::enqueue(db, &key.to_string(), now + ORPHAN_TTL, now).await?;
                }
                Ok::<_, Error>(())
            });
        enqueue.await?;
        let publish = files
            .into_iter()
            .map(|file| async move { file.blob.publish(&file.key, &file.headers).await });
        if let Err(error) = futures_util::future::try_join_all(publish).await {
            self.discard_published(partner, &keys).await;
            return Err(match error {
                // The blob should be copied from an earlier one, which was deleted first.
                blob::Error::PreconditionFailed => Error::Deleted,
                error => error.into(),
            });
        }
        Ok(())
    }

    /// Deletes published blobs that were never referenced. If a deletion fails, the deletion queue
    /// retries it.
    pub(crate) async fn discard_published(&self, partner: PartnerId, keys: &[BlobKey]) {
        for key in keys {
            if let Err(error) = self.delete_if_unreferenced(partner.into(), key).await {
                tracing::error!(blob = %key.id(), %error, "cannot delete unused blob; will be retried");
            }
        }
    }

    /// Deletes a blob that is in the deletion queue. Returns false if another server holds the
    /// lease or an attachment references the blob.
    pub(super) async fn delete_if_unreferenced(
        &self,
        holder: Holder,
        key: &BlobKey,
    ) -> Result<bool, Error> {
        let is_leased = self
            .lease_deletion(holder, key.clone(), self.clock.now())
            .await?;
        if is_leased {
            self.delete_blob(holder, key).await?;
        }
        Ok(is_leased)
    }

    /// Deletes a blob, then its entry in the deletion queue.
    pub(super) async fn delete_blob(&self, holder: Holder, key: &BlobKey) -> Result<(), Error> {
        self.blobs.remove(key).await?;
        self.complete_deletion(holder, key.to_string()).await
    }

    async fn lease_deletion(
        &self,
        holder: Holder,
        key: BlobKey,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let lease = self
            .db
            .transaction(holder, async move |db: &mut Connection| {
                blob_deletions::lease(db, &key, now).await
            });
        Ok(lease.await?)
    }

    pub(super) async fn complete_deletion(&self, holder: Holder, key: String) -> Result<(), Error> {
        let complete = self
            .db
            .transaction(holder, async move |db: &mut Connection| {
                blob_deletions::complete(db, &key).await
            });
        Ok(complete.await?)
    }
}
