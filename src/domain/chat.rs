//! Chats: a line, the exact set of recipients, and who takes part.

use std::collections::HashSet;

use crate::clock::Timestamp;
use crate::domain::handle::{PhoneNumber, Recipient};
use crate::id::{ChatId, HandleId, LineId, MessageId, PartnerId};

/// Most recipients of a chat (Linq Partner API v3, `POST /v3/chats`, field `to`).
pub const MAX_RECIPIENTS: usize = 31;

/// A phone number a partner may send from.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its id.
    pub id: LineId,
    /// The number.
    pub phone_number: PhoneNumber,
}

/// A set of recipients: each once, in the order given.
#[derive(Clone, Debug)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// From a list; duplicates count once.
    #[must_use]
    pub fn new(recipients: Vec<Recipient>) -> Self {
        let mut seen = HashSet::new();
        Self(recipients.into_iter().filter(|recipient| seen.insert(recipient.clone())).collect())
    }

    /// Each recipient once.
    #[must_use]
    pub fn as_slice(&self) -> &[Recipient] {
        &self.0
    }

    /// The set as one string, equal for equal sets: what the database finds a chat by.
    #[must_use]
    pub fn key(&self) -> String {
        let mut sorted: Vec<&str> = self.0.iter().map(Recipient::as_str).collect();
        sorted.sort_unstable();
        sorted.join(" ")
    }
}

/// A participant of one chat.
#[derive(Clone, Debug)]
pub struct Participant {
    /// Stable per chat and participant.
    pub id: HandleId,
    /// The number or address.
    pub handle: String,
    /// Whether it is the partner's own line.
    pub is_me: bool,
    /// Since when.
    pub joined_at: Timestamp,
}

/// A chat.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Its id.
    pub id: ChatId,
    /// Whose it is.
    pub partner_id: PartnerId,
    /// The partner's line in it.
    pub line: PhoneNumber,
    /// Everyone in it, the line first.
    pub participants: Vec<Participant>,
    /// Its newest message: what lists are sorted by.
    pub last_message_id: MessageId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Chat {
    /// Everyone but the line.
    pub fn others(&self) -> impl Iterator<Item = &Participant> {
        self.participants.iter().filter(|participant| !participant.is_me)
    }

    /// More than one recipient makes a group.
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.others().count() > 1
    }

    /// The recipients joined by `, `.
    #[must_use]
    pub fn display_name(&self) -> String {
        self.others().map(|participant| participant.handle.as_str()).collect::<Vec<_>>().join(", ")
    }
}
