//! Reads pages of chats, messages and threads with keyset pagination: the cursor identifies the
//! last item returned, so items inserted between two pages do not cause other items to be repeated
//! or skipped.

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::row::{integer, size};
use super::{Connection, Error, chats, messages};
use crate::domain::chat::Chat;
use crate::domain::message::Message;
use crate::domain::page::{ChatCursor, ChatFilter, Order};
use crate::id::{ChatId, MessageId, PartnerId};

/// A text that sorts after every UUID; the cursor for the first page.
const AFTER_ALL: &str = "g";

/// A chat and its position in the list.
#[derive(Debug)]
pub struct ListedChat {
    pub chat: Chat,
    /// The chat's newest message at the time of the first page; determines the position.
    pub position: MessageId,
}

/// Maximum number of chats that a handle is in for these to be fetched one by one.
const MAX_SEARCHED_CHATS: i64 = 1000;

/// The query plan for a filter by participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ByParticipant {
    /// Lists all chats, without a filter by participant.
    All,
    /// Searches the index of participants: the handle is in few chats.
    Search,
    /// Scans the index of activity and tests each chat: the handle is in many chats, so the page
    /// fills quickly.
    Scan,
}

/// Returns true if a handle is in few of a partner's chats.
async fn is_rare(db: &mut Connection, partner: PartnerId, handle: &str) -> Result<bool, Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS chats FROM (SELECT chat_id FROM participants \
         WHERE partner_id = $1 AND handle = $2 LIMIT $3) AS few",
    )
    .bind(partner.to_string())
    .bind(handle)
    .bind(MAX_SEARCHED_CHATS + 1)
    .fetch_one(db)
    .await?;
    Ok(integer(&row, "chats")? <= MAX_SEARCHED_CHATS)
}

/// Builds the statement for a page of chats. Parameters: partner, `as_of`, `after`, limit, line,
/// participant; those of absent filters are omitted.
fn chats_statement(by_line: bool, by_participant: ByParticipant) -> String {
    let line = if by_line { "AND line = $5" } else { "" };
    let handle = if by_line { "$6" } else { "$5" };
    let (from, participant) = match by_participant {
        ByParticipant::All => ("chats", String::new()),
        // SQLite does not reorder a CROSS JOIN.
        ByParticipant::Search => (
            "participants CROSS JOIN chats",
            format!(
                "AND participants.partner_id = $1 AND participants.handle = {handle} \
                 AND chats.id = participants.chat_id"
            ),
        ),
        ByParticipant::Scan => (
            "chats",
            format!(
                "AND EXISTS (SELECT 1 FROM participants WHERE chat_id = chats.id AND handle = {handle})"
            ),
        ),
    };
    // The first half scans an index up to the limit; the second computes the former position of the
    // few chats with newer messages.
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

/// Returns all variants of the statement, for the test of query plans.
#[cfg(test)]
pub(super) fn statements() -> Vec<String> {
    let plans = [
        ByParticipant::All,
        ByParticipant::Search,
        ByParticipant::Scan,
    ];
    plans
        .into_iter()
        .flat_map(|plan| [false, true].map(|by_line| chats_statement(by_line, plan)))
        .collect()
}

/// Returns a page of a partner's chats, most recently active first.
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
        Some(_) => ByParticipant::Scan,
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

/// The maximum size of a page.
#[derive(Clone, Copy, Debug)]
pub struct PageLimit {
    /// Maximum number of items.
    pub items: u32,
    /// Maximum total size of the items in bytes; a single larger item is a page of its own.
    pub bytes: u64,
}

/// A page of messages.
#[derive(Debug)]
pub struct MessagePage {
    pub messages: Vec<Message>,
    /// True if further messages follow.
    pub has_more: bool,
}

/// Estimated size of a message as JSON, computed without reading its parts: neither engine loads a
/// text to determine its length. The filename of a part appears twice, once percent-encoded in the
/// URL.
pub(super) const MESSAGE_BYTES: &str = "(SELECT 700 + COALESCE(SUM(500 + COALESCE(octet_length(parts.body), 0) \
    + 4 * COALESCE(octet_length(attachments.filename), 0)), 0) \
    FROM parts LEFT JOIN attachments ON attachments.id = parts.attachment_id \
    WHERE parts.message_id = messages.id) AS bytes";

/// Reads the messages of a page with their parts. `rows` contains one row more than the page can
/// hold if further messages follow.
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
    /// Returns the number of items, given their sizes, that fit on a page: at least one, if there
    /// is one.
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

/// Returns a page of a chat's messages, newest first.
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
    // Safe from SQL injection: the text contains only constants.
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(chat.to_string())
        .bind(before.map_or(AFTER_ALL.to_owned(), |id| id.to_string()))
        .bind(i64::from(limit.items) + 1)
        .fetch_all(&mut *db)
        .await?;
    message_page(db, rows, limit).await
}

/// Returns a page of a thread: its first message and the replies.
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
    fn page_ends_before_the_item_that_exceeds_it() {
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
