//! Lists chats and messages page by page.

use super::{Error, Messages};
use crate::db::chats;
use crate::db::pages::{self, MessagePage, PageLimit};
use crate::db::{messages, partners};
use crate::domain::chat::Chat;
use crate::domain::message::Message;
use crate::domain::page::{ChatCursor, ChatFilter, Order};
use crate::id::{ChatId, MessageId, PartnerId};

/// One page of a list.
#[derive(Debug)]
pub struct Page<T, C> {
    pub items: Vec<T>,
    /// Cursor for the next page; `None` on the last page.
    pub next: Option<C>,
}

/// Approximate maximum size of a page in bytes, whatever its `limit`: the page ends before the item
/// that would exceed it.
const MAX_PAGE_BYTES: u64 = 1_048_576;

fn page_limit(items: u32) -> PageLimit {
    PageLimit {
        items,
        bytes: MAX_PAGE_BYTES,
    }
}

/// Returns the approximate size of a chat as JSON. Each participant counts twice: in the
/// participant list and in the chat's name.
fn chat_bytes(chat: &Chat) -> u64 {
    let participants = chat.participants.iter();
    let bytes = participants.map(|participant| 250 + 2 * participant.handle.len() as u64);
    bytes.sum::<u64>() + 700
}

impl Messages {
    /// Lists a partner's chats, most recently active first.
    ///
    /// # Errors
    /// The filter names a line that the partner does not own, or the database fails.
    pub async fn chats(
        &self,
        partner: PartnerId,
        filter: ChatFilter,
        cursor: Option<ChatCursor>,
        limit: u32,
    ) -> Result<Page<Chat, ChatCursor>, Error> {
        let mut db = self.db.read(partner).await?;
        if let Some(line) = &filter.line
            && !partners::owns_line(&mut db, partner, line).await?
        {
            return Err(Error::LineNotOwned(line.clone()));
        }
        let listed = pages::chats(&mut db, partner, &filter, cursor, limit + 1).await?;
        let as_of = cursor
            .map(|cursor| cursor.as_of)
            .or(listed.first().map(|first| first.position));
        let fitting =
            page_limit(limit).fitting(listed.iter().map(|listed| chat_bytes(&listed.chat)));
        let has_more = listed.len() > fitting;
        let last = listed[..fitting]
            .last()
            .filter(|_| has_more)
            .map(|last| last.position);
        let next = last
            .zip(as_of)
            .map(|(after, as_of)| ChatCursor { as_of, after });
        let items = listed.into_iter().take(fitting);
        Ok(Page {
            items: items.map(|listed| listed.chat).collect(),
            next,
        })
    }

    /// Returns a chat with a page of its messages, newest first.
    ///
    /// # Errors
    /// The chat does not exist or belongs to another partner, or the database fails.
    pub async fn chat_messages(
        &self,
        partner: PartnerId,
        id: ChatId,
        before: Option<MessageId>,
        limit: u32,
    ) -> Result<(Chat, Page<Message, MessageId>), Error> {
        let mut db = self.db.read(partner).await?;
        let chat = chats::find(&mut db, partner, id)
            .await?
            .ok_or(Error::ChatNotFound)?;
        let page = pages::chat_messages(&mut db, id, before, page_limit(limit)).await?;
        Ok((chat, self.page(page)))
    }

    /// Returns a page of the thread that contains a message, with its chat.
    ///
    /// # Errors
    /// The message does not exist or belongs to another partner, or the database fails.
    pub async fn thread(
        &self,
        partner: PartnerId,
        id: MessageId,
        order: Order,
        after: Option<MessageId>,
        limit: u32,
    ) -> Result<(Chat, Page<Message, MessageId>), Error> {
        let mut db = self.db.read(partner).await?;
        let (chat, root) = messages::find_thread(&mut db, partner, id)
            .await?
            .ok_or(Error::MessageNotFound)?;
        let chat = chats::find(&mut db, partner, chat)
            .await?
            .ok_or(Error::MessageNotFound)?;
        let page = pages::thread(&mut db, root, order, after, page_limit(limit)).await?;
        Ok((chat, self.page(page)))
    }

    /// Converts a page of database rows to messages, leaving out expired files.
    fn page(&self, page: MessagePage) -> Page<Message, MessageId> {
        let MessagePage {
            mut messages,
            has_more,
        } = page;
        let now = self.clock.now();
        for message in &mut messages {
            message.drop_expired(now);
        }
        let last = messages.last().filter(|_| has_more);
        Page {
            next: last.map(|message| message.id),
            items: messages,
        }
    }
}
