//! Deletes expired attachments, as a background task.

use futures_util::{StreamExt, stream};

use super::process_deletions::DELETE_CONCURRENCY;
use super::{Attachments, Error};
use crate::blob::BlobKey;
use crate::db::admission::Holder;
use crate::db::{Connection, attachments as table};

/// Maximum number of attachments deleted per transaction; each takes several statements.
const BATCH: u32 = 100;

impl Attachments {
    /// Deletes expired ephemeral attachments with their blobs.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn delete_expired(&self) -> Result<(), Error> {
        let now = self.clock.now();
        // Another server on the same database may have deleted their rows already.
        self.open_files.evict_expired(now);
        loop {
            let delete = self
                .db
                .transaction(Holder::Background, async move |db: &mut Connection| {
                    table::delete_expired(db, now, BATCH).await
                });
            let (expired, blobs) = delete.await?;
            for attachment in &expired {
                self.open_files.evict(attachment.partner_id, attachment.id);
            }
            // All blobs are deleted immediately, without a limit on their number; only those that
            // cannot be deleted are left to the deletion queue.
            let delete = |blob: BlobKey| async move {
                if let Err(error) = self.delete_blob(Holder::Background, &blob).await {
                    tracing::error!(blob = %blob.id(), %error, "cannot delete expired blob; will be retried");
                }
            };
            stream::iter(blobs)
                .for_each_concurrent(DELETE_CONCURRENCY, delete)
                .await;
            if expired.len() < BATCH as usize {
                return Ok(());
            }
        }
    }
}
