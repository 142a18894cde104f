//! Recent sends, which the rate limit counts.

use super::row::time;
use super::{Connection, Error};
use crate::clock::Timestamp;

/// When the send happened that is `nth` from the newest (1 = the newest) of a line to a recipient, if it is younger
/// than `since`.
pub async fn nth_newest(
    db: &mut Connection,
    line: &str,
    recipient: &str,
    since: Timestamp,
    nth: u32,
) -> Result<Option<Timestamp>, Error> {
    let row = sqlx::query(
        "SELECT sent_at FROM recent_sends WHERE line = $1 AND recipient = $2 AND sent_at > $3 \
         ORDER BY sent_at DESC LIMIT 1 OFFSET $4",
    )
    .bind(line)
    .bind(recipient)
    .bind(since.as_millis())
    .bind(i64::from(nth.saturating_sub(1)))
    .fetch_optional(db)
    .await?;
    row.map(|row| time(&row, "sent_at")).transpose()
}

/// Counts a send.
pub async fn record(db: &mut Connection, line: &str, recipient: &str, now: Timestamp) -> Result<(), Error> {
    sqlx::query("INSERT INTO recent_sends (line, recipient, sent_at) VALUES ($1, $2, $3)")
        .bind(line)
        .bind(recipient)
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Forgets sends older than `before`.
pub async fn forget(db: &mut Connection, before: Timestamp) -> Result<(), Error> {
    sqlx::query("DELETE FROM recent_sends WHERE sent_at < $1").bind(before.as_millis()).execute(db).await?;
    Ok(())
}
