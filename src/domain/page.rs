//! Defines the cursors and filters of paginated lists (keyset pagination). A cursor names the last
//! item of the previous page, so that items added between two pages cause neither repetitions nor
//! gaps.

use super::handle::PhoneNumber;
use crate::id::MessageId;

/// Restricts a list of chats.
#[derive(Clone, Debug, Default)]
pub struct ChatFilter {
    /// Only chats of this line.
    pub line: Option<PhoneNumber>,
    /// Only chats with this participant.
    pub participant: Option<String>,
}

/// A position in a list of chats.
///
/// Chats are sorted by their newest message, which can change between two pages. So all pages use
/// the order at the time of the first one: messages newer than `as_of` do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatCursor {
    /// The newest message at the time of the first page.
    pub as_of: MessageId,
    /// The newest message, at the time of the first page, in the last chat of the previous page.
    pub after: MessageId,
}

/// The order of the messages of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}
