//! Delivers the messages in the outbox: leases a batch, hands each message to the gateway, and
//! records the outcome.
//!
//! Delivery is at-least-once. A lease expires after a fixed time; if the process crashes, this or
//! another server then leases the message again. If the crash happened between the start of a
//! hand-off and the commit of its outcome, it is unknown whether the gateway accepted the message,
//! so the gateway receives it a second time, with the same id. A hand-off starts only if the lease
//! outlasts the gateway timeout.
//!
//! A database outage does not cause a second hand-off: the worker keeps the outcome and records it
//! after the outage. By then the lease may have expired, so workers do not lease messages after an
//! outage until pending outcomes are recorded ([`DeliveryWorker::wait_for_recovery`]).

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::gateway::{Accepted, Gateway, GatewayError, OutgoingMessage, OutgoingPart};
use crate::blob::BlobStore;
use crate::clock::Clock;
use crate::db::outbox::OutboxEntry;
use crate::db::{self, Connection, Db, chats, messages, outbox};
use crate::domain::message::{DeliveryStatus, Message};
use crate::id::{ChatId, PartnerId};
use crate::metrics::Metrics;
use crate::quote::shown;

/// Maximum number of messages leased at a time.
const BATCH: u32 = 64;
/// Duration of a lease. [`GATEWAY_TIMEOUT`] and [`LEASE_RENEW_AFTER`] use up most of it; the rest
/// is the tolerated clock skew between servers that share a database.
const LEASE: Duration = Duration::from_mins(1);
/// Age from which a lease is renewed before its message is handed off.
const LEASE_RENEW_AFTER: Duration = Duration::from_secs(2);
/// Interval at which the outbox is polled for due retries and for messages left by a crash.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between attempts to record an outcome during a database outage.
const DB_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Time to wait after a database outage, so that other servers can record their outcomes: they may
/// notice up to a second later that it has ended.
const RECOVERY_GRACE: Duration = Duration::from_secs(3);
/// Number of attempts after which a message fails permanently, with code 3007.
const MAX_ATTEMPTS: u32 = 10;
/// Delay before the first retry; it doubles with each further retry (exponential backoff).
const BASE_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Maximum delay before a retry.
const MAX_RETRY_DELAY: Duration = Duration::from_mins(10);
/// Maximum duration of a gateway call. It is shorter than the lease, so that no other server leases
/// a message that may still be sent.
const GATEWAY_TIMEOUT: Duration = Duration::from_secs(50);
/// Error code for "Delivery failed".
const DELIVERY_FAILED: u16 = 4001;
/// Error code for "Delivery attempts exhausted".
const EXHAUSTED: u16 = 3007;

/// Worker that delivers the messages in the outbox.
#[derive(Clone, Debug)]
pub struct DeliveryWorker {
    pub db: Db,
    pub blobs: Arc<dyn BlobStore>,
    pub gateway: Arc<dyn Gateway>,
    pub clock: Clock,
    pub metrics: Metrics,
    /// Notification that a message was added to the outbox.
    pub filled: Arc<Notify>,
}

