//! Answers kept under the keys of the calls they answered.

use super::row::{escape_nul, integer, optional_time, text};
use super::{Connection, Error};
use crate::clock::Timestamp;
use crate::id::{MessageId, PartnerId};

/// A kept answer.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The HTTP status it was given with.
    pub status: u16,
    /// The body, as JSON.
    pub body: String,
    /// Whether the message it tells of was deleted since.
    pub message_deleted: bool,
}

/// The answer kept under a partner's key.
pub async fn find(
    db: &mut Connection,
    partner: PartnerId,
    key: &str,
) -> Result<Option<Kept>, Error> {
    let row = sqlx::query(
        "SELECT idempotency_keys.status AS status, body, deleted_at FROM idempotency_keys \
         LEFT JOIN messages ON messages.id = message_id \
         WHERE idempotency_keys.partner_id = $1 AND idempotency_key = $2",
    )
    .bind(partner.to_string())
    .bind(escape_nul(key))
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        Ok(Kept {
            status: u16::try_from(integer(&row, "status")?).unwrap_or(200),
            body: text(&row, "body")?,
            message_deleted: optional_time(&row, "deleted_at")?.is_some(),
        })
    })
    .transpose()
}

/// Keeps an answer.
pub async fn keep(
    db: &mut Connection,
    partner: PartnerId,
    key: &str,
    message: MessageId,
    status: u16,
    body: &str,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO idempotency_keys (partner_id, idempotency_key, message_id, status, body, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(partner.to_string())
    .bind(escape_nul(key))
    .bind(message.to_string())
    .bind(i64::from(status))
    .bind(escape_nul(body))
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Forgets answers that were kept before a moment, at most `limit`; says how many.
pub async fn delete_before(
    db: &mut Connection,
    before: Timestamp,
    limit: u32,
) -> Result<u64, Error> {
    let done = sqlx::query(
        "DELETE FROM idempotency_keys WHERE (partner_id, idempotency_key) IN \
         (SELECT partner_id, idempotency_key FROM idempotency_keys WHERE created_at < $1 LIMIT $2)",
    )
    .bind(before.as_millis())
    .bind(i64::from(limit))
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
