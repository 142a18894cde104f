//! Stores the responses to sends under their idempotency keys.

use super::row::{escape_nul, integer, optional_time, text};
use super::{Connection, Error};
use crate::clock::Timestamp;
use crate::id::{MessageId, PartnerId};

/// A stored response to a request that sent a message.
#[derive(Clone, Debug)]
pub struct IdempotentResponse {
    /// HTTP status code of the response.
    pub status: u16,
    /// Response body, as JSON.
    pub body: String,
    /// True if the sent message was deleted since.
    pub message_deleted: bool,
}

/// Returns the response stored under a partner's idempotency key.
pub async fn find(
    db: &mut Connection,
    partner: PartnerId,
    key: &str,
) -> Result<Option<IdempotentResponse>, Error> {
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
        Ok(IdempotentResponse {
            status: u16::try_from(integer(&row, "status")?).unwrap_or(200),
            body: text(&row, "body")?,
            message_deleted: optional_time(&row, "deleted_at")?.is_some(),
        })
    })
    .transpose()
}

/// Stores a response under a partner's idempotency key.
pub async fn insert(
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

/// Deletes at most `limit` responses stored before `before`. Returns their number.
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
