//! Background cleanup: expires pending and ephemeral attachments, deletes unreferenced blobs, and prunes rows past
//! their retention: sends counted by the rate limit, fetched URLs, audit records, and answers under idempotency
//! keys.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::attachments::direct_uploads::StagedUploads;
use crate::blob::BlobKey;
use crate::clock::Timestamp;
use crate::db::{self, Connection, attachments, fetched_urls, idempotency, outbox, recent_sends};
use crate::service::database::Holder;
use crate::service::{Error, Service};

/// Interval between sweeps.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of rows changed per transaction: bounds how long other writes wait.
pub(crate) const BATCH: u32 = 500;
/// Maximum number of expired attachments per transaction. Each takes several statements.
const EXPIRE_BATCH: u32 = 100;
/// Delay before a failed deletion is retried.
const RETRY_DELAY: Duration = Duration::from_mins(1);
/// Number of blobs deleted concurrently: round trips to a remote store may be slow.
const DELETE_CONCURRENCY: usize = 8;

impl Service {
    /// Sweeps at regular intervals; never returns.
    pub async fn sweep_forever(self: Arc<Self>) {
        loop {
            if let Err(error) = self.sweep().await {
                tracing::error!(%error, "sweep failed; will be retried");
            }
            tokio::time::sleep(SWEEP_INTERVAL).await;
        }
    }

    /// Sweeps once. A failure in one task does not prevent the others.
    ///
    /// # Errors
    /// The first failure of the database or store; completed tasks are not undone.
    pub async fn sweep(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.clock.now();
        let counted = self.count_outbox().await;
        let expired = self.expire(now).await;
        let looked = self.expire_pending_uploads(now).await;
        // Again, for attachments that the overdue check has just set to expired.
        let expired = expired.and(self.expire(now).await);
        let forgotten = self.forget_old(now).await;
        let removed = self.remove_blobs(now).await;
        counted.and(expired).and(looked).and(forgotten).and(removed)
    }

    async fn count_outbox(&self) -> Result<(), Error> {
        let waiting = outbox::count(&mut *self.db.read(Holder::Background).await?).await?;
        self.metrics
            .outbox
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
        Ok(())
    }

    async fn expire_pending_uploads(self: &Arc<Self>, now: Timestamp) -> Result<(), Error> {
        // An upload that started just before its window closed may still be running.
        let closed_before = now - self.limits.longest_upload();
        if self.blobs.bucket().is_some() {
            return self.finalize_overdue(closed_before, now).await;
        }
        while self.expire_pending_batch(closed_before, now).await? == BATCH as usize {}
        Ok(())
    }

    /// Prunes rows past their retention. A failure does not keep the other tables from being pruned.
    async fn forget_old(&self, now: Timestamp) -> Result<(), Error> {
        let limits = &self.limits;
        let given_up = Some(Duration::from_secs(limits.abandoned_retention_seconds));
        let counted = Some(Duration::from_secs(limits.rate_limit_window_seconds));
        let fetched = Some(Duration::from_secs(limits.fetch_revalidate_seconds));
        let done = [
            self.purge(now, given_up, |db, at| {
                Box::pin(attachments::delete_failed(db, at, BATCH))
            })
            .await,
            self.purge(now, counted, |db, at| {
                Box::pin(recent_sends::forget_before(db, at, BATCH))
            })
            .await,
            self.purge(now, fetched, |db, at| {
                Box::pin(fetched_urls::forget_before(db, at, BATCH))
            })
            .await,
            self.purge(now, limits.audit_retention(), |db, at| {
                Box::pin(attachments::purge_audit_records(db, at, BATCH))
            })
            .await,
            self.purge(now, limits.idempotency_retention(), |db, at| {
                Box::pin(idempotency::forget_before(db, at, BATCH))
            })
            .await,
        ];
        done.into_iter().collect()
    }

