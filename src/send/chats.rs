//! Finds the chat for a message: an existing one, or a new one that the commit creates.

use super::{Error, LineSelection};
use crate::clock::Timestamp;
use crate::db::{Connection, chats as table, partners};
use crate::domain::chat::{Chat, Line, Participant, Recipients};
use crate::domain::handle::PhoneNumber;
use crate::id::{ChatId, HandleId, MessageId, PartnerId};

/// Chat in which a message is sent.
#[derive(Clone, Debug)]
pub(super) struct ChatTarget {
    pub chat: Chat,
    /// Recipients with whom to create the chat, if it does not exist yet.
    pub new: Option<Recipients>,
    pub line_selection: LineSelection,
    /// Existing chat that is not used, because its line is excluded.
    pub previous: Option<ChatId>,
}

impl ChatTarget {
    pub(super) fn existing(chat: Chat) -> Self {
        Self {
            chat,
            new: None,
            line_selection: LineSelection::ReusedActiveChat,
            previous: None,
        }
    }

    fn new(
        partner: PartnerId,
        line: PhoneNumber,
        recipients: Recipients,
        previous: Option<ChatId>,
        now: Timestamp,
    ) -> Self {
        let line_selection = match previous {
            Some(_) => LineSelection::FailoverFlagged,
            None => LineSelection::NewBestNumber,
        };
        Self {
            chat: new_chat(partner, line, &recipients, now),
            new: Some(recipients),
            line_selection,
            previous,
        }
    }
}

/// Finds the line's chat with exactly these recipients, or prepares a new one.
pub(super) async fn find_on_line(
    db: &mut Connection,
    partner: PartnerId,
    line: &PhoneNumber,
    recipients: Recipients,
    now: Timestamp,
) -> Result<ChatTarget, Error> {
    let chats = table::with_recipients(db, partner, &recipients).await?;
    let existing = chats.into_iter().find(|chat| chat.line == *line);
    Ok(match existing {
        Some(chat) => ChatTarget::existing(chat),
        None => ChatTarget::new(partner, line.clone(), recipients, None, now),
    })
}

/// Finds the most recently active chat with exactly these recipients on a line that is not
/// excluded, or prepares a new one on the partner's first such line.
pub(super) async fn find_on_any_line(
    db: &mut Connection,
    partner: PartnerId,
    recipients: Recipients,
    excluded: &[PhoneNumber],
    now: Timestamp,
) -> Result<ChatTarget, Error> {
    let (usable, unused): (Vec<Chat>, Vec<Chat>) = table::with_recipients(db, partner, &recipients)
        .await?
        .into_iter()
        .partition(|chat| !excluded.contains(&chat.line));
    if let Some(chat) = usable.into_iter().next() {
        return Ok(ChatTarget::existing(chat));
    }
    let lines = partners::lines(db, partner).await?;
    let is_recipient = |line: &PhoneNumber| {
        let mut recipients = recipients.as_slice().iter();
        recipients.any(|recipient| recipient.as_str() == line.as_str())
    };
    let is_usable =
        |line: &Line| !excluded.contains(&line.phone_number) && !is_recipient(&line.phone_number);
    let line = lines
        .into_iter()
        .find(is_usable)
        .ok_or(Error::NoLineLeft)?
        .phone_number;
    let previous = unused.first().map(|chat| chat.id);
    Ok(ChatTarget::new(partner, line, recipients, previous, now))
}

fn new_chat(
    partner: PartnerId,
    line: PhoneNumber,
    recipients: &Recipients,
    now: Timestamp,
) -> Chat {
    let participant = |handle: &str, is_me| Participant {
        id: HandleId::new(),
        handle: handle.to_owned(),
        is_me,
        joined_at: now,
    };
    let me = participant(line.as_str(), true);
    let others = recipients
        .as_slice()
        .iter()
        .map(|recipient| participant(recipient.as_str(), false));
    Chat {
        id: ChatId::new(),
        partner_id: partner,
        participants: std::iter::once(me).chain(others).collect(),
        line,
        last_message_id: MessageId::new(),
        created_at: now,
        updated_at: now,
    }
}
