//! Reads messages and chats, one by one or by page, and deletes messages.

pub mod list;

use crate::budget::AtCapacity;
use crate::clock::Clock;
use crate::db::admission::Database;
use crate::db::{self, Connection, chats, messages};
use crate::domain::chat::Chat;
use crate::domain::handle::PhoneNumber;
use crate::domain::message::Message;
use crate::id::{ChatId, MessageId, PartnerId};

/// Reasons why chats or messages cannot be read or deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chat does not exist or belongs to another partner.
    #[error("Chat not found")]
    ChatNotFound,
    /// The message does not exist or belongs to another partner.
    #[error("Message not found")]
    MessageNotFound,
    /// The number is not a line of the partner.
    #[error("{0} is not one of your phone numbers; GET /v3/phone_numbers lists them")]
    LineNotOwned(PhoneNumber),
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    #[error(transparent)]
    Db(db::Error),
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::AtCapacity(refused) => Self::AtCapacity(refused),
            error => Self::Db(error),
        }
    }
}

/// Operations on messages and chats.
#[derive(Debug)]
pub struct Messages {
    db: Database,
    clock: Clock,
}

impl Messages {
    #[must_use]
    pub(crate) fn new(db: Database, clock: Clock) -> Self {
        Self { db, clock }
    }

    /// Returns a partner's chat.
    ///
    /// # Errors
    /// It does not exist or belongs to another partner, or the database fails.
    pub async fn chat(&self, partner: PartnerId, id: ChatId) -> Result<Chat, Error> {
        chats::find(&mut *self.db.read(partner).await?, partner, id)
            .await?
            .ok_or(Error::ChatNotFound)
    }

    /// Returns a partner's message and its chat.
    ///
    /// # Errors
    /// It does not exist or belongs to another partner, or the database fails.
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

    /// Deletes a message from this server. Recipients keep their copy, and its attachments are not
    /// deleted.
    ///
    /// # Errors
    /// It does not exist or belongs to another partner, or the database fails.
    pub async fn delete(&self, partner: PartnerId, id: MessageId) -> Result<(), Error> {
        let now = self.clock.now();
        let delete = self
            .db
            .transaction(partner, async move |db: &mut Connection| {
                messages::delete(db, partner, id, now).await
            });
        if delete.await? {
            Ok(())
        } else {
            Err(Error::MessageNotFound)
        }
    }
}