    /// Drops rows that are older than `retention`, a batch in each transaction. `None` keeps them.
    async fn purge(
        &self,
        now: Timestamp,
        retention: Option<Duration>,
        batch: impl for<'c> Fn(&'c mut Connection, Timestamp) -> BoxFuture<'c, Result<u64, db::Error>>
        + Copy
        + Send
        + 'static,
    ) -> Result<(), Error> {
        let Some(retention) = retention else {
            return Ok(());
        };
        let before = now - retention;
        while self
            .db
            .write(Holder::Background, move |db| batch(db, before))
            .await?
            >= u64::from(BATCH)
        {}
        Ok(())
    }

    /// Processes the deletion queue. An entry that fails, or that another server has leased, is rescheduled.
    async fn remove_blobs(&self, now: Timestamp) -> Result<(), Error> {
        loop {
            let keys = attachments::due_deletions(
                &mut *self.db.read(Holder::Background).await?,
                now,
                BATCH,
            )
            .await?;
            let is_last = keys.len() < BATCH as usize;
            let remove = |key: String| async move {
                match self.process_deletion(key.clone()).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(blob = key.split(' ').next(), %error, "cannot delete blob; will be retried");
                    }
                }
                let until = now + RETRY_DELAY;
                let put_off = self.db.write(Holder::Background, move |db| {
                    Box::pin(async move { attachments::reschedule_deletion(db, &key, until).await })
                });
                put_off.await
            };
            stream::iter(keys)
                .map(Ok)
                .try_for_each_concurrent(DELETE_CONCURRENCY, remove)
                .await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Processes a queued deletion. Returns false if another server holds the lease or the deletion was
    /// cancelled.
    async fn process_deletion(&self, key: String) -> Result<bool, Error> {
        match (StagedUploads::from_deletion_key(&key), BlobKey::parse(&key)) {
            (Some(upload), _) => self.remove_upload_for_good(upload, key).await?,
            (None, Some(blob)) => {
                return self.delete_if_unreferenced(Holder::Background, &blob).await;
            }
            // Not a valid key: drop the entry.
            (None, None) => self.forget_deletion(Holder::Background, key).await?,
        }
        Ok(true)
    }

    /// Deletes expired ephemeral attachments. The next sweep retries after a failure.
    pub async fn expire_overdue(&self) {
        if let Err(error) = self.expire(self.clock.now()).await {
            tracing::error!(%error, "cannot delete expired attachments; will be retried");
        }
    }

    /// Deletes expired ephemeral attachments, rows and blobs.
    async fn expire(&self, now: Timestamp) -> Result<(), Error> {
        // Another server on the same database may have deleted the row already.
        self.files.drop_expired(now);
        loop {
            let delete = self.db.write(Holder::Background, move |db| {
                Box::pin(async move { attachments::delete_expired(db, now, EXPIRE_BATCH).await })
            });
            let (expired, blobs) = delete.await?;
            for attachment in &expired {
                self.files.evict(attachment.partner_id, attachment.id);
            }
            // Deletes the blobs immediately, however many: only failures are left to the deletion queue.
            let remove = |blob| async move {
                if let Err(error) = self.remove_blob(Holder::Background, &blob).await {
                    tracing::error!(blob = %blob.id(), %error, "cannot delete expired blob; will be retried");
                }
            };
            stream::iter(blobs)
                .for_each_concurrent(DELETE_CONCURRENCY, remove)
                .await;
            if expired.len() < EXPIRE_BATCH as usize {
                return Ok(());
            }
        }
    }

    /// Sets a batch of overdue attachments to expired and queues their blobs, which a crash may have left,
    /// for deletion.
    async fn expire_pending_batch(
        &self,
        closed_before: Timestamp,
        now: Timestamp,
    ) -> Result<usize, Error> {
        self.db
            .write(Holder::Background, move |db| {
                Box::pin(async move {
                    let overdue =
                        attachments::expire_pending_overdue(db, closed_before, now, BATCH).await?;
                    for attachment in &overdue {
                        let key = attachment.uploaded_key().to_string();
                        attachments::enqueue_deletion(db, &key, now, now).await?;
                    }
                    Ok(overdue.len())
                })
            })
            .await
    }

    /// Deletes a blob from the deletion queue. Returns false if another server holds the lease or an
    /// attachment now references the blob.
    pub(crate) async fn delete_if_unreferenced(
        &self,
        holder: Holder,
        key: &BlobKey,
    ) -> Result<bool, Error> {
        let claimed = self
            .lease_deletion(holder, key.clone(), self.clock.now())
            .await?;
        if claimed {
            self.remove_blob(holder, key).await?;
        }
        Ok(claimed)
    }

    /// Deletes a blob, then its queue entry.
    pub(crate) async fn remove_blob(&self, holder: Holder, key: &BlobKey) -> Result<(), Error> {
        self.blobs.remove(key).await?;
        self.forget_deletion(holder, key.to_string()).await
    }

    async fn lease_deletion(
        &self,
        holder: Holder,
        blob: BlobKey,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let claim = self.db.write(holder, move |db| {
            Box::pin(async move { attachments::lease_deletion(db, &blob, now).await })
        });
        Ok(claim.await?)
    }

    pub(crate) async fn forget_deletion(&self, holder: Holder, key: String) -> Result<(), Error> {
        self.db
            .write(holder, move |db| {
                Box::pin(async move { attachments::complete_deletion(db, &key).await })
            })
            .await?;
        Ok(())
    }
}
