//! The outbox worker: claim, hand over, record.
//!
//! A claim lasts a while; if the process dies in between, this server or another hands the message over again after that.
//! So a gateway can get a message twice, under the same id, if the process died between the start of its hand-over and the
//! recording of the outcome: nobody knows then whether the gateway took it. A hand-over begins only while the claim lasts
//! longer than it may take.
//!
//! A database that goes away in between makes no second hand-over: what the gateway answered is recorded when the database
//! is back. Claims may be over by then, so nobody claims anything before those who have something to record did that
//! ([`Worker::recover`]).

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::gateway::{Failure, Gateway, Outcome, OutgoingMessage, OutgoingPart};
use crate::blob::BlobStore;
use crate::clock::Clock;
use crate::db::outbox::Job;
use crate::db::{self, Db, chats, messages, outbox};
use crate::domain::message::{DeliveryStatus, Message};
use crate::id::{ChatId, PartnerId};
use crate::metrics::Metrics;
use crate::quote::shown;

/// Messages handed over at a time.
const BATCH: u32 = 64;
/// How long a claim lasts. The clocks of servers that share a database may differ by what is left of it after
/// [`PATIENCE`] and [`FRESH`].
const LEASE: Duration = Duration::from_mins(1);
/// A claim that is older is made to last anew before its message is handed over.
const FRESH: Duration = Duration::from_secs(2);
/// How often to look without being told: for retries, and for what a crash left.
const POLL: Duration = Duration::from_secs(1);
/// How often to try to record what the gateway answered while the database is away.
const INSIST: Duration = Duration::from_millis(200);
/// How long others get for that once it is back: they may notice a second later.
const OTHERS_FIRST: Duration = Duration::from_secs(3);
/// Attempts until a message fails for good, with code 3007.
const MAX_ATTEMPTS: u32 = 10;
/// Wait after the first failure; doubled after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_RETRY: Duration = Duration::from_mins(10);
/// How long the gateway may take: less than a claim lasts, so that nobody else takes up what it still may send.
const PATIENCE: Duration = Duration::from_secs(50);
/// "Delivery failed".
const DELIVERY_FAILED: u16 = 4001;
/// "Delivery attempts exhausted".
const EXHAUSTED: u16 = 3007;

/// The worker.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The database.
    pub db: Db,
    /// The bytes of parts.
    pub blobs: Arc<dyn BlobStore>,
    /// The carrier.
    pub gateway: Arc<dyn Gateway>,
    /// The time.
    pub clock: Clock,
    /// Where states are counted.
    pub metrics: Metrics,
    /// Told when the outbox was filled.
    pub filled: Arc<Notify>,
}

