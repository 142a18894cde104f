//! Pages of chats, messages and threads. All are keyset pages: the cursor names the last item that was given, so
//! what arrives between two pages neither repeats nor hides anything.

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::row::{integer, size};
use super::{Connection, Error, chats, messages};
use crate::domain::chat::Chat;
use crate::domain::message::Message;
use crate::domain::page::{ChatCursor, ChatFilter, Order};
use crate::id::{ChatId, MessageId, PartnerId};

/// Sorts after every UUID.
const AFTER_ALL: &str = "g";

/// A chat and the message it is sorted by.
#[derive(Debug)]
pub struct ListedChat {
    /// The chat.
    pub chat: Chat,
    /// Its newest message as of the start of the listing.
    pub position: MessageId,
}

/// Chats of a handle that are few enough to be looked up one by one.
const FEW_CHATS: i64 = 1000;

/// How the chats of a participant are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByParticipant {
    /// There is no such filter.
    All,
    /// By the index of participants: the handle is in few chats.
    Search,
    /// By the index of activity, testing each: the handle is in many chats, so the page is soon full.
    Walk,
}

/// Whether a handle is in few of a partner's chats.
async fn is_rare(db: &mut Connection, partner: PartnerId, handle: &str) -> Result<bool, Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS chats FROM (SELECT chat_id FROM participants \
         WHERE partner_id IN ($1, '') AND handle = $2 LIMIT $3) AS few",
    )
    .bind(partner.to_string())
    .bind(handle)
    .bind(FEW_CHATS + 1)
    .fetch_one(db)
    .await?;
    Ok(integer(&row, "chats")? <= FEW_CHATS)
}

/// The statement of a page of chats. Its parameters: partner, `as_of`, `after`, limit, line, participant; those of absent
/// filters are left out.
fn chats_statement(by_line: bool, by_participant: ByParticipant) -> String {
    let line = if by_line { "AND line = $5" } else { "" };
    let handle = if by_line { "$6" } else { "$5" };
    let (from, participant) = match by_participant {
        ByParticipant::All => ("chats", String::new()),
        // SQLite keeps to the order of a CROSS JOIN. Servers of earlier versions left `partner_id` empty.
        ByParticipant::Search => (
            "participants CROSS JOIN chats",
            format!(
                "AND participants.partner_id IN ($1, '') AND participants.handle = {handle} \
                 AND chats.id = participants.chat_id"
            ),
        ),
        ByParticipant::Walk => (
            "chats",
            format!(
                "AND EXISTS (SELECT 1 FROM participants WHERE chat_id = chats.id AND handle = {handle})"
            ),
        ),
    };
    // The first half walks an index and stops; the second finds the old place of the few chats that moved since.
    format!(
        "SELECT * FROM ( \
           SELECT * FROM (SELECT chats.*, last_message_id AS position FROM {from} \
           WHERE chats.partner_id = $1 AND last_message_id <= $2 AND last_message_id < $3 {line} {participant} \
             ORDER BY last_message_id DESC LIMIT $4) AS still \
           UNION ALL \
           SELECT chats.*, (SELECT MAX(messages.id) FROM messages WHERE chat_id = chats.id AND messages.id <= $2) \
             AS position FROM {from} \
           WHERE chats.partner_id = $1 AND last_message_id > $2 {line} {participant} \
         ) AS listed WHERE position IS NOT NULL AND position < $3 ORDER BY position DESC LIMIT $4"
    )
}

/// Every statement of a page of chats, for the test of their plans.
#[cfg(test)]
pub(super) fn statements() -> Vec<String> {
    let ways = [
        ByParticipant::All,
        ByParticipant::Search,
        ByParticipant::Walk,
    ];
    ways.into_iter()
        .flat_map(|way| [false, true].map(|by_line| chats_statement(by_line, way)))
        .collect()
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
    let by_participant = match &filter.participant {
        Some(handle) if is_rare(db, partner, handle).await? => ByParticipant::Search,
        Some(_) => ByParticipant::Walk,
        None => ByParticipant::All,
    };
    let statement = AssertSqlSafe(chats_statement(filter.line.is_some(), by_participant));
    let mut query = sqlx::query(statement)
        .bind(partner.to_string())
        .bind(as_of)
        .bind(after)
        .bind(i64::from(limit));
    let line = filter.line.as_ref().map(|line| line.as_str().to_owned());
    for value in [line, filter.participant.clone()].into_iter().flatten() {
        query = query.bind(value);
    }
    let rows = query.fetch_all(&mut *db).await?;
    let chats = chats::read_all(db, &rows).await?;
    let listed = rows.iter().zip(chats).map(|(row, chat)| {
        let position = super::row::parsed(row, "position", MessageId::parse)?;
        Ok(ListedChat { chat, position })
    });
    listed.collect()
}

