//! Manages the queue of blobs to be deleted.
//!
//! An entry is inserted by the transaction that drops the last reference to a blob, or before a
//! blob is published that no row references yet. A server leases an entry before it deletes the
//! blob, so that no other server on the same database processes that entry.

use std::time::Duration;

use super::row::text;
use super::{Connection, Error, attachments};
use crate::clock::Timestamp;
use crate::domain::blob_key::BlobKey;

/// Duration of a lease: a server that has not completed the deletion by then has crashed.
const LEASE: Duration = Duration::from_mins(5);

/// Queues the deletion of a blob, to start at `not_before`. Has no effect if the blob is queued
/// already.
pub async fn enqueue(
    db: &mut Connection,
    blob_key: &str,
    not_before: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO blob_deletions (blob_key, created_at, not_before) VALUES ($1, $2, $3) \
         ON CONFLICT (blob_key) DO NOTHING",
    )
    .bind(blob_key)
    .bind(now.as_millis())
    .bind(not_before.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Returns at most `limit` keys whose deletion is due.
pub async fn due(db: &mut Connection, now: Timestamp, limit: u32) -> Result<Vec<String>, Error> {
    let rows = sqlx::query(
        "SELECT blob_key FROM blob_deletions WHERE not_before <= $1 ORDER BY not_before LIMIT $2",
    )
    .bind(now.as_millis())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| text(row, "blob_key")).collect()
}

/// Cancels a queued deletion because an attachment now references the blob. Returns false if the
/// deletion is already leased or was never queued.
pub async fn cancel(db: &mut Connection, blob_key: &str) -> Result<bool, Error> {
    let done = sqlx::query("DELETE FROM blob_deletions WHERE blob_key = $1 AND claimed_at IS NULL")
        .bind(blob_key)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Leases the deletion of a blob; from then on nothing can reference the blob. Removes the entry
/// instead if an attachment references the blob. Returns false in that case, and if the entry was
/// cancelled or another server holds the lease.
pub async fn lease(db: &mut Connection, key: &BlobKey, now: Timestamp) -> Result<bool, Error> {
    if attachments::is_referenced(db, key.id()).await? {
        complete(db, &key.to_string()).await?;
        return Ok(false);
    }
    let done = sqlx::query(
        "UPDATE blob_deletions SET claimed_at = $2 WHERE blob_key = $1 AND (claimed_at IS NULL OR claimed_at < $3)",
    )
    .bind(key.to_string())
    .bind(now.as_millis())
    .bind((now - LEASE).as_millis())
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Postpones a failed deletion, so that it does not delay the other deletions.
pub async fn reschedule(
    db: &mut Connection,
    blob_key: &str,
    until: Timestamp,
) -> Result<(), Error> {
    sqlx::query("UPDATE blob_deletions SET not_before = $2 WHERE blob_key = $1")
        .bind(blob_key)
        .bind(until.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Removes the queue entry of a blob that was deleted or does not need to be deleted.
pub async fn complete(db: &mut Connection, blob_key: &str) -> Result<(), Error> {
    sqlx::query("DELETE FROM blob_deletions WHERE blob_key = $1")
        .bind(blob_key)
        .execute(db)
        .await?;
    Ok(())
}