impl DeliveryWorker {
    /// Delivers messages until `stop` resolves, and then completes the current batch. If the
    /// process exits earlier, the batch's leases expire and its messages are handed off a second
    /// time.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let next = match self.run_batch().await {
                // The batch was full, so more messages may be due.
                Ok(count) if count == BATCH as usize => Duration::ZERO,
                Ok(_) => POLL_INTERVAL,
                Err(error) => {
                    tracing::error!(%error, "delivery batch failed; will be retried");
                    tokio::select! {
                        biased;
                        () = &mut stop => return,
                        () = self.wait_for_recovery() => Duration::ZERO,
                    }
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => return,
                _ = tokio::time::timeout(next, self.filled.notified()) => {}
            }
        }
    }

    /// Waits until the database is available, and then until other servers have recorded outcomes
    /// whose leases expired during the outage.
    async fn wait_for_recovery(&self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            if self.db.check().await.is_ok() {
                return tokio::time::sleep(RECOVERY_GRACE).await;
            }
        }
    }

    /// Delivers one batch and returns its number of messages.
    ///
    /// # Errors
    /// The database fails. The leases then expire by themselves.
    pub async fn run_batch(&self) -> Result<usize, db::Error> {
        let (now, leased) = (self.clock.now(), Instant::now());
        let lease = self.db.transaction(async move |db: &mut Connection| {
            let entries = outbox::lease(db, now, now + LEASE, BATCH).await?;
            for entry in &entries {
                messages::mark_queued(db, entry.message_id, now).await?;
            }
            Ok::<_, db::Error>(entries)
        });
        let entries = lease.await?;
        let count = entries.len();
        let chats = by_chat(entries).into_values();
        for result in join_all(chats.map(|entries| self.deliver_in_order(entries, leased))).await {
            result?;
        }
        Ok(count)
    }

    async fn deliver_in_order(
        &self,
        entries: Vec<OutboxEntry>,
        leased: Instant,
    ) -> Result<(), db::Error> {
        for entry in entries {
            match self.load_leased(entry, leased).await {
                Ok(Loaded::Message(message)) => self.deliver(entry, message).await?,
                Ok(Loaded::Nothing) => self.discard(entry).await?,
                Ok(Loaded::LeaseLost) => {}
                // Handled here, so that an unreadable message does not block those behind it.
                Err(error) => self.retry_or_fail(entry, error.to_string()).await?,
            }
        }
        Ok(())
    }

    /// Loads an outbox entry's message. Before each attempt, a lease that is not fresh is renewed:
    /// during a database outage, loading may take longer than the lease.
    async fn load_leased(&self, entry: OutboxEntry, leased: Instant) -> Result<Loaded, db::Error> {
        retry_while_unavailable(|| async move {
            if leased.elapsed() >= LEASE_RENEW_AFTER && !self.renew(entry).await? {
                return Ok(Loaded::LeaseLost);
            }
            Ok(match self.load(entry).await? {
                Some(message) => Loaded::Message(message),
                None => Loaded::Nothing,
            })
        })
        .await
    }

    /// Renews an entry's lease. Returns false if another server now holds it.
    async fn renew(&self, entry: OutboxEntry) -> Result<bool, db::Error> {
        let until = self.clock.now() + LEASE;
        self.db
            .transaction(async move |db: &mut Connection| outbox::renew(db, entry, until).await)
            .await
    }

    async fn deliver(&self, entry: OutboxEntry, message: OutgoingMessage) -> Result<(), db::Error> {
        if entry.attempt == 1 {
            self.metrics.message(DeliveryStatus::Queued.as_str());
        }
        if message.parts.is_empty() {
            return self
                .fail(
                    entry,
                    DELIVERY_FAILED,
                    "all its attachments were deleted before it was sent".to_owned(),
                )
                .await;
        }
        match self.send_to_gateway(&message).await {
            Ok(outcome) => self.record(entry, outcome).await,
            Err(GatewayError::Retryable(reason)) => self.retry_or_fail(entry, reason).await,
            Err(GatewayError::Permanent { code, reason }) => self.fail(entry, code, reason).await,
        }
    }

    /// Calls the gateway with a timeout and catches panics, so that one message cannot block the
    /// others.
    async fn send_to_gateway(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        let sending = AssertUnwindSafe(self.gateway.send(message)).catch_unwind();
        match tokio::time::timeout(GATEWAY_TIMEOUT, sending).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(GatewayError::Retryable("the gateway panicked".to_owned())),
            Err(_) => Err(GatewayError::Retryable(
                "the gateway did not answer in time".to_owned(),
            )),
        }
    }

    /// Loads an outbox entry's message. Returns `None` if there is nothing left to deliver.
    async fn load(&self, entry: OutboxEntry) -> Result<Option<OutgoingMessage>, db::Error> {
        let mut db = self.db.read().await?;
        let Some((partner, message)) =
            messages::find_for_delivery(&mut db, entry.message_id).await?
        else {
            return Ok(None);
        };
        self.outgoing(&mut db, partner, message).await
    }

    async fn outgoing(
        &self,
        db: &mut Connection,
        partner: PartnerId,
        message: Message,
    ) -> Result<Option<OutgoingMessage>, db::Error> {
        let Some(chat) = chats::find(db, partner, message.chat_id).await? else {
            return Ok(None);
        };
        Ok(Some(OutgoingMessage {
            id: message.id,
            from: chat.line.to_string(),
            to: chat
                .others()
                .map(|participant| participant.handle.clone())
                .collect(),
            voice_memo: message.voice_memo,
            parts: message
                .parts
                .iter()
                .filter_map(|part| OutgoingPart::new(part, &self.blobs))
                .collect(),
            effect: message.effect,
            reply_to: message.reply_to,
            preferred_service: message.preferred_service,
        }))
    }

    /// Records an accepted message as sent or delivered. If the gateway reports both at once, sent
    /// and delivered are still two updates, each with a timestamp. The last update and the deletion
    /// of the outbox entry share a transaction.
    async fn record(&self, entry: OutboxEntry, outcome: Accepted) -> Result<(), db::Error> {
        let (Accepted::Sent(service) | Accepted::Delivered(service)) = outcome;
        let (now, last) = (self.clock.now(), matches!(outcome, Accepted::Sent(_)));
        retry_while_unavailable(|| {
            self.db.transaction(async move |db: &mut Connection| {
                messages::mark_sent(db, entry.message_id, service, now).await?;
                if last {
                    outbox::complete(db, entry).await?;
                }
                Ok::<_, db::Error>(())
            })
        })
        .await?;
        self.metrics.message(DeliveryStatus::Sent.as_str());
        if last {
            return Ok(());
        }
        let now = self.clock.now();
        retry_while_unavailable(|| {
            self.db.transaction(async move |db: &mut Connection| {
                messages::mark_delivered(db, entry.message_id, now).await?;
                outbox::complete(db, entry).await
            })
        })
        .await?;
        self.metrics.message(DeliveryStatus::Delivered.as_str());
        Ok(())
    }

    async fn retry_or_fail(&self, entry: OutboxEntry, reason: String) -> Result<(), db::Error> {
        if entry.attempt < MAX_ATTEMPTS {
            self.retry(entry, &reason).await
        } else {
            self.fail(entry, EXHAUSTED, reason).await
        }
    }

    async fn retry(&self, entry: OutboxEntry, reason: &str) -> Result<(), db::Error> {
        let wait = BASE_RETRY_DELAY
            .saturating_mul(1 << entry.attempt.saturating_sub(1).min(16))
            .min(MAX_RETRY_DELAY);
        let reason = shown(reason);
        tracing::warn!(message_id = %entry.message_id, attempt = entry.attempt, %reason, ?wait, "delivery failed; will be retried");
        let at = self.clock.now() + wait;
        retry_while_unavailable(|| {
            self.db
                .transaction(async move |db: &mut Connection| outbox::retry(db, entry, at).await)
        })
        .await
    }

    async fn fail(&self, entry: OutboxEntry, code: u16, reason: String) -> Result<(), db::Error> {
        tracing::warn!(message_id = %entry.message_id, code, reason = %shown(&reason), "delivery failed permanently");
        let now = self.clock.now();
        retry_while_unavailable(|| {
            let reason = reason.clone();
            self.db.transaction(async move |db: &mut Connection| {
                // The message fails only if this server still holds the lease: another server's
                // attempt may have succeeded.
                if outbox::complete(db, entry).await? {
                    messages::mark_failed(db, entry.message_id, code, &reason, now).await?;
                }
                Ok::<_, db::Error>(())
            })
        })
        .await?;
        self.metrics.message(DeliveryStatus::Failed.as_str());
        Ok(())
    }

    async fn discard(&self, entry: OutboxEntry) -> Result<(), db::Error> {
        self.db
            .transaction(async move |db: &mut Connection| outbox::complete(db, entry).await)
            .await
            .map(drop)
    }
}

/// Result of loading an outbox entry's message.
enum Loaded {
    Message(OutgoingMessage),
    /// The message no longer exists, or was already handed off.
    Nothing,
    /// Another server holds the lease.
    LeaseLost,
}

/// Repeats an idempotent operation until the database is available.
async fn retry_while_unavailable<T, F>(operation: impl FnMut() -> F) -> Result<T, db::Error>
where
    F: Future<Output = Result<T, db::Error>>,
{
    let backoff = ConstantBuilder::new()
        .with_delay(DB_RETRY_INTERVAL)
        .without_max_times();
    operation
        .retry(backoff)
        .when(db::Error::is_transient)
        .notify(|error, _| tracing::warn!(%error, "database unavailable; delivery is waiting"))
        .await
}

/// Groups outbox entries by chat. Messages in one chat are delivered one after the other, in the
/// order in which they were accepted; chats are delivered concurrently.
fn by_chat(entries: Vec<OutboxEntry>) -> HashMap<ChatId, Vec<OutboxEntry>> {
    let mut chats: HashMap<ChatId, Vec<OutboxEntry>> = HashMap::new();
    for entry in entries {
        chats.entry(entry.chat_id).or_default().push(entry);
    }
    chats
}
