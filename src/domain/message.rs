//! Messages: their states, effects and limits.

use crate::clock::Timestamp;
use crate::domain::part::Part;
use crate::id::{ChatId, HandleId, MessageId};
use crate::quote::quoted;

/// Longest idempotency key, in characters.
pub const MAX_IDEMPOTENCY_KEY_LENGTH: usize = 255;

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeliveryStatus {
    /// Accepted and stored.
    Pending,
    /// Taken up for delivery.
    Queued,
    /// Handed to the carrier.
    Sent,
    /// Reported as arrived.
    Delivered,
    /// Given up.
    Failed,
}

impl DeliveryStatus {
    /// The name on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    /// The opposite of [`Self::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Pending, Self::Queued, Self::Sent, Self::Delivered, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// The service a caller would like a message to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// iMessage, without fallback.
    IMessage,
    /// RCS, else SMS.
    Rcs,
    /// RCS, else SMS.
    Sms,
}

impl Service {
    /// The name on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IMessage => "iMessage",
            Self::Rcs => "RCS",
            Self::Sms => "SMS",
        }
    }

    /// The opposite of [`Self::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::IMessage, Self::Rcs, Self::Sms].into_iter().find(|service| service.as_str() == name)
    }
}

const SCREEN_EFFECTS: &[&str] = &[
    "confetti",
    "fireworks",
    "lasers",
    "sparkles",
    "celebration",
    "hearts",
    "love",
    "balloons",
    "happy_birthday",
    "echo",
    "spotlight",
];
const BUBBLE_EFFECTS: &[&str] = &["slam", "loud", "gentle", "invisible"];

/// An iMessage effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// `screen` or `bubble`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Effect {
    /// Checks kind and name against the published lists. A missing kind is found by the name.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
    pub fn new(kind: Option<&str>, name: &str) -> Result<Self, String> {
        let kind = match kind {
            Some(kind @ ("screen" | "bubble")) => kind,
            Some(other) => {
                return Err(format!("effect.type is \"screen\" or \"bubble\", not {}", quoted(other)));
            }
            None if BUBBLE_EFFECTS.contains(&name) => "bubble",
            None => "screen",
        };
        let names = if kind == "screen" { SCREEN_EFFECTS } else { BUBBLE_EFFECTS };
        if !names.contains(&name) {
            return Err(format!(
                "effect.name of a {kind} effect is one of {}; not {name}",
                names.join(", "),
                name = quoted(name)
            ));
        }
        Ok(Self { kind: kind.to_owned(), name: name.to_owned() })
    }
}

/// What a message answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The message answered.
    pub message_id: MessageId,
    /// Which of its parts, counted from 0.
    pub part_index: u32,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// The chat it is in.
    pub chat_id: ChatId,
    /// The participant who wrote it.
    pub sender: HandleId,
    /// Whether it is a voice memo: one part, played in the conversation.
    pub voice_memo: bool,
    /// Its parts, in order.
    pub parts: Vec<Part>,
    /// Its effect.
    pub effect: Option<Effect>,
    /// What it answers.
    pub reply_to: Option<ReplyTo>,
    /// The first message of its thread, when it is in one and not the first itself.
    pub thread_root: Option<MessageId>,
    /// The service the caller asked for.
    pub preferred_service: Option<Service>,
    /// The service the carrier used.
    pub service: Option<Service>,
    /// How far it has come.
    pub status: DeliveryStatus,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When the carrier took it.
    pub sent_at: Option<Timestamp>,
    /// When it arrived.
    pub delivered_at: Option<Timestamp>,
}

impl Message {
    /// Takes out the files whose time is over, as if they had been deleted.
    pub fn forget_gone(&mut self, now: Timestamp) {
        for part in &mut self.parts {
            if let Part::Media(file) = part {
                *file = file.take().filter(|attachment| !attachment.is_gone(now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_checked_against_their_kind() {
        assert_eq!(Effect::new(None, "slam").map(|effect| effect.kind), Ok("bubble".to_owned()));
        assert_eq!(Effect::new(None, "confetti").map(|effect| effect.kind), Ok("screen".to_owned()));
        assert!(Effect::new(Some("screen"), "slam").is_err());
        assert!(Effect::new(Some("sound"), "slam").is_err());
        assert!(Effect::new(Some("bubble"), "").is_err());
    }
}
