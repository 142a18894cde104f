//! Messages to hand to the gateway. An entry is written in the transaction that accepts its message, and removed in
//! the one that records what became of it.
//!
//! Several servers may claim entries. Claiming is done by one at a time, so that each sees what the others claimed: two
//! messages of one chat are never with two servers. The number of attempts tells who claimed an entry last.

use super::row::{integer, parsed, size};
use super::{Connection, Engine, Error, locks};
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

/// The oldest due entries of chats of which nothing is claimed.
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

/// Claims the oldest due entries until `until`: whoever claims them has that long before another may.
pub async fn claim(db: &mut Connection, now: Timestamp, until: Timestamp, limit: u32) -> Result<Vec<Job>, Error> {
    locks::hold(db, &["outbox".to_owned()]).await?;
    let statement = match Engine::of_connection(db) {
        Engine::Sqlite => claim!(""),
        // What another server is about to record is not waited for.
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

/// Claims an entry for longer. `false`: it is done with, or another has claimed it since.
pub async fn extend(db: &mut Connection, job: Job, until: Timestamp) -> Result<bool, Error> {
    let done = sqlx::query("UPDATE outbox SET claimed_until = $3 WHERE id = $1 AND attempts = $2")
        .bind(job.id.to_string())
        .bind(i64::from(job.attempt))
        .bind(until.as_millis())
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives an entry back, to be tried again at `at`.
pub async fn retry(db: &mut Connection, job: Job, at: Timestamp) -> Result<(), Error> {
    sqlx::query("UPDATE outbox SET available_at = $3, claimed_until = 0 WHERE id = $1 AND attempts = $2")
        .bind(job.id.to_string())
        .bind(i64::from(job.attempt))
        .bind(at.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Removes an entry whose message failed. `false`: another has claimed it since.
pub async fn give_up(db: &mut Connection, job: Job) -> Result<bool, Error> {
    let done = sqlx::query("DELETE FROM outbox WHERE id = $1 AND attempts = $2")
        .bind(job.id.to_string())
        .bind(i64::from(job.attempt))
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
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
