//! JSON models of chats and messages, shared by the responses of several endpoints.

mod chat;
mod message;
mod part;

pub(super) use chat::{CHAT_SERVICE, ChatBody, HandleBody, HealthBody};
pub(super) use message::{MessageBody, MessageList, SentMessageBody};
