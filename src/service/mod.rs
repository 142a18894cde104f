//! What the server does: the use cases, one file a subject, over database, blobs and clock. No HTTP, no SQL.

pub(crate) mod database;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

pub use crate::attachments::file_url::{FileUrls, SignedUrlError};
use database::Database;

use crate::blob::{self, BlobStore};
use crate::budget::{AtCapacity, Budget, Reservation};
use crate::clock::Clock;
use crate::config::{BaseUrl, Limits};
use crate::db::{self, Db};
use crate::domain::filename;
use crate::fetch::{self, Fetcher};
use crate::id::{AttachmentId, PartnerId};
use crate::metrics::Metrics;
use crate::transcode::Converter;
use crate::url_signing::Signer;

/// Why a call was refused. Each is one row of the table of errors in `docs/reference/errors.md`; only `http/error.rs` knows
/// their codes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The announced size of an attachment is zero or negative.
    #[error("size_bytes must be at least 1")]
    EmptyFile,
    /// The filename of an attachment has this number of characters.
    #[error("filename has {0} characters; at most {max} are accepted", max = filename::MAX_LENGTH)]
    FilenameTooLong(usize),
    /// A message cannot be the first of a new chat.
    #[error("the first message of a new chat cannot {0}; send it as the second")]
    FirstMessage(&'static str),
    /// Every line of the partner is excluded or a recipient.
    #[error("none of your phone numbers is left to send from: see exclude_from and to")]
    NoLineLeft,
    /// A reply names a part that its message does not have.
    #[error("reply_to.part_index {part_index} is out of range: the message has {parts} parts")]
    PartIndexOutOfRange {
        /// The index given.
        part_index: u32,
        /// Number of parts of the message.
        parts: usize,
    },
    /// A type that is not accepted.
    #[error("{0}")]
    UnsupportedType(String),
    /// A file at a URL that is not what the URL's extension says.
    #[error("{0}")]
    TypeMismatch(String),
    /// A file could not be fetched.
    #[error("could not fetch {url}: {source}")]
    Fetch {
        /// From where; without the query.
        url: String,
        /// Why not.
        source: fetch::Error,
    },
    /// A file that a message was about to use was deleted at that moment.
    #[error("a file of this message was deleted while it was being sent; try again")]
    AttachmentDeleted,
    /// A voice memo that is too large; the most bytes accepted.
    #[error("the file is too large for a voice memo; at most {0} bytes are accepted")]
    VoiceMemoTooLarge(u64),
    /// A budget is used up.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// A file that is to be converted before it can be sent. The send sees to that, and tries again.
    #[error("attachment {0} is being prepared; try again")]
    Unprepared(AttachmentId),
    /// Files that may have come without us. The send looks for them, and tries again.
    #[error("attachments are being looked at; try again")]
    Unsettled(Vec<AttachmentId>),
    /// A file that is too large; the most bytes accepted.
    #[error("the file is too large; at most {0} bytes are accepted")]
    TooLarge(u64),
    /// The `from` number is not a line of the partner.
    #[error("{0} is not one of your phone numbers; GET /v3/phone_numbers lists them")]
    LineNotOwned(String),
    /// No such chat.
    #[error("Chat not found")]
    ChatNotFound,
    /// No such message.
    #[error("Message not found")]
    MessageNotFound,
    /// No such attachment.
    #[error("Attachment not found")]
    AttachmentNotFound,
    /// The attachment has no bytes yet.
    #[error("Attachment {0} is not ready: PUT the file to its upload_url first")]
    AttachmentNotReady(String),
    /// A mention in a direct chat.
    #[error("a mention needs a group chat; this chat has one recipient")]
    MentionInDirectChat,
    /// Too many messages from one line to one recipient.
    #[error(
        "more than {limit} messages from {line} to {recipient} in {window} s; try again in {retry_after} s"
    )]
    RateLimited {
        /// The line.
        line: String,
        /// The recipient.
        recipient: String,
        /// Messages allowed.
        limit: u64,
        /// In how many seconds.
        window: u64,
        /// Seconds until the next is allowed.
        retry_after: u64,
    },
    /// Too many attachments wait for their bytes.
    #[error(
        "{limit} attachments wait for their upload already; upload or delete some, or try again in {retry_after} s"
    )]
    TooManyPending {
        /// How many may wait.
        limit: u64,
        /// Seconds until it is worth trying again.
        retry_after: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Db(db::Error),
    /// The blob store failed.
    #[error(transparent)]
    Blob(#[from] blob::Error),
    /// The bytes of an attachment are not there, or not whole, although they were stored.
    #[error("the bytes of attachment {0} are lost or cut: restore them from a backup")]
    BlobMissing(AttachmentId),
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
    /// Returns true if the same call may succeed in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::AtCapacity(_) => true,
            Self::Db(error) => error.is_transient(),
            Self::Blob(error) => error.is_transient(),
            _ => false,
        }
    }
}

/// After this, a blob that no transaction came to name is removed by the sweeper. Only a crash leaves one.
pub(crate) const ORPHAN_TTL: Duration = Duration::from_hours(1);

