//! Reads and writes messages and their parts.

use std::collections::HashMap;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row};

use super::row::{escape_nul, integer, optional, optional_text, optional_time, parsed, text, time};
use super::{Connection, Error, attachments, placeholders};
use crate::clock::Timestamp;
use crate::domain::message::{DeliveryStatus, Effect, Message, MessageService, ReplyTo};
use crate::domain::part::{Part, Text};
use crate::id::{ChatId, HandleId, MessageId, PartnerId};

/// Inserts a message with its parts.
pub async fn insert(
    db: &mut Connection,
    partner: PartnerId,
    message: &Message,
    trace_id: &str,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO messages (id, partner_id, chat_id, sender, effect_kind, effect_name, reply_to_message_id, \
         reply_to_part_index, thread_root, preferred_service, status, trace_id, voice_memo, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)",
    )
    .bind(message.id.to_string())
    .bind(partner.to_string())
    .bind(message.chat_id.to_string())
    .bind(message.sender.to_string())
    .bind(message.effect.as_ref().map(|effect| effect.kind.clone()))
    .bind(message.effect.as_ref().map(|effect| effect.name.clone()))
    .bind(message.reply_to.map(|reply| reply.message_id.to_string()))
    .bind(message.reply_to.map(|reply| i64::from(reply.part_index)))
    .bind(message.thread_root.map(|root| root.to_string()))
    .bind(message.preferred_service.map(|service| service.as_str().to_owned()))
    .bind(message.status.as_str())
    .bind(trace_id)
    .bind(i64::from(message.voice_memo))
    .bind(message.created_at.as_millis())
    .execute(&mut *db)
    .await?;
    let statement = AssertSqlSafe(format!(
        "INSERT INTO parts (message_id, position, kind, body, attachment_id) VALUES {}",
        placeholders::rows(message.parts.len(), 5)
    ));
    let insert =
        (0_i64..)
            .zip(&message.parts)
            .fold(sqlx::query(statement), |query, (position, part)| {
                let (kind, body, attachment) = match part {
                    Part::Text(text) => ("text", Some(escape_nul(&text_body(text))), None),
                    Part::Link(url) => ("link", Some(escape_nul(url)), None),
                    Part::Media(attachment) => (
                        "media",
                        None,
                        attachment
                            .as_ref()
                            .map(|attachment| attachment.id.to_string()),
                    ),
                };
                query
                    .bind(message.id.to_string())
                    .bind(position)
                    .bind(kind)
                    .bind(body)
                    .bind(attachment)
            });
    insert.execute(db).await?;
    Ok(())
}

/// Returns a partner's message, unless it was deleted.
pub async fn find(
    db: &mut Connection,
    partner: PartnerId,
    id: MessageId,
) -> Result<Option<Message>, Error> {
    let row = sqlx::query(
        "SELECT * FROM messages WHERE id = $1 AND partner_id = $2 AND deleted_at IS NULL",
    )
    .bind(id.to_string())
    .bind(partner.to_string())
    .fetch_all(&mut *db)
    .await?;
    Ok(read_all(db, &row).await?.pop())
}

/// Returns the chat of a partner's message and the first message of its thread, unless the message
/// was deleted.
pub async fn find_thread(
    db: &mut Connection,
    partner: PartnerId,
    id: MessageId,
) -> Result<Option<(ChatId, MessageId)>, Error> {
    let statement = "SELECT chat_id, thread_root FROM messages WHERE id = $1 AND partner_id = $2 AND deleted_at IS NULL";
    let row = sqlx::query(statement)
        .bind(id.to_string())
        .bind(partner.to_string())
        .fetch_optional(&mut *db)
        .await?;
    row.map(|row| {
        let root = optional(&row, "thread_root", MessageId::parse)?.unwrap_or(id);
        Ok((parsed(&row, "chat_id", ChatId::parse)?, root))
    })
    .transpose()
}

/// Returns an undelivered message and its partner; `None` if the message was already sent or has
/// failed. An outbox restored from a backup can still contain such messages. A message that the
/// partner has deleted is still delivered, because deletion only hides it.
pub async fn find_for_delivery(
    db: &mut Connection,
    id: MessageId,
) -> Result<Option<(PartnerId, Message)>, Error> {
    let rows =
        sqlx::query("SELECT * FROM messages WHERE id = $1 AND status IN ('pending', 'queued')")
            .bind(id.to_string())
            .fetch_all(&mut *db)
            .await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let partner = parsed(row, "partner_id", PartnerId::parse)?;
    Ok(read_all(db, &rows)
        .await?
        .pop()
        .map(|message| (partner, message)))
}

