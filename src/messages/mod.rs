//! Reading messages and chats.

pub mod list;