/// The use cases and what they need.
#[derive(Debug)]
pub struct Service {
    pub(crate) db: Database,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) clock: Clock,
    pub(crate) signer: Signer,
    pub(crate) limits: Limits,
    pub(crate) public_url: BaseUrl,
    pub(crate) file_urls: FileUrls,
    pub(crate) fetcher: Fetcher,
    pub(crate) converter: Arc<Converter>,
    pub(crate) metrics: Metrics,
    pub(crate) outbox_filled: Arc<Notify>,
    pub(crate) keys: crate::partners::KeyCache,
    pub(crate) files: crate::attachments::download::OpenFileCache,
    pub(crate) pending: crate::attachments::pending_quota::PendingCounts,
    pub(crate) bodies: crate::attachments::upload_body::Bodies,
    pub(crate) strip_private_metadata: bool,
    /// Whether files are got from the store itself.
    pub(crate) redirects: bool,
    pub(crate) budgets: Budgets,
}

/// What callers can make the use cases and the layers above them hold.
#[derive(Debug)]
pub(crate) struct Budgets {
    /// Bytes of uploads and fetched files that are not stored yet, and of answers that are too large for memory.
    pub(crate) temporary_bytes: Budget,
    /// Files whose type is being determined.
    pub(crate) inspections: Budget,
    /// Bytes of JSON bodies that are being read or handled.
    pub(crate) json_bytes: Budget,
    /// Running requests that came through a trusted proxy.
    pub(crate) proxied_requests: Budget,
    /// Large JSON bodies that are being parsed.
    pub(crate) large_bodies: Budget,
}

impl Budgets {
    pub(crate) fn new(limits: &Limits, metrics: &Metrics) -> Self {
        Self {
            temporary_bytes: Budget::new("temporary_bytes", limits.temporary_bytes(), metrics),
            inspections: Budget::new("inspections", limits.inspections(), metrics),
            json_bytes: Budget::new("json_bytes", limits.json_bytes(), metrics),
            proxied_requests: Budget::new("proxied_requests", limits.proxied_requests(), metrics),
            large_bodies: Budget::new("large_bodies", limits.large_bodies(), metrics),
        }
    }
}

/// What a [`Service`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// The database.
    pub db: Db,
    /// The bytes.
    pub blobs: Arc<dyn BlobStore>,
    /// The time.
    pub clock: Clock,
    /// The signer of upload URLs.
    pub signer: Signer,
    /// The limits.
    pub limits: Limits,
    /// Whether places and serial numbers are removed from what comes in.
    pub strip_private_metadata: bool,
    /// Whether who asks for a file is sent to the store itself, if clients can reach it.
    pub redirects: bool,
    /// Base of upload URLs.
    pub public_url: BaseUrl,
    /// Base of file URLs.
    pub cdn_url: BaseUrl,
    /// The outbound HTTP client.
    pub fetcher: Fetcher,
    /// What makes the forms that files are delivered in.
    pub converter: Arc<Converter>,
    /// Where things are counted.
    pub metrics: Metrics,
    /// Told when a message was put into the outbox.
    pub outbox_filled: Arc<Notify>,
}

impl Service {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            db,
            blobs,
            clock,
            signer,
            limits,
            strip_private_metadata,
            redirects,
            public_url,
            cdn_url,
            fetcher,
            converter,
            metrics,
            outbox_filled,
        } = parts;
        Self {
            file_urls: FileUrls::new(cdn_url, public_url.clone(), signer.clone(), clock.clone()),
            budgets: Budgets::new(&limits, &metrics),
            db: Database::new(db, &limits, &metrics),
            blobs,
            clock,
            signer,
            limits,
            public_url,
            fetcher,
            converter,
            metrics,
            outbox_filled,
            keys: crate::partners::KeyCache::default(),
            files: crate::attachments::download::OpenFileCache::default(),
            pending: crate::attachments::pending_quota::PendingCounts::default(),
            bodies: crate::attachments::upload_body::Bodies::default(),
            strip_private_metadata,
            redirects,
        }
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The budgets of what callers can make the server hold.
    pub(crate) fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// Where files are found.
    #[must_use]
    pub fn file_urls(&self) -> &FileUrls {
        &self.file_urls
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The outbound HTTP client.
    #[must_use]
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// What makes the forms that files are delivered in.
    #[must_use]
    pub fn converter(&self) -> &Converter {
        &self.converter
    }

    /// Where things are counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A permit to parse a large JSON body of a partner.
    ///
    /// # Errors
    /// None became free in time.
    pub async fn parse_permit(&self, partner: PartnerId) -> Result<Reservation, AtCapacity> {
        self.budgets
            .large_bodies
            .reserve(&partner.to_string(), 1)
            .await
    }

    /// Whether database and blob store answer: one line for each that does not.
    pub async fn check(&self) -> Vec<String> {
        let (db, blobs) = tokio::join!(self.db.check(), self.blobs.check());
        [
            db.err().map(|e| e.to_string()),
            blobs.err().map(|e| e.to_string()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
