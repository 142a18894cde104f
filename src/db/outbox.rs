//! Messages to hand to the gateway. An entry is written in the transaction that accepts its message, and removed in
//! the one that records what became of it.

use super::row::{integer, parsed, size};
use super::{Connection, Error};
use crate::clock::Timestamp;
use crate::id::{ChatId, JobId, MessageId};

/// A claimed entry.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The message to deliver.
    pub message_id: MessageId,
    /// The chat it is in.
    pub chat_id: ChatId,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// Adds an entry.
pub async fn insert(db: &mut Connection, chat: ChatId, message: MessageId, now: Timestamp) -> Result<(), Error> {
    sqlx::query("INSERT INTO outbox (id, chat_id, message_id, available_at, attempts, created_at) VALUES ($1, $2, $3, $4, 0, $4)")
        .bind(JobId::new().to_string())
        .bind(chat.to_string())
        .bind(message.to_string())
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Claims the oldest due entries until `until`: whoever claims them has that long before another may.
pub async fn claim(db: &mut Connection, now: Timestamp, until: Timestamp, limit: u32) -> Result<Vec<Job>, Error> {
    let rows = sqlx::query(
        "UPDATE outbox SET available_at = $1, attempts = attempts + 1 WHERE id IN \
         (SELECT id FROM outbox WHERE available_at <= $2 ORDER BY id LIMIT $3) RETURNING id, message_id, chat_id, attempts",
    )
    .bind(until.as_millis())
    .bind(now.as_millis())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    let mut jobs = rows
        .iter()
        .map(|row| {
            Ok(Job {
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

/// Gives an entry back, to be tried again at `at`.
pub async fn retry(db: &mut Connection, id: JobId, at: Timestamp) -> Result<(), Error> {
    sqlx::query("UPDATE outbox SET available_at = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(at.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Removes an entry that is done with.
pub async fn done(db: &mut Connection, id: JobId) -> Result<(), Error> {
    sqlx::query("DELETE FROM outbox WHERE id = $1").bind(id.to_string()).execute(db).await?;
    Ok(())
}

/// How many entries wait.
pub async fn count(db: &mut Connection) -> Result<u64, Error> {
    size(&sqlx::query("SELECT COUNT(*) AS waiting FROM outbox").fetch_one(db).await?, "waiting")
}
