//! Reading chats, messages and threads, one or a page at a time.

use crate::db::pages::{self, MessagePage, PageLimit};
use crate::db::{chats, messages};
use crate::domain::chat::Chat;
use crate::domain::message::Message;
use crate::domain::page::{ChatCursor, ChatFilter, Order};
use crate::id::{ChatId, MessageId, PartnerId};
use crate::service::{Error, Service};

/// A page, and where the next one starts.
#[derive(Debug)]
pub struct Page<T, C> {
    /// The items.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<C>,
}

/// Bytes of a page, about: a page ends before the item that would exceed them, whatever its `limit`.
const MAX_PAGE_BYTES: u64 = 1_048_576;

fn page_limit(items: u32) -> PageLimit {
    PageLimit {
        items,
        bytes: MAX_PAGE_BYTES,
    }
}

/// About what a chat takes as JSON: each participant stands in it, and in its name.
fn chat_bytes(chat: &Chat) -> u64 {
    chat.participants
        .iter()
        .map(|participant| 250 + 2 * participant.handle.len() as u64)
        .sum::<u64>()
        + 700
}

impl Service {
    /// A partner's chats, most recently active first.
    ///
    /// # Errors
    /// The filter names a line that is not the partner's.
    pub async fn chats(
        &self,
        partner: PartnerId,
        filter: ChatFilter,
        cursor: Option<ChatCursor>,
        limit: u32,
    ) -> Result<Page<Chat, ChatCursor>, Error> {
        if let Some(line) = &filter.line {
            self.own_line(partner, line).await?;
        }
        let mut db = self.db.read(partner).await?;
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
        Ok(Page {
            items: listed
                .into_iter()
                .take(fitting)
                .map(|listed| listed.chat)
                .collect(),
            next,
        })
    }

    /// A partner's chat.
    ///
    /// # Errors
    /// There is none, or it is another partner's.
    pub async fn chat(&self, partner: PartnerId, id: ChatId) -> Result<Chat, Error> {
        chats::find(&mut *self.db.read(partner).await?, partner, id)
            .await?
            .ok_or(Error::ChatNotFound)
    }

    /// A chat and its messages, newest first.
    ///
    /// # Errors
    /// There is no such chat.
    pub async fn chat_messages(
        &self,
        partner: PartnerId,
        id: ChatId,
        before: Option<MessageId>,
        limit: u32,
    ) -> Result<(Chat, Page<Message, MessageId>), Error> {
        let chat = self.chat(partner, id).await?;
        let page = pages::chat_messages(
            &mut *self.db.read(partner).await?,
            id,
            before,
            page_limit(limit),
        )
        .await?;
        Ok((chat, self.current(page)))
    }

    /// A message and its chat.
    ///
    /// # Errors
    /// There is no such message.
    pub async fn message(
        &self,
        partner: PartnerId,
        id: MessageId,
    ) -> Result<(Chat, Message), Error> {
        let mut db = self.db.read(partner).await?;
        let mut message = messages::find(&mut db, partner, id)
            .await?
            .ok_or(Error::MessageNotFound)?;
        message.drop_expired(self.clock.now());
        let chat = chats::find(&mut db, partner, message.chat_id)
            .await?
            .ok_or(Error::MessageNotFound)?;
        Ok((chat, message))
    }

    /// The thread a message is in.
    ///
    /// # Errors
    /// There is no such message.
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
        Ok((chat, self.current(page)))
    }

    /// A page of messages, without files whose time is over.
    fn current(
        &self,
        MessagePage {
            mut messages,
            has_more,
        }: MessagePage,
    ) -> Page<Message, MessageId> {
        let now = self.clock.now();
        for message in &mut messages {
            message.drop_expired(now);
        }
        let next = messages
            .last()
            .filter(|_| has_more)
            .map(|message| message.id);
        Page {
            items: messages,
            next,
        }
    }

    /// Deletes a message from our side. Recipients keep it, and its attachments stay.
    ///
    /// # Errors
    /// There is no such message.
    pub async fn delete_message(&self, partner: PartnerId, id: MessageId) -> Result<(), Error> {
        let now = self.clock.now();
        let delete = self.db.write(partner, move |db| {
            Box::pin(async move { messages::delete(db, partner, id, now).await })
        });
        let deleted = delete.await?;
        if deleted {
            Ok(())
        } else {
            Err(Error::MessageNotFound)
        }
    }
}