/// Deletes a message by hiding it permanently. Returns false if there is no such message.
pub async fn delete(
    db: &mut Connection,
    partner: PartnerId,
    id: MessageId,
    now: Timestamp,
) -> Result<bool, Error> {
    let done =
        sqlx::query("UPDATE messages SET deleted_at = $3 WHERE id = $1 AND partner_id = $2 AND deleted_at IS NULL")
            .bind(id.to_string())
            .bind(partner.to_string())
            .bind(now.as_millis())
            .execute(db)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Records that delivery of a message has started.
pub async fn mark_queued(db: &mut Connection, id: MessageId, now: Timestamp) -> Result<(), Error> {
    sqlx::query("UPDATE messages SET status = 'queued', updated_at = $2 WHERE id = $1 AND status = 'pending'")
        .bind(id.to_string())
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Records that the carrier accepted a message.
pub async fn mark_sent(
    db: &mut Connection,
    id: MessageId,
    service: MessageService,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE messages SET status = 'sent', service = $2, sent_at = $3, updated_at = $3 \
         WHERE id = $1 AND status IN ('pending', 'queued')",
    )
    .bind(id.to_string())
    .bind(service.as_str())
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Records that a message was delivered. Returns false if it is not in state "sent".
pub async fn mark_delivered(
    db: &mut Connection,
    id: MessageId,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE messages SET status = 'delivered', delivered_at = $2, updated_at = $2 \
         WHERE id = $1 AND status = 'sent'",
    )
    .bind(id.to_string())
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records that delivery failed permanently.
pub async fn mark_failed(
    db: &mut Connection,
    id: MessageId,
    code: u16,
    reason: &str,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE messages SET status = 'failed', failure_code = $2, failure_reason = $3, updated_at = $4 \
         WHERE id = $1 AND status IN ('pending', 'queued')",
    )
    .bind(id.to_string())
    .bind(i64::from(code))
    .bind(escape_nul(reason))
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Converts rows to messages. Reads the parts of all messages with one query.
pub(super) async fn read_all(db: &mut Connection, rows: &[AnyRow]) -> Result<Vec<Message>, Error> {
    let ids = rows
        .iter()
        .map(|row| text(row, "id"))
        .collect::<Result<Vec<_>, _>>()?;
    let mut parts = find_parts(db, &ids).await?;
    rows.iter()
        .zip(&ids)
        .map(|(row, id)| {
            let reply_to = match optional(row, "reply_to_message_id", MessageId::parse)? {
                Some(message_id) => {
                    let part_index =
                        u32::try_from(integer(row, "reply_to_part_index")?).unwrap_or(0);
                    Some(ReplyTo {
                        message_id,
                        part_index,
                    })
                }
                None => None,
            };
            let effect = match (
                optional_text(row, "effect_kind")?,
                optional_text(row, "effect_name")?,
            ) {
                (Some(kind), Some(name)) => Some(Effect { kind, name }),
                _ => None,
            };
            Ok(Message {
                id: parsed(row, "id", MessageId::parse)?,
                chat_id: parsed(row, "chat_id", ChatId::parse)?,
                sender: parsed(row, "sender", HandleId::parse)?,
                voice_memo: integer(row, "voice_memo")? != 0,
                parts: parts.remove(id).unwrap_or_default(),
                effect,
                reply_to,
                thread_root: optional(row, "thread_root", MessageId::parse)?,
                preferred_service: optional(row, "preferred_service", MessageService::parse)?,
                service: optional(row, "service", MessageService::parse)?,
                status: parsed(row, "status", DeliveryStatus::parse)?,
                created_at: time(row, "created_at")?,
                updated_at: time(row, "updated_at")?,
                sent_at: optional_time(row, "sent_at")?,
                delivered_at: optional_time(row, "delivered_at")?,
            })
        })
        .collect()
}

async fn find_parts(
    db: &mut Connection,
    messages: &[String],
) -> Result<HashMap<String, Vec<Part>>, Error> {
    let mut parts: HashMap<String, Vec<Part>> = HashMap::with_capacity(messages.len());
    if messages.is_empty() {
        return Ok(parts);
    }
    let messages = placeholders::padded(messages.to_vec());
    let placeholders = placeholders::list(1, messages.len());
    let statement = AssertSqlSafe(format!(
        "SELECT parts.message_id, parts.kind, parts.body, attachments.* FROM parts \
         LEFT JOIN attachments ON attachments.id = parts.attachment_id \
         WHERE parts.message_id IN ({placeholders}) ORDER BY parts.message_id, parts.position"
    ));
    let mut query = sqlx::query(statement);
    for id in messages {
        query = query.bind(id);
    }
    for row in query.fetch_all(db).await? {
        let part = match text(&row, "kind")?.as_str() {
            "text" => Part::Text(parsed(&row, "body", |body| {
                serde_json::from_str::<Text>(body).ok()
            })?),
            "link" => Part::Link(text(&row, "body")?),
            _ if row.try_get::<Option<String>, _>("id")?.is_none() => Part::Media(None),
            _ => Part::Media(Some(Box::new(attachments::read(&row)?))),
        };
        parts
            .entry(text(&row, "message_id")?)
            .or_default()
            .push(part);
    }
    Ok(parts)
}

fn text_body(text: &Text) -> String {
    serde_json::to_string(text).expect("strings and numbers are JSON")
}
