//! Which chat a message goes into, and making it if there is none.

use crate::clock::Timestamp;
use crate::db::{Connection, chats as table, partners};
use crate::domain::chat::{Chat, Line, Participant, Recipients};
use crate::domain::handle::PhoneNumber;
use crate::id::{ChatId, HandleId, MessageId, PartnerId};
use crate::service::{Error, Service};

/// Why a line was chosen for a message that named none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineSelection {
    /// There was a chat with these recipients.
    ReusedActiveChat,
    /// There was none.
    NewBestNumber,
    /// There was one, but its line was excluded.
    FailoverFlagged,
}

/// A chat for a message.
#[derive(Clone, Debug)]
pub(crate) struct ChatTarget {
    pub chat: Chat,
    /// The set to make it with, if it does not exist yet.
    pub new: Option<Recipients>,
    pub choice: LineSelection,
    /// The chat that was passed over.
    pub previous: Option<ChatId>,
}

impl Service {
    /// Refuses a number that is not a line of the partner.
    pub(crate) async fn own_line(
        &self,
        partner: PartnerId,
        number: &PhoneNumber,
    ) -> Result<(), Error> {
        own_line(&mut *self.db.read(partner).await?, partner, number).await
    }
}

pub(crate) async fn own_line(
    db: &mut Connection,
    partner: PartnerId,
    number: &PhoneNumber,
) -> Result<(), Error> {
    let owned = partners::lines(db, partner)
        .await?
        .iter()
        .any(|line| line.phone_number == *number);
    if owned {
        Ok(())
    } else {
        Err(Error::LineNotOwned(number.to_string()))
    }
}

/// The chat of a line and exactly these recipients, or a draft of it.
pub(crate) async fn find_on_line(
    db: &mut Connection,
    partner: PartnerId,
    line: &PhoneNumber,
    recipients: Recipients,
    now: Timestamp,
) -> Result<ChatTarget, Error> {
    let existing = table::with_recipients(db, partner, &recipients).await?;
    Ok(match existing.into_iter().find(|chat| chat.line == *line) {
        Some(chat) => ChatTarget {
            chat,
            new: None,
            choice: LineSelection::ReusedActiveChat,
            previous: None,
        },
        None => ChatTarget {
            chat: draft(partner, line.clone(), &recipients, now),
            new: Some(recipients),
            choice: LineSelection::NewBestNumber,
            previous: None,
        },
    })
}

/// The most recently active chat of exactly these recipients on any line that is not excluded, else a draft on the
/// partner's first such line.
pub(crate) async fn find_on_any_line(
    db: &mut Connection,
    partner: PartnerId,
    recipients: Recipients,
    excluded: &[PhoneNumber],
    now: Timestamp,
) -> Result<ChatTarget, Error> {
    let (usable, passed_over): (Vec<Chat>, Vec<Chat>) =
        table::with_recipients(db, partner, &recipients)
            .await?
            .into_iter()
            .partition(|chat| !excluded.contains(&chat.line));
    if let Some(chat) = usable.into_iter().next() {
        return Ok(ChatTarget {
            chat,
            new: None,
            choice: LineSelection::ReusedActiveChat,
            previous: None,
        });
    }
    let lines = partners::lines(db, partner).await?;
    let is_usable = |line: &&Line| {
        !excluded.contains(&line.phone_number)
            && recipients
                .as_slice()
                .iter()
                .all(|recipient| recipient.as_str() != line.phone_number.as_str())
    };
    let line = lines.iter().find(is_usable).ok_or(Error::NoLineLeft)?;
    let previous = passed_over.first().map(|chat| chat.id);
    Ok(ChatTarget {
        chat: draft(partner, line.phone_number.clone(), &recipients, now),
        new: Some(recipients),
        choice: if previous.is_some() {
            LineSelection::FailoverFlagged
        } else {
            LineSelection::NewBestNumber
        },
        previous,
    })
}

fn draft(partner: PartnerId, line: PhoneNumber, recipients: &Recipients, now: Timestamp) -> Chat {
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
