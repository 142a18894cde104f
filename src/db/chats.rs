//! Reads and writes chats and their participants.

use std::collections::HashMap;

use sha2::{Digest, Sha256};
use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::row::{integer, parsed, text, time};
use super::{Connection, Error, placeholders};
use crate::clock::Timestamp;
use crate::domain::chat::{Chat, Participant, Recipients};
use crate::domain::handle::PhoneNumber;
use crate::id::{ChatId, HandleId, MessageId, PartnerId};

/// Maximum length, in bytes, of a recipient list that is stored as plain text; longer ones are
/// hashed. PostgreSQL limits an index row to 2704 bytes.
const MAX_KEY: usize = 1024;

/// Returns the value by which a chat is looked up: its recipients, or their hash if the list is too
/// long for an index.
fn stored_key(recipients: &Recipients) -> String {
    let key = recipients.key();
    if key.len() <= MAX_KEY {
        return key;
    }
    format!(
        "sha256:{}",
        base16ct::lower::encode_string(&Sha256::digest(key.as_bytes()))
    )
}

/// Inserts a chat with its participants.
pub async fn insert(
    db: &mut Connection,
    chat: &Chat,
    recipients: &Recipients,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO chats (id, partner_id, line, recipients, last_message_id, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(chat.id.to_string())
    .bind(chat.partner_id.to_string())
    .bind(chat.line.as_str())
    .bind(stored_key(recipients))
    .bind(chat.last_message_id.to_string())
    .bind(chat.created_at.as_millis())
    .bind(chat.updated_at.as_millis())
    .execute(&mut *db)
    .await?;
    let statement = AssertSqlSafe(format!(
        "INSERT INTO participants (id, chat_id, partner_id, handle, is_me, joined_at) VALUES {}",
        placeholders::rows(chat.participants.len(), 6)
    ));
    let insert = chat
        .participants
        .iter()
        .fold(sqlx::query(statement), |query, participant| {
            query
                .bind(participant.id.to_string())
                .bind(chat.id.to_string())
                .bind(chat.partner_id.to_string())
                .bind(&participant.handle)
                .bind(i64::from(participant.is_me))
                .bind(participant.joined_at.as_millis())
        });
    insert.execute(db).await?;
    Ok(())
}

/// Returns a partner's chat.
pub async fn find(
    db: &mut Connection,
    partner: PartnerId,
    id: ChatId,
) -> Result<Option<Chat>, Error> {
    let rows = sqlx::query("SELECT * FROM chats WHERE id = $1 AND partner_id = $2")
        .bind(id.to_string())
        .bind(partner.to_string())
        .fetch_all(&mut *db)
        .await?;
    Ok(read_all(db, &rows).await?.pop())
}

/// Returns the chats with exactly these recipients, on any of the partner's lines, most recently
/// active first.
pub async fn with_recipients(
    db: &mut Connection,
    partner: PartnerId,
    recipients: &Recipients,
) -> Result<Vec<Chat>, Error> {
    let rows = sqlx::query(
        "SELECT * FROM chats WHERE partner_id = $1 AND recipients = $2 ORDER BY last_message_id DESC",
    )
    .bind(partner.to_string())
    .bind(stored_key(recipients))
    .fetch_all(&mut *db)
    .await?;
    read_all(db, &rows).await
}

/// Records a chat's newest message, unless a newer one is recorded already, which happens if the
/// clock of another server is ahead.
pub async fn touch(
    db: &mut Connection,
    id: ChatId,
    message: MessageId,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "UPDATE chats SET updated_at = CASE WHEN updated_at < $3 THEN $3 ELSE updated_at END, \
         last_message_id = CASE WHEN last_message_id < $2 THEN $2 ELSE last_message_id END WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(message.to_string())
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Converts rows to chats. Reads the participants of all chats with one query.
pub(super) async fn read_all(db: &mut Connection, rows: &[AnyRow]) -> Result<Vec<Chat>, Error> {
    let ids = rows
        .iter()
        .map(|row| text(row, "id"))
        .collect::<Result<Vec<_>, _>>()?;
    let mut participants = participants(db, ids).await?;
    rows.iter()
        .map(|row| {
            let id = parsed(row, "id", ChatId::parse)?;
            Ok(Chat {
                id,
                partner_id: parsed(row, "partner_id", PartnerId::parse)?,
                line: parsed(row, "line", PhoneNumber::parse)?,
                participants: participants.remove(&id).unwrap_or_default(),
                last_message_id: parsed(row, "last_message_id", MessageId::parse)?,
                created_at: time(row, "created_at")?,
                updated_at: time(row, "updated_at")?,
            })
        })
        .collect()
}

async fn participants(
    db: &mut Connection,
    chats: Vec<String>,
) -> Result<HashMap<ChatId, Vec<Participant>>, Error> {
    let mut participants: HashMap<ChatId, Vec<Participant>> = HashMap::new();
    if chats.is_empty() {
        return Ok(participants);
    }
    let chats = placeholders::padded(chats);
    let places = placeholders::list(1, chats.len());
    let statement = AssertSqlSafe(format!(
        "SELECT * FROM participants WHERE chat_id IN ({places}) ORDER BY id"
    ));
    let query = chats
        .into_iter()
        .fold(sqlx::query(statement), sqlx::query::Query::bind);
    for row in &query.fetch_all(db).await? {
        let participant = Participant {
            id: parsed(row, "id", HandleId::parse)?,
            handle: text(row, "handle")?,
            is_me: integer(row, "is_me")? != 0,
            joined_at: time(row, "joined_at")?,
        };
        participants
            .entry(parsed(row, "chat_id", ChatId::parse)?)
            .or_default()
            .push(participant);
    }
    Ok(participants)
}
