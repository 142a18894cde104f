//! Expires pending attachments, as a background task.

use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt;

use super::{Attachments, Error};
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::{Connection, attachments as table, blob_deletions, keyset};
use crate::domain::attachment::{Attachment, UploadState};

/// Maximum number of attachments per transaction or page; limits how long other writes wait.
const BATCH: u32 = 500;

impl Attachments {
    /// Expires pending attachments whose upload URL is no longer accepted. If a direct upload was
    /// completed in time but never used, it is finalized instead.
    ///
    /// # Errors
    /// The database or the store fails.
    pub(crate) async fn expire_pending(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.clock.now();
        // An upload that started just before its URL expired may still be running.
        let closed_before = now - self.config.max_upload_duration();
        if self.blobs.bucket().is_some() {
            return self.finalize_overdue(closed_before, now).await;
        }
        while self.expire_pending_batch(closed_before, now).await? == BATCH as usize {}
        Ok(())
    }

    /// Expires a batch of attachments and queues their blobs for deletion: an upload interrupted by
    /// a crash may have left some.
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
        let fetch = |after| async move {
            let mut db = self.db.read(Holder::Background).await?;
            table::find_overdue(&mut db, closed_before, after, BATCH).await
        };
        let mut pages = pin!(keyset::pages(
            |attachment: &Attachment| attachment.id,
            fetch
        ));
        while let Some(overdue) = pages.try_next().await? {
            for attachment in overdue {
                self.finalize_or_expire(attachment, now).await?;
            }
        }
        Ok(())
    }

    async fn finalize_or_expire(
        self: &Arc<Self>,
        attachment: Attachment,
        now: Timestamp,
    ) -> Result<(), Error> {
        // The upload was never finalized within the lifetime of an ephemeral file, so it is expired
        // already.
        if attachment.is_expired(now) {
            return self.expire_one(attachment, now).await;
        }
        let (partner, id) = (attachment.partner_id, attachment.id);
        match self.finalize_detached(partner, id).await {
            Ok(Some(attachment)) if attachment.state == UploadState::Pending => {
                self.expire_one(attachment, now).await
            }
            Ok(_) => Ok(()),
            // The store is unavailable: the remaining uploads would fail as well, each after a
            // timeout.
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
                    // A crash during an earlier attempt may have left this object.
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
}
