//! Manages the outbox, which lists the messages to hand to the gateway. An entry is inserted by the
//! transaction that accepts its message, and deleted by the one that records its outcome
//! (transactional outbox).
//!
//! Several servers may lease entries. Leasing is serialized by an advisory lock, so each server
//! sees the leases of the others: the messages of one chat are never leased by two servers at once.
//! The attempt number is the fencing token of a lease: every later statement has it in its
//! condition, so a server whose lease was taken over changes nothing.

use super::row::{integer, parsed, size};
use super::{Connection, Engine, Error, locks};
use crate::clock::Timestamp;
use crate::id::{ChatId, MessageId, OutboxEntryId};

/// A leased outbox entry.
#[derive(Clone, Copy, Debug)]
pub struct OutboxEntry {
    pub id: OutboxEntryId,
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
        .bind(OutboxEntryId::new().to_string())
        .bind(chat.to_string())
        .bind(message.to_string())
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Expands to the SQL statement that leases the oldest due entries, skipping chats that already
/// have a leased entry.
macro_rules! lease {
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

/// Leases the oldest due entries until `until`; no other server can lease them before that time.
pub async fn lease(
    db: &mut Connection,
    now: Timestamp,
    until: Timestamp,
    limit: u32,
) -> Result<Vec<OutboxEntry>, Error> {
    locks::lock_names(db, &["outbox".to_owned()]).await?;
    let statement = match Engine::of_connection(db) {
        Engine::Sqlite => lease!(""),
        // Skips rows locked by another server that is recording an outcome.
        Engine::Postgres => lease!(" FOR UPDATE SKIP LOCKED"),
    };
    let rows = sqlx::query(statement)
        .bind(until.as_millis())
        .bind(now.as_millis())
        .bind(i64::from(limit))
        .fetch_all(db)
        .await?;
    let mut entries = rows
        .iter()
        .map(|row| {
            Ok(OutboxEntry {
                id: parsed(row, "id", OutboxEntryId::parse)?,
                message_id: parsed(row, "message_id", MessageId::parse)?,
                chat_id: parsed(row, "chat_id", ChatId::parse)?,
                attempt: u32::try_from(integer(row, "attempts")?).unwrap_or(u32::MAX),
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    entries.sort_unstable_by_key(|entry| entry.id);
    Ok(entries)
}

/// Renews a lease. Returns false if the entry was deleted or another server has leased it since.
pub async fn renew(
    db: &mut Connection,
    entry: OutboxEntry,
    until: Timestamp,
) -> Result<bool, Error> {
    let renewed =
        sqlx::query("UPDATE outbox SET claimed_until = $3 WHERE id = $1 AND attempts = $2")
            .bind(entry.id.to_string())
            .bind(i64::from(entry.attempt))
            .bind(until.as_millis())
            .execute(db)
            .await?;
    Ok(renewed.rows_affected() == 1)
}

/// Releases an entry whose delivery is to be retried at `at`. Has no effect if another server has
/// leased it since.
pub async fn retry(db: &mut Connection, entry: OutboxEntry, at: Timestamp) -> Result<(), Error> {
    sqlx::query(
        "UPDATE outbox SET available_at = $3, claimed_until = 0 WHERE id = $1 AND attempts = $2",
    )
    .bind(entry.id.to_string())
    .bind(i64::from(entry.attempt))
    .bind(at.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes an entry that needs no further attempt. Returns false if another server has leased it
/// since: that server then deletes the entry, and the later messages of the chat wait until it
/// does.
pub async fn complete(db: &mut Connection, entry: OutboxEntry) -> Result<bool, Error> {
    let deleted = sqlx::query("DELETE FROM outbox WHERE id = $1 AND attempts = $2")
        .bind(entry.id.to_string())
        .bind(i64::from(entry.attempt))
        .execute(db)
        .await?;
    Ok(deleted.rows_affected() == 1)
}

/// Returns the number of entries in the outbox.
pub async fn count(db: &mut Connection) -> Result<u64, Error> {
    size(
        &sqlx::query("SELECT COUNT(*) AS waiting FROM outbox")
            .fetch_one(db)
            .await?,
        "waiting",
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::db::Db;

    #[tokio::test]
    async fn expired_lease_cannot_change_the_entry_of_its_successor() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let url = format!("sqlite://{}/test.db?mode=rwc", folder.path().display());
        let db = Db::open(&url.parse().expect("URL"))
            .await
            .expect("database");
        db.transaction(async |db: &mut Connection| {
            let (now, minute) = (Timestamp::from_millis(0), Duration::from_mins(1));
            insert(db, ChatId::new(), MessageId::new(), now).await?;
            let first = lease(db, now, now + minute, 1).await?[0];
            let later = now + 2 * minute;
            let second = lease(db, later, later + minute, 1).await?[0];
            assert_eq!((first.id, second.attempt), (second.id, 2));

            assert!(!renew(db, first, later + 5 * minute).await?);
            retry(db, first, later + 5 * minute).await?;
            assert!(!complete(db, first).await?, "fenced by the attempt number");
            assert_eq!(count(db).await?, 1);

            let after = later + 2 * minute;
            let third = lease(db, after, after + minute, 1).await?[0];
            assert!(!complete(db, second).await? && complete(db, third).await?);
            assert_eq!(count(db).await?, 0);
            Ok::<_, Error>(())
        })
        .await
        .expect("transaction");
    }
}
