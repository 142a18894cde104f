//! Records recent sends, which the rate limit counts.

use sqlx::{AssertSqlSafe, Row as _};

use super::row::time;
use super::{Connection, Error, placeholders};
use crate::clock::Timestamp;

/// Returns the time of the `nth` newest send (1 is the newest) from a line to a recipient since
/// `since`.
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

/// Returns the first of `recipients` to which a line has sent at least `limit` messages since
/// `since`.
pub async fn exhausted(
    db: &mut Connection,
    line: &str,
    recipients: &[String],
    since: Timestamp,
    limit: u32,
) -> Result<Option<String>, Error> {
    let recipients = placeholders::padded(recipients.to_vec());
    let statement = AssertSqlSafe(format!(
        "SELECT recipient FROM recent_sends WHERE line = $1 AND sent_at > $2 AND recipient IN ({}) \
         GROUP BY recipient HAVING COUNT(*) >= $3 ORDER BY recipient LIMIT 1",
        placeholders::list(4, recipients.len())
    ));
    let query = sqlx::query(statement)
        .bind(line)
        .bind(since.as_millis())
        .bind(i64::from(limit));
    let row = recipients
        .into_iter()
        .fold(query, sqlx::query::Query::bind)
        .fetch_optional(db)
        .await?;
    row.map(|row| Ok(row.try_get("recipient")?)).transpose()
}

/// Records a send to each of `recipients`.
pub async fn record(
    db: &mut Connection,
    line: &str,
    recipients: &[String],
    now: Timestamp,
) -> Result<(), Error> {
    let statement = AssertSqlSafe(format!(
        "INSERT INTO recent_sends (line, recipient, sent_at) VALUES {}",
        placeholders::rows(recipients.len(), 3)
    ));
    let insert = recipients
        .iter()
        .fold(sqlx::query(statement), |query, recipient| {
            query.bind(line).bind(recipient).bind(now.as_millis())
        });
    insert.execute(db).await?;
    Ok(())
}

/// Deletes the sends before `before`, for at most `limit` distinct times, and returns the number of
/// deleted sends. The limit counts times because the table has no key that identifies a single
/// send.
pub async fn delete_before(
    db: &mut Connection,
    before: Timestamp,
    limit: u32,
) -> Result<u64, Error> {
    let done = sqlx::query(
        "DELETE FROM recent_sends WHERE sent_at IN \
         (SELECT DISTINCT sent_at FROM recent_sends WHERE sent_at < $1 ORDER BY sent_at LIMIT $2)",
    )
    .bind(before.as_millis())
    .bind(i64::from(limit))
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