impl Worker {
    /// Works until `stop`, and then ends what it has begun: what is cut off is handed over again.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let next = match self.work().await {
                // A full batch: there may be more.
                Ok(count) if count == BATCH as usize => Duration::ZERO,
                Ok(_) => POLL,
                Err(error) => {
                    tracing::error!(%error, "delivery failed; it will be tried again");
                    tokio::select! {
                        biased;
                        () = &mut stop => return,
                        () = self.recover() => Duration::ZERO,
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

    /// Waits until the database answers, and then for others who were waiting for it: they know what became of messages
    /// whose claims ended meanwhile.
    async fn recover(&self) {
        loop {
            tokio::time::sleep(POLL).await;
            if self.db.check().await.is_ok() {
                return tokio::time::sleep(OTHERS_FIRST).await;
            }
        }
    }

    /// Deals with one batch; says how many messages it had.
    ///
    /// # Errors
    /// The database fails; the claims end by themselves.
    pub async fn work(&self) -> Result<usize, db::Error> {
        let (now, claimed) = (self.clock.now(), Instant::now());
        let jobs = self
            .db
            .write(move |db| {
                Box::pin(async move {
                    let jobs = outbox::claim(db, now, now + LEASE, BATCH).await?;
                    for job in &jobs {
                        messages::mark_queued(db, job.message_id, now).await?;
                    }
                    Ok::<_, db::Error>(jobs)
                })
            })
            .await?;
        let count = jobs.len();
        for result in join_all(by_chat(jobs).into_values().map(|jobs| self.deliver_in_order(jobs, claimed))).await {
            result?;
        }
        Ok(count)
    }

    async fn deliver_in_order(&self, jobs: Vec<Job>, claimed: Instant) -> Result<(), db::Error> {
        for job in jobs {
            // The claim must be fresh once the message is loaded, however long the database was away for that.
            while claimed.elapsed() < FRESH || self.extend(job).await? {
                match self.load(job).await {
                    Err(error) if error.is_unavailable() => pause(&error).await,
                    // One that cannot be read must not keep those behind it from theirs.
                    Err(error) => {
                        self.give_up_for_now(job, error.to_string()).await?;
                        break;
                    }
                    Ok(message) => {
                        self.deliver(job, message).await?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// `false`: another server has the job by now.
    async fn extend(&self, job: Job) -> Result<bool, db::Error> {
        insist(|| {
            let until = self.clock.now() + LEASE;
            self.db.write(move |db| Box::pin(async move { outbox::extend(db, job, until).await }))
        })
        .await
    }

    async fn deliver(&self, job: Job, message: Option<OutgoingMessage>) -> Result<(), db::Error> {
        let Some(message) = message else {
            return self.finish(job).await;
        };
        if job.attempt == 1 {
            self.metrics.message(DeliveryStatus::Queued.as_str());
        }
        if message.parts.is_empty() {
            return self
                .fail(job, DELIVERY_FAILED, "all its attachments were deleted before it was sent".to_owned())
                .await;
        }
        match self.hand_over(&message).await {
            Ok(outcome) => self.record(job, outcome).await,
            Err(Failure::Temporary(reason)) => self.give_up_for_now(job, reason).await,
            Err(Failure::Permanent { code, reason }) => self.fail(job, code, reason).await,
        }
    }

    /// A gateway that hangs or panics on one message must not keep others from theirs.
    async fn hand_over(&self, message: &OutgoingMessage) -> Result<Outcome, Failure> {
        let sending = AssertUnwindSafe(self.gateway.send(message)).catch_unwind();
        match tokio::time::timeout(PATIENCE, sending).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failure::Temporary("the gateway panicked".to_owned())),
            Err(_) => Err(Failure::Temporary("the gateway did not answer in time".to_owned())),
        }
    }

    /// The message of a job; `None` if it is not there, so that there is nothing to do.
    async fn load(&self, job: Job) -> Result<Option<OutgoingMessage>, db::Error> {
        let mut db = self.db.read().await?;
        let Some((partner, message)) = messages::find_for_delivery(&mut db, job.message_id).await? else {
            return Ok(None);
        };
        self.outgoing(&mut db, partner, message).await
    }

    async fn outgoing(
        &self,
        db: &mut db::Connection,
        partner: PartnerId,
        message: Message,
    ) -> Result<Option<OutgoingMessage>, db::Error> {
        let Some(chat) = chats::find(db, partner, message.chat_id).await? else { return Ok(None) };
        Ok(Some(OutgoingMessage {
            id: message.id,
            from: chat.line.to_string(),
            to: chat.others().map(|participant| participant.handle.clone()).collect(),
            voice_memo: message.voice_memo,
            parts: message.parts.iter().filter_map(|part| OutgoingPart::new(part, &self.blobs)).collect(),
            effect: message.effect,
            reply_to: message.reply_to,
            preferred_service: message.preferred_service,
        }))
    }

    /// Sent and delivered are two changes, each with its own time, even when the gateway reports both at once. The last
    /// one is recorded together with the end of the job.
    async fn record(&self, job: Job, outcome: Outcome) -> Result<(), db::Error> {
        let (Outcome::Sent(service) | Outcome::Delivered(service)) = outcome;
        let (now, last) = (self.clock.now(), matches!(outcome, Outcome::Sent(_)));
        insist(|| {
            self.db.write(move |db| {
                Box::pin(async move {
                    messages::mark_sent(db, job.message_id, service, now).await?;
                    if last { outbox::done(db, job.id).await } else { Ok(()) }
                })
            })
        })
        .await?;
        self.metrics.message(DeliveryStatus::Sent.as_str());
        if last {
            return Ok(());
        }
        let now = self.clock.now();
        insist(|| {
            self.db.write(move |db| {
                Box::pin(async move {
                    messages::mark_delivered(db, job.message_id, now).await?;
                    outbox::done(db, job.id).await
                })
            })
        })
        .await?;
        self.metrics.message(DeliveryStatus::Delivered.as_str());
        Ok(())
    }

    async fn give_up_for_now(&self, job: Job, reason: String) -> Result<(), db::Error> {
        if job.attempt < MAX_ATTEMPTS {
            self.retry(job, &reason).await
        } else {
            self.fail(job, EXHAUSTED, reason).await
        }
    }

    async fn retry(&self, job: Job, reason: &str) -> Result<(), db::Error> {
        let wait = FIRST_RETRY.saturating_mul(1 << job.attempt.saturating_sub(1).min(16)).min(LONGEST_RETRY);
        let told = shown(reason);
        tracing::warn!(message_id = %job.message_id, attempt = job.attempt, reason = %told, ?wait, "delivery will be tried again");
        let at = self.clock.now() + wait;
        insist(|| self.db.write(move |db| Box::pin(async move { outbox::retry(db, job, at).await }))).await
    }

    async fn fail(&self, job: Job, code: u16, reason: String) -> Result<(), db::Error> {
        tracing::warn!(message_id = %job.message_id, code, reason = %shown(&reason), "delivery failed for good");
        let now = self.clock.now();
        insist(|| {
            let reason = reason.clone();
            self.db.write(move |db| {
                Box::pin(async move {
                    // Unless another server has it by now, which may have had more luck.
                    if outbox::give_up(db, job).await? {
                        messages::mark_failed(db, job.message_id, code, &reason, now).await?;
                    }
                    Ok::<_, db::Error>(())
                })
            })
        })
        .await?;
        self.metrics.message(DeliveryStatus::Failed.as_str());
        Ok(())
    }

    async fn finish(&self, job: Job) -> Result<(), db::Error> {
        self.db.write(move |db| Box::pin(async move { outbox::done(db, job.id).await })).await
    }
}

/// Does what can be done twice, again and again while the database is away.
async fn insist<T, F: Future<Output = Result<T, db::Error>>>(mut work: impl FnMut() -> F) -> Result<T, db::Error> {
    loop {
        match work().await {
            Err(error) if error.is_unavailable() => pause(&error).await,
            done => return done,
        }
    }
}

async fn pause(error: &db::Error) {
    tracing::warn!(%error, "delivery waits for the database");
    tokio::time::sleep(INSIST).await;
}

/// The messages of one chat go one after the other, in the order they were accepted; chats do not wait for each other.
fn by_chat(jobs: Vec<Job>) -> HashMap<ChatId, Vec<Job>> {
    let mut chats: HashMap<ChatId, Vec<Job>> = HashMap::new();
    for job in jobs {
        chats.entry(job.chat_id).or_default().push(job);
    }
    chats
}
