//! Reading chats, messages and threads, one or a page at a time.

use super::{Error, Service};
use crate::db::lists::{self, ChatCursor, ChatFilter, Order};
use crate::db::{chats, messages};
use crate::domain::chat::Chat;
use crate::domain::message::Message;
use crate::id::{ChatId, MessageId, PartnerId};

/// A page, and where the next one starts.
#[derive(Debug)]
pub struct Page<T, C> {
    /// The items.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<C>,
}

/// One more than the page is asked for, to know whether there is a next one.
fn cut<T, C>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Page<T, C> {
    let limit = limit as usize;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(cursor);
    Page { items, next }
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
        let listed = lists::chats(&mut db, partner, &filter, cursor, limit + 1).await?;
        let as_of = cursor.map(|cursor| cursor.as_of).or(listed.first().map(|first| first.position));
        let page = cut(listed, limit, |chat| chat.position);
        let next = page.next.zip(as_of).map(|(after, as_of)| ChatCursor { as_of, after });
        Ok(Page { items: page.items.into_iter().map(|listed| listed.chat).collect(), next })
    }

    /// A partner's chat.
    ///
    /// # Errors
    /// There is none, or it is another partner's.
    pub async fn chat(&self, partner: PartnerId, id: ChatId) -> Result<Chat, Error> {
        chats::find(&mut *self.db.read(partner).await?, partner, id).await?.ok_or(Error::ChatNotFound)
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
        let messages = lists::chat_messages(&mut *self.db.read(partner).await?, id, before, limit + 1).await?;
        Ok((chat, cut(self.current(messages), limit, |message| message.id)))
    }

    /// A message and its chat.
    ///
    /// # Errors
    /// There is no such message.
    pub async fn message(&self, partner: PartnerId, id: MessageId) -> Result<(Chat, Message), Error> {
        let mut db = self.db.read(partner).await?;
        let mut message = messages::find(&mut db, partner, id).await?.ok_or(Error::MessageNotFound)?;
        message.forget_gone(self.clock.now());
        let chat = chats::find(&mut db, partner, message.chat_id).await?.ok_or(Error::MessageNotFound)?;
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
        let (chat, message) = self.message(partner, id).await?;
        let root = message.thread_root.unwrap_or(message.id);
        let messages = lists::thread(&mut *self.db.read(partner).await?, root, order, after, limit + 1).await?;
        Ok((chat, cut(self.current(messages), limit, |message| message.id)))
    }

    /// The messages without files whose time is over.
    fn current(&self, mut messages: Vec<Message>) -> Vec<Message> {
        let now = self.clock.now();
        for message in &mut messages {
            message.forget_gone(now);
        }
        messages
    }

    /// Deletes a message from our side. Recipients keep it, and its attachments stay.
    ///
    /// # Errors
    /// There is no such message.
    pub async fn delete_message(&self, partner: PartnerId, id: MessageId) -> Result<(), Error> {
        let now = self.clock.now();
        let delete =
            self.db.write(partner, move |db| Box::pin(async move { messages::delete(db, partner, id, now).await }));
        let deleted = delete.await?;
        if deleted { Ok(()) } else { Err(Error::MessageNotFound) }
    }
}
