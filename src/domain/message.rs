//! Defines messages with their states, effects and limits.

use crate::clock::Timestamp;
use crate::domain::part::Part;
use crate::id::{ChatId, HandleId, MessageId};
use crate::quote::quoted;

/// Maximum length of an idempotency key, in characters.
pub const MAX_IDEMPOTENCY_KEY_LENGTH: usize = 255;

/// Delivery progress of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeliveryStatus {
    /// Accepted and stored.
    Pending,
    /// Claimed by a delivery worker.
    Queued,
    /// Handed to the carrier.
    Sent,
    /// Delivery confirmed by the carrier.
    Delivered,
    /// Delivery failed permanently.
    Failed,
}

impl DeliveryStatus {
    /// Returns the name used on the wire and in the database.
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

    /// Parses a name returned by [`Self::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Queued,
            Self::Sent,
            Self::Delivered,
            Self::Failed,
        ]
        .into_iter()
        .find(|status| status.as_str() == name)
    }
}

/// The messaging service requested by the caller or used by the carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageService {
    /// iMessage, without fallback.
    IMessage,
    /// RCS with fallback to SMS.
    Rcs,
    /// RCS with fallback to SMS.
    Sms,
}

impl MessageService {
    /// Returns the name used on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IMessage => "iMessage",
            Self::Rcs => "RCS",
            Self::Sms => "SMS",
        }
    }

    /// Parses a name returned by [`Self::as_str`].
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::IMessage, Self::Rcs, Self::Sms]
            .into_iter()
            .find(|service| service.as_str() == name)
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
    pub name: String,
}

impl Effect {
    /// Validates kind and name against the published lists. A missing kind is derived from the
    /// name.
    ///
    /// # Errors
    /// The invalid value and the accepted ones, as a sentence.
    pub fn new(kind: Option<&str>, name: &str) -> Result<Self, String> {
        let kind = match kind {
            Some(kind @ ("screen" | "bubble")) => kind,
            Some(other) => {
                return Err(format!(
                    "effect.type is \"screen\" or \"bubble\", not {}",
                    quoted(other)
                ));
            }
            None if BUBBLE_EFFECTS.contains(&name) => "bubble",
            None => "screen",
        };
        let names = if kind == "screen" {
            SCREEN_EFFECTS
        } else {
            BUBBLE_EFFECTS
        };
        if !names.contains(&name) {
            return Err(format!(
                "effect.name of a {kind} effect is one of {}; not {name}",
                names.join(", "),
                name = quoted(name)
            ));
        }
        Ok(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// The message part that a reply refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub message_id: MessageId,
    /// Index of the part, counted from 0.
    pub part_index: u32,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub id: MessageId,
    pub chat_id: ChatId,
    /// Participant who sent the message.
    pub sender: HandleId,
    /// True for a voice memo: a single part, played inside the conversation.
    pub voice_memo: bool,
    /// Message parts in display order.
    pub parts: Vec<Part>,
    pub effect: Option<Effect>,
    pub reply_to: Option<ReplyTo>,
    /// The first message of the reply thread; `None` outside a thread and for that first message
    /// itself.
    pub thread_root: Option<MessageId>,
    /// The service requested by the caller.
    pub preferred_service: Option<MessageService>,
    /// The service used by the carrier.
    pub service: Option<MessageService>,
    pub status: DeliveryStatus,
    /// Time at which the API accepted the message.
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Time at which the carrier accepted the message.
    pub sent_at: Option<Timestamp>,
    /// Time at which the carrier confirmed delivery.
    pub delivered_at: Option<Timestamp>,
}

impl Message {
    /// Removes expired files, as if they had been deleted.
    pub fn drop_expired(&mut self, now: Timestamp) {
        for part in &mut self.parts {
            if let Part::Media(file) = part {
                *file = file.take().filter(|attachment| !attachment.is_expired(now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effect_name_of_another_kind_is_rejected() {
        assert_eq!(
            Effect::new(None, "slam").map(|effect| effect.kind),
            Ok("bubble".to_owned())
        );
        assert_eq!(
            Effect::new(None, "confetti").map(|effect| effect.kind),
            Ok("screen".to_owned())
        );
        assert!(Effect::new(Some("screen"), "slam").is_err());
        assert!(Effect::new(Some("sound"), "slam").is_err());
        assert!(Effect::new(Some("bubble"), "").is_err());
    }
}
