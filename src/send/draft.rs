//! Defines the input and the result of a send.

use crate::domain::chat::{Chat, Recipients};
use crate::domain::handle::PhoneNumber;
use crate::domain::message::{Effect, Message, MessageService, ReplyTo};
use crate::domain::part::DraftPart;
use crate::id::ChatId;

/// Destination of a message.
#[derive(Clone, Debug)]
pub enum Destination {
    /// The line's chat with exactly these recipients, created if necessary (`POST /v3/chats`).
    Line { from: PhoneNumber, to: Recipients },
    /// An existing chat (`POST /v3/chats/{id}/messages`).
    Chat(ChatId),
    /// A chat with exactly these recipients on the best line that is not excluded (`POST
    /// /v3/messages`).
    Anyone {
        to: Recipients,
        excluded: Vec<PhoneNumber>,
    },
}

/// A message to send, validated as far as possible without the database.
#[derive(Clone, Debug)]
pub struct Draft {
    pub destination: Destination,
    pub parts: Vec<DraftPart>,
    /// True for a voice memo: its single part is an audio file.
    pub voice_memo: bool,
    pub effect: Option<Effect>,
    pub reply_to: Option<ReplyTo>,
    pub preferred_service: Option<MessageService>,
    pub idempotency_key: Option<String>,
    /// Trace id of the API request.
    pub trace_id: String,
}

impl Draft {
    /// Returns the approximate number of bytes that the message will take in the database.
    pub(super) fn stored_bytes(&self) -> usize {
        let stored_bytes = |part: &DraftPart| match part {
            DraftPart::Text(text) => text.stored_bytes(),
            DraftPart::Link(url) => url.len(),
            DraftPart::Attachment(_) | DraftPart::OwnFile(_) | DraftPart::Url(_) => 0,
        };
        // The response stored under an idempotency key contains a second copy of the text.
        let copies = if self.idempotency_key.is_some() { 2 } else { 1 };
        copies * self.parts.iter().map(stored_bytes).sum::<usize>()
    }

    /// Returns the number of files to fetch by URL.
    pub(super) fn remote_files(&self) -> usize {
        let is_remote = |part: &&DraftPart| matches!(part, DraftPart::Url(_));
        self.parts.iter().filter(is_remote).count()
    }
}

/// Reasons why a line was chosen to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineSelection {
    /// A chat with these recipients existed.
    ReusedActiveChat,
    /// No chat with these recipients existed.
    NewBestNumber,
    /// A chat with these recipients existed, but its line was excluded.
    FailoverFlagged,
}

/// A sent message with its chat.
#[derive(Clone, Debug)]
pub struct SendOutcome {
    /// Chat after the send; it includes the message.
    pub chat: Chat,
    pub created_chat: bool,
    pub line_selection: LineSelection,
    /// Existing chat that was not used, because its line was excluded.
    pub previous_chat: Option<ChatId>,
    pub message: Message,
}

/// API response to a send. A copy is stored under the idempotency key, if there is one.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    /// HTTP status code.
    pub status: u16,
    /// Response body in JSON.
    pub body: String,
}
