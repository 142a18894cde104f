//! Defines chats. A chat has a line, an exact set of recipients, and participants.

use std::collections::HashSet;

use crate::clock::Timestamp;
use crate::domain::handle::{PhoneNumber, Recipient};
use crate::id::{ChatId, HandleId, LineId, MessageId, PartnerId};

/// Maximum number of recipients of a chat (Linq Partner API v3, `POST /v3/chats`, field `to`).
pub const MAX_RECIPIENTS: usize = 31;

/// A phone number that a partner may send from.
#[derive(Clone, Debug)]
pub struct Line {
    pub id: LineId,
    pub phone_number: PhoneNumber,
}

/// A set of recipients without duplicates, in the order of the request.
#[derive(Clone, Debug)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Builds the set and drops duplicates.
    #[must_use]
    pub fn new(recipients: Vec<Recipient>) -> Self {
        let mut seen = HashSet::new();
        Self(
            recipients
                .into_iter()
                .filter(|recipient| seen.insert(recipient.clone()))
                .collect(),
        )
    }

    #[must_use]
    pub fn as_slice(&self) -> &[Recipient] {
        &self.0
    }

    /// Returns the canonical form of the set, equal for equal sets. The database looks up chats by
    /// it.
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
    /// Id of the participant, which stays the same within a chat.
    pub id: HandleId,
    /// Phone number or e-mail address.
    pub handle: String,
    /// True for the partner's own line.
    pub is_me: bool,
    pub joined_at: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Chat {
    pub id: ChatId,
    pub partner_id: PartnerId,
    /// The partner's line in this chat.
    pub line: PhoneNumber,
    /// All participants, the line first.
    pub participants: Vec<Participant>,
    /// The newest message; chat lists are sorted by it.
    pub last_message_id: MessageId,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Chat {
    /// Returns all participants except the line.
    pub fn others(&self) -> impl Iterator<Item = &Participant> {
        self.participants
            .iter()
            .filter(|participant| !participant.is_me)
    }

    /// Returns true if the chat has more than one recipient.
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.others().count() > 1
    }

    /// Returns the recipients joined by `, `.
    #[must_use]
    pub fn display_name(&self) -> String {
        self.others()
            .map(|participant| participant.handle.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    }
}
