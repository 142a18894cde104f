//! Pages of chats, messages and threads. All are keyset pages: the cursor names the last item that was given, so
//! what arrives between two pages neither repeats nor hides anything.

use super::{Connection, Error, chats, messages};
use crate::domain::chat::Chat;
use crate::domain::handle::PhoneNumber;
use crate::domain::message::Message;
use crate::id::{ChatId, MessageId, PartnerId};

/// Sorts after every UUID.
const AFTER_ALL: &str = "g";

/// Which chats to list.
#[derive(Clone, Debug, Default)]
pub struct ChatFilter {
    /// Only those of this line.
    pub line: Option<PhoneNumber>,
    /// Only those with this participant.
    pub participant: Option<String>,
}

/// Where a listing of chats stands.
///
/// Chats are sorted by their newest message, which changes while a client turns the pages. So the listing shows them
/// in the order they had when its first page was made: a message that is younger than `as_of` does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatCursor {
    /// The newest message when the listing began.
    pub as_of: MessageId,
    /// The newest message, as of then, of the last chat given.
    pub after: MessageId,
}

/// A chat and the message it is sorted by.
#[derive(Debug)]
pub struct ListedChat {
    /// The chat.
    pub chat: Chat,
    /// Its newest message as of the start of the listing.
    pub position: MessageId,
}

/// A page of a partner's chats, most recently active first.
pub async fn chats(
    db: &mut Connection,
    partner: PartnerId,
    filter: &ChatFilter,
    cursor: Option<ChatCursor>,
    limit: u32,
) -> Result<Vec<ListedChat>, Error> {
    let as_of = cursor.map_or(AFTER_ALL.to_owned(), |cursor| cursor.as_of.to_string());
    let after = cursor.map_or(AFTER_ALL.to_owned(), |cursor| cursor.after.to_string());
    // The first half walks the index and stops; the second finds the old place of the few chats that moved since.
    let rows = sqlx::query(
        "SELECT * FROM ( \
           SELECT * FROM (SELECT chats.*, last_message_id AS position FROM chats \
           WHERE partner_id = $1 AND last_message_id <= $2 AND last_message_id < $3 \
             AND ($4 = '' OR line = $4) \
             AND ($5 = '' OR EXISTS (SELECT 1 FROM participants WHERE chat_id = chats.id AND handle = $5)) \
             ORDER BY last_message_id DESC LIMIT $6) AS still \
           UNION ALL \
           SELECT chats.*, (SELECT MAX(messages.id) FROM messages WHERE chat_id = chats.id AND messages.id <= $2) \
             AS position FROM chats \
           WHERE partner_id = $1 AND last_message_id > $2 \
             AND ($4 = '' OR line = $4) \
             AND ($5 = '' OR EXISTS (SELECT 1 FROM participants WHERE chat_id = chats.id AND handle = $5)) \
         ) AS listed WHERE position IS NOT NULL AND position < $3 ORDER BY position DESC LIMIT $6",
    )
    .bind(partner.to_string())
    .bind(as_of)
    .bind(after)
    .bind(filter.line.as_ref().map_or("", PhoneNumber::as_str).to_owned())
    .bind(filter.participant.as_deref().unwrap_or_default().to_owned())
    .bind(i64::from(limit))
    .fetch_all(&mut *db)
    .await?;
    let chats = chats::read_all(db, &rows).await?;
    let listed = rows.iter().zip(chats).map(|(row, chat)| {
        let position = super::row::parsed(row, "position", MessageId::parse)?;
        Ok(ListedChat { chat, position })
    });
    listed.collect()
}

/// A page of a chat's messages, newest first.
pub async fn chat_messages(
    db: &mut Connection,
    chat: ChatId,
    before: Option<MessageId>,
    limit: u32,
) -> Result<Vec<Message>, Error> {
    let rows = sqlx::query(
        "SELECT * FROM messages WHERE chat_id = $1 AND id < $2 AND deleted_at IS NULL ORDER BY id DESC LIMIT $3",
    )
    .bind(chat.to_string())
    .bind(before.map_or(AFTER_ALL.to_owned(), |id| id.to_string()))
    .bind(i64::from(limit))
    .fetch_all(&mut *db)
    .await?;
    messages::read_all(db, &rows).await
}

/// In which order a thread is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// A page of a thread: its first message and the replies.
pub async fn thread(
    db: &mut Connection,
    root: MessageId,
    order: Order,
    after: Option<MessageId>,
    limit: u32,
) -> Result<Vec<Message>, Error> {
    let statement = match order {
        Order::Ascending => {
            "SELECT * FROM messages WHERE (id = $1 OR thread_root = $1) AND id > $2 AND deleted_at IS NULL \
             ORDER BY id LIMIT $3"
        }
        Order::Descending => {
            "SELECT * FROM messages WHERE (id = $1 OR thread_root = $1) AND id < $2 AND deleted_at IS NULL \
             ORDER BY id DESC LIMIT $3"
        }
    };
    let start = if order == Order::Ascending { "" } else { AFTER_ALL };
    let rows = sqlx::query(statement)
        .bind(root.to_string())
        .bind(after.map_or(start.to_owned(), |id| id.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&mut *db)
        .await?;
    messages::read_all(db, &rows).await
}
