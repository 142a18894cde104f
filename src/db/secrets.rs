//! Stores secrets that all servers on one database share.

use super::row::text;
use super::{Connection, Error};
use crate::clock::Timestamp;

/// Returns the secret stored under a name. If there is none yet, stores and returns `candidate`.
/// Servers that start concurrently all receive the same secret.
pub async fn get_or_set(
    db: &mut Connection,
    name: &str,
    candidate: &str,
    now: Timestamp,
) -> Result<String, Error> {
    sqlx::query("INSERT INTO secrets (name, value, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(candidate)
        .bind(now.as_millis())
        .execute(&mut *db)
        .await?;
    let row = sqlx::query("SELECT value FROM secrets WHERE name = $1")
        .bind(name)
        .fetch_one(db)
        .await?;
    text(&row, "value")
}
