//! Background cleanup: expires pending and ephemeral attachments, deletes unreferenced blobs, and prunes rows past
//! their retention: sends counted by the rate limit, fetched URLs, audit records, and answers under idempotency
//! keys.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::arrivals::Uploads;
use super::database::Holder;
use super::{Error, Service};
use crate::blob::BlobKey;
use crate::clock::Timestamp;
use crate::db::{self, Connection, attachments, fetched_urls, idempotency, outbox, rates};

/// Interval between sweeps.
const EVERY: Duration = Duration::from_secs(30);
/// Maximum number of rows changed per transaction: bounds how long other writes wait.
pub(super) const BATCH: u32 = 500;
/// Maximum number of expired attachments per transaction. Each takes several statements.
const EXPIRED_AT_ONCE: u32 = 100;
/// Delay before a failed deletion is retried.
const PUT_OFF: Duration = Duration::from_mins(1);
/// Number of blobs deleted concurrently: round trips to a remote store may be slow.
const REMOVED_AT_ONCE: usize = 8;

impl Service {
    /// Sweeps at regular intervals; never returns.
    pub async fn sweep_forever(self: Arc<Self>) {
        loop {
            if let Err(error) = self.sweep().await {
                tracing::error!(%error, "sweep failed; will be retried");
            }
            tokio::time::sleep(EVERY).await;
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
        let looked = self.give_up_overdue(now).await;
        // Again, for attachments that the overdue check has just set to expired.
        let expired = expired.and(self.expire(now).await);
        let forgotten = self.forget_old(now).await;
        let removed = self.remove_blobs(now).await;
        counted.and(expired).and(looked).and(forgotten).and(removed)
    }

    async fn count_outbox(&self) -> Result<(), Error> {
        let waiting = outbox::count(&mut *self.db.read(Holder::Background).await?).await?;
        self.metrics.outbox.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        Ok(())
    }

    async fn give_up_overdue(self: &Arc<Self>, now: Timestamp) -> Result<(), Error> {
        // An upload that started just before its window closed may still be running.
        let closed_before = now - self.limits.longest_upload();
        if self.blobs.bucket().is_some() {
            return self.look_for_overdue(closed_before, now).await;
        }
        while self.abandon(closed_before, now).await? == BATCH as usize {}
        Ok(())
    }

    /// Prunes rows past their retention. A failure does not keep the other tables from being pruned.
    async fn forget_old(&self, now: Timestamp) -> Result<(), Error> {
        let limits = &self.limits;
        let given_up = Some(Duration::from_secs(limits.abandoned_retention_seconds));
        let counted = Some(Duration::from_secs(limits.rate_limit_window_seconds));
        let fetched = Some(Duration::from_secs(limits.fetch_memory_seconds));
        let done = [
            self.purge(now, given_up, |db, at| Box::pin(attachments::purge_abandoned(db, at, BATCH))).await,
            self.purge(now, counted, |db, at| Box::pin(rates::forget_before(db, at, BATCH))).await,
            self.purge(now, fetched, |db, at| Box::pin(fetched_urls::forget_before(db, at, BATCH))).await,
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
        let Some(retention) = retention else { return Ok(()) };
        let before = now - retention;
        while self.db.write(Holder::Background, move |db| batch(db, before)).await? >= u64::from(BATCH) {}
        Ok(())
    }

    /// Processes the deletion queue. An entry that fails, or that another server has leased, is rescheduled.
    async fn remove_blobs(&self, now: Timestamp) -> Result<(), Error> {
        loop {
            let keys = attachments::removals(&mut *self.db.read(Holder::Background).await?, now, BATCH).await?;
            let is_last = keys.len() < BATCH as usize;
            let remove = |key: String| async move {
                match self.remove_requested(key.clone()).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(blob = key.split(' ').next(), %error, "cannot delete blob; will be retried");
                    }
                }
                let until = now + PUT_OFF;
                let put_off = self.db.write(Holder::Background, move |db| {
                    Box::pin(async move { attachments::put_off_removal(db, &key, until).await })
                });
                put_off.await
            };
            stream::iter(keys).map(Ok).try_for_each_concurrent(REMOVED_AT_ONCE, remove).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Processes a queued deletion. Returns false if another server holds the lease or the deletion was
    /// cancelled.
    async fn remove_requested(&self, key: String) -> Result<bool, Error> {
        match (Uploads::of_removal(&key), BlobKey::parse(&key)) {
            (Some(upload), _) => self.remove_upload_for_good(upload, key).await?,
            (None, Some(blob)) => return self.remove_unnamed(Holder::Background, &blob).await,
            // Not a valid key: drop the entry.
            (None, None) => self.forget_removal(Holder::Background, key).await?,
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
        self.files.forget_gone(now);
        loop {
            let delete = self.db.write(Holder::Background, move |db| {
                Box::pin(async move { attachments::delete_expired(db, now, EXPIRED_AT_ONCE).await })
            });
            let (expired, blobs) = delete.await?;
            for attachment in &expired {
                self.files.forget(attachment.partner_id, attachment.id);
            }
            // Deletes the blobs immediately, however many: only failures are left to the deletion queue.
            let remove = |blob| async move {
                if let Err(error) = self.remove_blob(Holder::Background, &blob).await {
                    tracing::error!(blob = %blob.id(), %error, "cannot delete expired blob; will be retried");
                }
            };
            stream::iter(blobs).for_each_concurrent(REMOVED_AT_ONCE, remove).await;
            if expired.len() < EXPIRED_AT_ONCE as usize {
                return Ok(());
            }
        }
    }

    /// Sets a batch of overdue attachments to expired and queues their blobs, which a crash may have left,
    /// for deletion.
    async fn abandon(&self, closed_before: Timestamp, now: Timestamp) -> Result<usize, Error> {
        self.db
            .write(Holder::Background, move |db| {
                Box::pin(async move {
                    let overdue = attachments::abandon_overdue(db, closed_before, now, BATCH).await?;
                    for attachment in &overdue {
                        let key = attachment.uploaded_key().to_string();
                        attachments::request_removal(db, &key, now, now).await?;
                    }
                    Ok(overdue.len())
                })
            })
            .await
    }

    /// Deletes a blob from the deletion queue. Returns false if another server holds the lease or an
    /// attachment now references the blob.
    pub(super) async fn remove_unnamed(&self, holder: Holder, key: &BlobKey) -> Result<bool, Error> {
        let claimed = self.claim_removal(holder, key.clone(), self.clock.now()).await?;
        if claimed {
            self.remove_blob(holder, key).await?;
        }
        Ok(claimed)
    }

    /// Deletes a blob, then its queue entry.
    pub(super) async fn remove_blob(&self, holder: Holder, key: &BlobKey) -> Result<(), Error> {
        self.blobs.remove(key).await?;
        self.forget_removal(holder, key.to_string()).await
    }

    async fn claim_removal(&self, holder: Holder, blob: BlobKey, now: Timestamp) -> Result<bool, Error> {
        let claim =
            self.db.write(holder, move |db| Box::pin(async move { attachments::claim_removal(db, &blob, now).await }));
        Ok(claim.await?)
    }

    pub(super) async fn forget_removal(&self, holder: Holder, key: String) -> Result<(), Error> {
        self.db.write(holder, move |db| Box::pin(async move { attachments::removal_done(db, &key).await })).await?;
        Ok(())
    }
}
