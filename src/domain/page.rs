//! Positions and filters of lists. Lists are keyset pages: a cursor names the last item of the page before, so items that
//! are added between two pages are neither repeated nor hide others.

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
/// Chats are sorted by their newest message, which changes while a client reads page after page. The pages therefore show
/// the order at the time of the first page: a message newer than `as_of` does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatCursor {
    /// The newest message at the time of the first page.
    pub as_of: MessageId,
    /// The newest message, as of then, of the last chat of the page before.
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
