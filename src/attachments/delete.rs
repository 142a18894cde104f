//! Deletes attachments at their partner's request.

use std::sync::Arc;

use super::{Attachments, Error};
use crate::blob;
use crate::db::{Connection, attachments as table};
use crate::id::{AttachmentId, PartnerId};

impl Attachments {
    /// Deletes an attachment with its blobs, and makes an upload in progress fail. Messages that
    /// contain the attachment are kept.
    ///
    /// # Errors
    /// The attachment does not exist or belongs to another partner, or the database fails.
    pub async fn delete(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<(), Error> {
        let attachments = Arc::clone(self);
        // Runs as a detached task: the open file must be evicted from the cache even if the client
        // disconnects.
        tokio::spawn(async move { attachments.delete_now(partner, id).await })
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }

    async fn delete_now(&self, partner: PartnerId, id: AttachmentId) -> Result<(), Error> {
        // The lock is held until the blobs are deleted: an upload that finishes meanwhile must
        // notice that the row is gone before it publishes a blob.
        let _lock = self.lock_attachment(partner, id).await?;
        let now = self.clock.now();
        let direct_uploads = self.direct_uploads();
        let write = self
            .db
            .transaction(partner, async move |db: &mut Connection| {
                let deleted = table::delete(db, partner, id, now).await?;
                if let Some((attachment, _)) = &deleted {
                    direct_uploads.enqueue_deletion(db, attachment, now).await?;
                }
                Ok::<_, Error>(deleted)
            });
        let (attachment, blobs) = write.await?.ok_or(Error::NotFound)?;
        self.open_files.evict(partner, id);
        // The attachment is deleted at this point. Its transaction queued the blobs for deletion,
        // so the sweeper retries if deleting one fails here.
        for blob in blobs {
            if let Err(error) = self.delete_blob(partner.into(), &blob).await {
                tracing::error!(attachment = %id, blob = %blob.id(), %error, "cannot delete blob of deleted attachment; will be retried");
            }
        }
        if attachment.was_uploaded() {
            self.delete_direct_upload(id).await;
        }
        Ok(())
    }
}
