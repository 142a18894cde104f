//! The outbox: messages to hand to the gateway. An entry is inserted by the transaction that accepts its
//! message, and deleted by the one that records its outcome (transactional outbox).
//!
//! Several servers may lease entries. Leasing is serialised by an advisory lock, so that each server sees the
//! leases of the others: the messages of one chat are never leased by two servers at once. The attempt number
//! is a fencing token that identifies the latest lease.

use super::row::{integer, parsed, size};
use super::{Connection, Engine, Error, locks};
use crate::clock::Timestamp;
use crate::id::{ChatId, JobId, MessageId};

/// A leased entry.
#[derive(Clone, Copy, Debug)]
pub struct OutboxEntry {
    pub id: JobId,
    pub message_id: MessageId,
    pub chat_id: ChatId,
    /// Attempt number, from 1; the fencing token of the lease.
    pub attempt: u32,
}

pub async fn insert(
    db: &mut Connection,
    chat: ChatId,
    message: MessageId,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("INSERT INTO outbox (id, chat_id, message_id, available_at, attempts, created_at) VALUES ($1, $2, $3, $4, 0, $4)")
        .bind(JobId::new().to_string())
        .bind(chat.to_string())
        .bind(message.to_string())
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Selects the oldest due entries of chats without a lease.
macro_rules! claim {
    ($locking:literal) => {
        concat!(
            "UPDATE outbox SET claimed_until = $1, attempts = attempts + 1 WHERE id IN \
             (SELECT id FROM outbox AS due WHERE available_at <= $2 AND NOT EXISTS \
             (SELECT 1 FROM outbox AS claimed WHERE claimed.chat_id = due.chat_id AND claimed.claimed_until > $2) \
             ORDER BY id LIMIT $3",
            $locking,
            ") RETURNING id, message_id, chat_id, attempts"
        )
    };
}

/// Leases the oldest due entries until `until`; no other server can lease them before.
pub async fn claim(
    db: &mut Connection,
    now: Timestamp,
    until: Timestamp,
    limit: u32,
) -> Result<Vec<OutboxEntry>, Error> {
    locks::lock_names(db, &["outbox".to_owned()]).await?;
    let statement = match Engine::of_connection(db) {
        Engine::Sqlite => claim!(""),
        // Skip rows locked by another server that is recording an outcome.
        Engine::Postgres => claim!(" FOR UPDATE SKIP LOCKED"),
    };
    let rows = sqlx::query(statement)
        .bind(until.as_millis())
        .bind(now.as_millis())
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    let mut jobs = rows
        .iter()
        .map(|row| {
            Ok(OutboxEntry {
                id: parsed(row, "id", JobId::parse)?,
                message_id: parsed(row, "message_id", MessageId::parse)?,
                chat_id: parsed(row, "chat_id", ChatId::parse)?,
                attempt: u32::try_from(integer(row, "attempts")?).unwrap_or(u32::MAX),
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    jobs.sort_unstable_by_key(|job| job.id);
    Ok(jobs)
}

/// Extends a lease. Returns false if the entry is gone or another server has leased it since.
pub async fn extend(
    db: &mut Connection,
    job: OutboxEntry,
    until: Timestamp,
) -> Result<bool, Error> {
    let done = sqlx::query("UPDATE outbox SET claimed_until = $3 WHERE id = $1 AND attempts = $2")
        .bind(job.id.to_string())
        .bind(i64::from(job.attempt))
        .bind(until.as_millis())
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Releases an entry, to be retried at `at`. Has no effect if another server has leased it since.
pub async fn retry(db: &mut Connection, job: OutboxEntry, at: Timestamp) -> Result<(), Error> {
    sqlx::query(
        "UPDATE outbox SET available_at = $3, claimed_until = 0 WHERE id = $1 AND attempts = $2",
    )
    .bind(job.id.to_string())
    .bind(i64::from(job.attempt))
    .bind(at.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes an entry whose message failed. Returns false if another server has leased it since.
pub async fn give_up(db: &mut Connection, job: OutboxEntry) -> Result<bool, Error> {
    let done = sqlx::query("DELETE FROM outbox WHERE id = $1 AND attempts = $2")
        .bind(job.id.to_string())
        .bind(i64::from(job.attempt))
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes an entry whose outcome is recorded.
pub async fn done(db: &mut Connection, id: JobId) -> Result<(), Error> {
    sqlx::query("DELETE FROM outbox WHERE id = $1")
        .bind(id.to_string())
        .execute(db)
        .await?;
    Ok(())
}

/// Returns the number of entries.
pub async fn count(db: &mut Connection) -> Result<u64, Error> {
    size(
        &sqlx::query("SELECT COUNT(*) AS waiting FROM outbox")
            .fetch_one(db)
            .await?,
        "waiting",
    )
}
