//! Defines the JSON models of chats and messages, which the responses of several endpoints share.

mod chat;
mod message;
mod part;

pub(super) use chat::{CHAT_SERVICE, ChatBody, HandleBody, HealthBody};
pub(super) use message::{MessageBody, MessageList, SentMessageBody};
