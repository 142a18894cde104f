//! Processes the deletion queue for blobs, as a background task.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::direct_uploads::DirectUploads;
use super::{Attachments, Error};
use crate::blob::BlobKey;
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::{Connection, blob_deletions};

/// Maximum number of queue entries read at a time.
const BATCH: u32 = 500;
/// Delay before a failed deletion is retried.
const RETRY_DELAY: Duration = Duration::from_mins(1);
/// Number of blobs deleted concurrently, since each round trip to a remote store may be slow.
pub(super) const DELETE_CONCURRENCY: usize = 8;

impl Attachments {
    /// Deletes the blobs in the deletion queue. If a deletion fails, or another server has leased
    /// its entry, the entry is rescheduled.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn process_deletions(&self) -> Result<(), Error> {
        let now = self.clock.now();
        loop {
            let mut db = self.db.read(Holder::Background).await?;
            let keys = blob_deletions::due(&mut db, now, BATCH).await?;
            drop(db);
            let is_last = keys.len() < BATCH as usize;
            stream::iter(keys)
                .map(Ok)
                .try_for_each_concurrent(DELETE_CONCURRENCY, |key| self.process_deletion(key, now))
                .await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn process_deletion(&self, key: String, now: Timestamp) -> Result<(), Error> {
        match self.delete_queued(key.clone()).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(blob = key.split(' ').next(), %error, "cannot delete blob; will be retried");
            }
        }
        let reschedule =
            self.db
                .transaction(Holder::Background, async move |db: &mut Connection| {
                    blob_deletions::reschedule(db, &key, now + RETRY_DELAY).await
                });
        Ok(reschedule.await?)
    }

    /// Deletes the blob or the direct upload that a queue entry names. Returns false if another
    /// server holds the lease or the deletion was cancelled.
    async fn delete_queued(&self, key: String) -> Result<bool, Error> {
        match (
            DirectUploads::parse_deletion_key(&key),
            BlobKey::parse(&key),
        ) {
            (Some(upload), _) => self.delete_closed_upload(upload, key).await?,
            (None, Some(blob)) => {
                return self.delete_if_unreferenced(Holder::Background, &blob).await;
            }
            // The key is invalid, so the entry is dropped.
            (None, None) => self.complete_deletion(Holder::Background, key).await?,
        }
        Ok(true)
    }
}