/// How much of a list is read at a time.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// Most items.
    pub items: u32,
    /// Most bytes of all items together; an item that is larger by itself is a page of its own.
    pub bytes: u64,
}

/// A page of messages.
#[derive(Debug)]
pub struct MessagePage {
    /// The messages.
    pub messages: Vec<Message>,
    /// Whether there are more.
    pub has_more: bool,
}

/// About what a message takes as JSON, without its parts being read: neither engine loads a text for its length. A part's
/// file shows its name, and its URL holds the name escaped.
pub(super) const MESSAGE_BYTES: &str = "(SELECT 700 + COALESCE(SUM(500 + COALESCE(octet_length(parts.body), 0) \
    + 4 * COALESCE(octet_length(attachments.filename), 0)), 0) \
    FROM parts LEFT JOIN attachments ON attachments.id = parts.attachment_id \
    WHERE parts.message_id = messages.id) AS bytes";

/// Reads the parts of as many messages as make a page. `rows` holds one more than the page can, if there are more.
async fn message_page(
    db: &mut Connection,
    mut rows: Vec<AnyRow>,
    limit: PageLimit,
) -> Result<MessagePage, Error> {
    let sizes = rows
        .iter()
        .map(|row| size(row, "bytes"))
        .collect::<Result<Vec<_>, _>>()?;
    let fitting = limit.fitting(sizes);
    let has_more = rows.len() > fitting;
    rows.truncate(fitting);
    Ok(MessagePage {
        messages: messages::read_all(db, &rows).await?,
        has_more,
    })
}

impl PageLimit {
    /// How many of the items of these sizes make a page; at least one, if there is one.
    #[must_use]
    pub fn fitting(&self, sizes: impl IntoIterator<Item = u64>) -> usize {
        let mut left = self.bytes;
        let fits = |(at, size): &(usize, u64)| {
            let fits = *at == 0 || *size <= left;
            left = left.saturating_sub(*size);
            fits
        };
        sizes
            .into_iter()
            .take(self.items as usize)
            .enumerate()
            .take_while(fits)
            .count()
    }
}

/// A page of a chat's messages, newest first.
pub async fn chat_messages(
    db: &mut Connection,
    chat: ChatId,
    before: Option<MessageId>,
    limit: PageLimit,
) -> Result<MessagePage, Error> {
    let statement = format!(
        "SELECT messages.*, {MESSAGE_BYTES} FROM messages \
         WHERE chat_id = $1 AND id < $2 AND deleted_at IS NULL ORDER BY id DESC LIMIT $3"
    );
    // Nothing of a caller's is in the text.
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(chat.to_string())
        .bind(before.map_or(AFTER_ALL.to_owned(), |id| id.to_string()))
        .bind(i64::from(limit.items) + 1)
        .fetch_all(&mut *db)
        .await?;
    message_page(db, rows, limit).await
}

/// A page of a thread: its first message and the replies.
pub async fn thread(
    db: &mut Connection,
    root: MessageId,
    order: Order,
    after: Option<MessageId>,
    limit: PageLimit,
) -> Result<MessagePage, Error> {
    let (compare, order_by, start) = match order {
        Order::Ascending => (">", "id", ""),
        Order::Descending => ("<", "id DESC", AFTER_ALL),
    };
    let statement = format!(
        "SELECT messages.*, {MESSAGE_BYTES} FROM messages WHERE (id = $1 OR thread_root = $1) AND id {compare} $2 \
         AND deleted_at IS NULL ORDER BY {order_by} LIMIT $3"
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(root.to_string())
        .bind(after.map_or(start.to_owned(), |id| id.to_string()))
        .bind(i64::from(limit.items) + 1)
        .fetch_all(&mut *db)
        .await?;
    message_page(db, rows, limit).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_ends_before_the_item_that_is_too_much() {
        let limit = PageLimit {
            items: 3,
            bytes: 10,
        };
        for (sizes, fitting) in [
            (&[][..], 0),
            (&[11, 1], 1),
            (&[4, 6, 1], 2),
            (&[4, 7, 1], 1),
            (&[1, 1, 1, 1], 3),
            (&[u64::MAX, u64::MAX], 1),
        ] {
            assert_eq!(limit.fitting(sizes.iter().copied()), fitting, "{sizes:?}");
        }
    }
}
