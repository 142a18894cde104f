//! Defines the errors of a send.

use crate::attachments;
use crate::blob;
use crate::budget::AtCapacity;
use crate::db;
use crate::domain::fetch_url::FetchUrl;
use crate::domain::handle::PhoneNumber;
use crate::fetch;
use crate::id::AttachmentId;
use crate::media::Rejection;
use crate::quote::shown;

/// Reasons why a send fails. The URLs in these errors have no query, as it can contain secrets.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chat does not exist or belongs to another partner.
    #[error("Chat not found")]
    ChatNotFound,
    /// The message sent earlier with this idempotency key was deleted, or the message to reply to
    /// is not in the chat.
    #[error("Message not found")]
    MessageNotFound,
    /// The number is not a line of the partner.
    #[error("{0} is not one of your phone numbers; GET /v3/phone_numbers lists them")]
    LineNotOwned(PhoneNumber),
    /// No line is left to send from: each of the partner's lines is excluded or a recipient.
    #[error("none of your phone numbers is left to send from: see exclude_from and to")]
    NoLineLeft,
    /// The content is not accepted in the first message of a new chat.
    #[error("the first message of a new chat cannot {0}; send it as the second")]
    FirstMessage(&'static str),
    /// The message contains a mention, but its chat is not a group chat.
    #[error("a mention needs a group chat; this chat has one recipient")]
    MentionInDirectChat,
    /// The reply refers to a part that the original message does not have.
    #[error("reply_to.part_index {part_index} is out of range: the message has {parts} parts")]
    PartIndexOutOfRange { part_index: u32, parts: usize },
    /// The line has sent too many messages to one recipient.
    #[error(
        "more than {limit} messages from {line} to {recipient} in {window} s; try again in {retry_after} s"
    )]
    RateLimited {
        line: PhoneNumber,
        recipient: String,
        limit: u64,
        /// In seconds.
        window: u64,
        /// In seconds.
        retry_after: u64,
    },
    /// The attachment's file was not uploaded yet.
    #[error("Attachment {0} is not ready: PUT the file to its upload_url first")]
    AttachmentNotReady(AttachmentId),
    /// The attachment's upload was rejected.
    #[error("attachment {id} cannot be sent: {reason}")]
    AttachmentRejected { id: AttachmentId, reason: String },
    /// The file of a voice memo is not audio.
    #[error("{} is {noun}; a voice memo is sound: MP3, M4A, AAC, CAF, WAV, AIFF or AMR", shown(.filename))]
    NotAudio {
        filename: String,
        noun: &'static str,
    },
    /// The file of a voice memo cannot be decoded.
    #[error("{} holds no sound that can be played", shown(.0))]
    NotPlayable(String),
    /// The file of a voice memo is larger than this number of bytes.
    #[error("the file is too large for a voice memo; at most {0} bytes are accepted")]
    VoiceMemoTooLarge(u64),
    /// The media URL's filename has an extension that is not accepted.
    #[error("{url}: files named .{extension} are not supported")]
    UnsupportedExtension {
        url: String,
        extension: &'static str,
    },
    /// The fetched file's type is not accepted.
    #[error("{url}: {reason}")]
    UnsupportedType { url: String, reason: String },
    /// The fetched file's type does not match its media URL or the origin's `Content-Type`.
    #[error("{url}: {reason}")]
    TypeMismatch { url: String, reason: String },
    /// The fetched file is too large.
    #[error("could not fetch {url}: {source}")]
    FetchTooLarge { url: String, source: fetch::Error },
    /// The budget for concurrent fetches is used up.
    #[error("could not fetch {url}: {source}")]
    FetchAtCapacity {
        url: String,
        source: fetch::Error,
        refused: AtCapacity,
    },
    /// The file behind a media URL cannot be fetched.
    #[error("could not fetch {url}: {source}")]
    Fetch { url: String, source: fetch::Error },
    #[error(transparent)]
    Attachment(#[from] attachments::Error),
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    #[error(transparent)]
    Db(db::Error),
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::AtCapacity(refused) => Self::AtCapacity(refused),
            error => Self::Db(error),
        }
    }
}

impl Error {
    /// Converts a fetch error to a send error. For voice memos, a file that is too large has its
    /// own error.
    pub(super) fn from_fetch(url: &FetchUrl, source: fetch::Error, as_voice_memo: bool) -> Self {
        let url = url.to_string();
        match source.cause() {
            fetch::Error::TooLarge(limit) if as_voice_memo => Self::VoiceMemoTooLarge(*limit),
            fetch::Error::TooLarge(_) => Self::FetchTooLarge { url, source },
            fetch::Error::AtCapacity(refused) => Self::FetchAtCapacity {
                url,
                refused: *refused,
                source,
            },
            _ => Self::Fetch { url, source },
        }
    }

    /// Converts a fetched file's rejection to a send error.
    pub(super) fn from_rejection(url: &FetchUrl, rejection: Rejection) -> Self {
        let url = url.to_string();
        match rejection {
            Rejection::Unsupported(reason) => Self::UnsupportedType { url, reason },
            Rejection::Mismatch(reason) => Self::TypeMismatch { url, reason },
        }
    }

    /// Returns the outcome under which metrics count a failed fetch.
    pub(super) fn fetch_outcome(&self) -> &'static str {
        match self {
            Self::Fetch { source, .. }
            | Self::FetchTooLarge { source, .. }
            | Self::FetchAtCapacity { source, .. } => source.kind(),
            Self::UnsupportedExtension { .. }
            | Self::UnsupportedType { .. }
            | Self::TypeMismatch { .. }
            | Self::NotAudio { .. }
            | Self::NotPlayable(_) => "refused",
            Self::VoiceMemoTooLarge(_) => "too_large",
            Self::AtCapacity(_) | Self::Attachment(attachments::Error::AtCapacity(_)) => {
                "at_capacity"
            }
            _ => "error",
        }
    }

    /// Returns true for a database failure after which the transaction may have been committed.
    pub(super) fn leaves_outcome_unknown(&self) -> bool {
        matches!(self, Self::Db(_))
    }
}
