//! What is tidied up in the background: attachments whose upload never came, ephemeral ones whose time is over, blobs
//! that nothing names any more, and rows that are older than they are kept: sends that the rate limit counted, URLs that
//! were fetched, audit records, and answers under idempotency keys.

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

/// How often to look.
const EVERY: Duration = Duration::from_secs(30);
/// Rows dealt with in one transaction: bounds how long other writes wait.
pub(super) const BATCH: u32 = 500;
/// The same of expired attachments, each of which takes several statements.
const EXPIRED_AT_ONCE: u32 = 100;
/// When a removal is tried again.
const PUT_OFF: Duration = Duration::from_mins(1);
/// Their files removed at a time: the store may be far away.
const REMOVED_AT_ONCE: usize = 8;

impl Service {
    /// Sweeps from time to time, for ever.
    pub async fn sweep_forever(self: Arc<Self>) {
        loop {
            if let Err(error) = self.sweep().await {
                tracing::error!(%error, "sweeping failed; it will be tried again");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Sweeps once. What fails keeps nothing else from being done.
    ///
    /// # Errors
    /// The first failure of database or store; what was done stays done.
    pub async fn sweep(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.clock.now();
        let counted = self.count_outbox().await;
        let expired = self.expire(now).await;
        let looked = self.give_up_overdue(now).await;
        // Those that were given up only now.
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
        // An upload that began in the last moment of its window may still be running.
        let closed_before = now - self.limits.longest_upload();
        if self.blobs.bucket().is_some() {
            return self.look_for_overdue(closed_before, now).await;
        }
        while self.abandon(closed_before, now).await? == BATCH as usize {}
        Ok(())
    }

    /// Drops rows that are of no use any more. What fails keeps nothing else from being done.
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

    /// Removes the blobs whose removal was asked for. One that cannot be removed, or that another server is about to, is
    /// put off.
    async fn remove_blobs(&self, now: Timestamp) -> Result<(), Error> {
        loop {
            let keys = attachments::removals(&mut *self.db.read(Holder::Background).await?, now, BATCH).await?;
            let is_last = keys.len() < BATCH as usize;
            let remove = |key: String| async move {
                match self.remove_requested(key.clone()).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(%error, "a deleted file cannot be removed; it will be tried again");
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

    /// `false`: it is another's, or need not be removed any more.
    async fn remove_requested(&self, key: String) -> Result<bool, Error> {
        match (Uploads::of_removal(&key), BlobKey::parse(&key)) {
            (Some(upload), _) => self.remove_upload_for_good(upload, key).await?,
            (None, Some(blob)) => return self.remove_unnamed(Holder::Background, &blob).await,
            // No name of ours.
            (None, None) => self.forget_removal(Holder::Background, key).await?,
        }
        Ok(true)
    }

    /// Removes ephemeral attachments whose time is over by now. What fails is done by the next sweep.
    pub async fn expire_overdue(&self) {
        if let Err(error) = self.expire(self.clock.now()).await {
            tracing::error!(%error, "expired attachments cannot be removed; it will be tried again");
        }
    }

    /// Removes ephemeral attachments whose time is over, rows and bytes.
    async fn expire(&self, now: Timestamp) -> Result<(), Error> {
        // Another server on the same data may have removed the row.
        self.files.forget_gone(now);
        loop {
            let delete = self.db.write(Holder::Background, move |db| {
                Box::pin(async move { attachments::delete_expired(db, now, EXPIRED_AT_ONCE).await })
            });
            let (expired, blobs) = delete.await?;
            for attachment in &expired {
                self.files.forget(attachment.partner_id, attachment.id);
            }
            // As many as come go at once: what is left to the removals below is only what fails here.
            let remove = |blob| async move {
                if let Err(error) = self.remove_blob(Holder::Background, &blob).await {
                    tracing::error!(%error, "an expired file cannot be removed; it will be tried again");
                }
            };
            stream::iter(blobs).for_each_concurrent(REMOVED_AT_ONCE, remove).await;
            if expired.len() < EXPIRED_AT_ONCE as usize {
                return Ok(());
            }
        }
    }

    /// Gives up a batch of overdue attachments and asks for their blobs, which a crash may have left, to be removed.
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

    /// The same unless an attachment came to name it after its removal was asked for. `false`: that, or it is another's.
    pub(super) async fn remove_unnamed(&self, holder: Holder, key: &BlobKey) -> Result<bool, Error> {
        let claimed = self.claim_removal(holder, key.clone(), self.clock.now()).await?;
        if claimed {
            self.remove_blob(holder, key).await?;
        }
        Ok(claimed)
    }

    /// Removes a blob whose removal was asked for, and then the asking.
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
