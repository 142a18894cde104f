//! Expiry of pending and ephemeral attachments, and the deletion queue: the parts of the background
//! tasks that change attachments.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::direct_uploads::DirectUploads;
use super::{Attachments, Error};
use crate::blob::BlobKey;
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::{Connection, attachments as table, blob_deletions};
use crate::domain::attachment::{Attachment, UploadState};

/// Maximum number of rows per transaction or page: bounds how long other writes wait.
const BATCH: u32 = 500;
/// Maximum number of expired attachments per transaction. Each takes several statements.
const EXPIRE_BATCH: u32 = 100;
/// Delay before a failed deletion is retried.
const RETRY_DELAY: Duration = Duration::from_mins(1);
/// Number of blobs deleted concurrently: round trips to a remote store may be slow.
const DELETE_CONCURRENCY: usize = 8;

impl Attachments {
    /// Deletes expired ephemeral attachments with their blobs.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn delete_expired(&self) -> Result<(), Error> {
        let now = self.clock.now();
        // Their rows may have been deleted by another server on the same database.
        self.open_files.evict_expired(now);
        loop {
            let delete = self
                .db
                .transaction(Holder::Background, async move |db: &mut Connection| {
                    table::delete_expired(db, now, EXPIRE_BATCH).await
                });
            let (expired, blobs) = delete.await?;
            for attachment in &expired {
                self.open_files.evict(attachment.partner_id, attachment.id);
            }
            // Deletes the blobs immediately, however many: only failures are left to the deletion
            // queue.
            let delete = |blob: BlobKey| async move {
                if let Err(error) = self.delete_blob(Holder::Background, &blob).await {
                    tracing::error!(blob = %blob.id(), %error, "cannot delete expired blob; will be retried");
                }
            };
            stream::iter(blobs)
                .for_each_concurrent(DELETE_CONCURRENCY, delete)
                .await;
            if expired.len() < EXPIRE_BATCH as usize {
                return Ok(());
            }
        }
    }

    /// Expires pending attachments whose upload window has closed. A direct upload that was
    /// complete in time but never used is finalized instead.
    ///
    /// # Errors
    /// Database or store fail.
    pub(crate) async fn expire_pending(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.clock.now();
        // An upload that started just before its window closed may still be running.
        let closed_before = now - self.config.max_upload_duration();
        if self.blobs.bucket().is_some() {
            return self.finalize_overdue(closed_before, now).await;
        }
        while self.expire_pending_batch(closed_before, now).await? == BATCH as usize {}
        Ok(())
    }

    /// Expires a batch of attachments, and queues their blobs, which a crash may have left, for
    /// deletion.
    async fn expire_pending_batch(
        &self,
        closed_before: Timestamp,
        now: Timestamp,
    ) -> Result<usize, Error> {
        self.db
            .transaction(Holder::Background, async move |db: &mut Connection| {
                let overdue = table::expire_overdue(db, closed_before, now, BATCH).await?;
                for attachment in &overdue {
                    let key = attachment.uploaded_key().to_string();
                    blob_deletions::enqueue(db, &key, now, now).await?;
                }
                Ok(overdue.len())
            })
            .await
    }

    /// Finalizes the direct uploads of overdue attachments, and expires those that have none.
    async fn finalize_overdue(
        self: &Arc<Self>,
        closed_before: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut after = None;
        loop {
            let mut db = self.db.read(Holder::Background).await?;
            let overdue = table::find_overdue(&mut db, closed_before, after, BATCH).await?;
            drop(db);
            let Some(last) = overdue.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for attachment in overdue {
                self.finalize_or_expire(attachment, now).await?;
            }
        }
    }

    async fn finalize_or_expire(
        self: &Arc<Self>,
        attachment: Attachment,
        now: Timestamp,
    ) -> Result<(), Error> {
        // No sweep has run for longer than an ephemeral file may exist.
        if attachment.is_expired(now) {
            return self.expire_one(attachment, now).await;
        }
        let (partner, id) = (attachment.partner_id, attachment.id);
        match self.finalize_detached(partner, id).await {
            Ok(Some(attachment)) if attachment.state == UploadState::Pending => {
                self.expire_one(attachment, now).await
            }
            Ok(_) => Ok(()),
            // The others would fail as well, each after a timeout.
            Err(Error::Blob(error)) if error.is_transient() => Err(error.into()),
            Err(error) => {
                tracing::error!(attachment = %id, %error, "cannot finalize direct upload; will be retried");
                Ok(())
            }
        }
    }

    async fn expire_one(&self, attachment: Attachment, now: Timestamp) -> Result<(), Error> {
        let direct_uploads = self.direct_uploads();
        let write = self
            .db
            .transaction(Holder::Background, async move |db: &mut Connection| {
                if table::expire_pending(db, attachment.id, now).await? {
                    // A crash may have left it.
                    let key = attachment.uploaded_key().to_string();
                    blob_deletions::enqueue(db, &key, now, now).await?;
                    direct_uploads
                        .enqueue_deletion(db, &attachment, now)
                        .await?;
                }
                Ok::<_, Error>(())
            });
        write.await
    }

    /// Processes the deletion queue. An entry that fails, or that another server has leased, is
    /// rescheduled.
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

    /// Deletes what an entry of the deletion queue names. Returns false if another server holds the
    /// lease or the deletion was cancelled.
    async fn delete_queued(&self, key: String) -> Result<bool, Error> {
        match (
            DirectUploads::parse_deletion_key(&key),
            BlobKey::parse(&key),
        ) {
            (Some(upload), _) => self.delete_closed_upload(upload, key).await?,
            (None, Some(blob)) => {
                return self.delete_if_unreferenced(Holder::Background, &blob).await;
            }
            // Not a valid key: drop the entry.
            (None, None) => self.complete_deletion(Holder::Background, key).await?,
        }
        Ok(true)
    }
}
