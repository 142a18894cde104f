//! Manages attachments throughout their life: create, upload, inspect, transcode, download, expire,
//! delete.

mod active_uploads;
mod config;
pub mod create;
mod delete;
mod delete_expired;
pub(crate) mod direct_uploads;
pub mod download;
mod expire_pending;
pub(crate) mod file_url;
mod find;
pub(crate) mod inspect;
mod open_files;
mod pending_quota;
mod process_deletions;
mod reuse;
pub(crate) mod staging;
pub mod upload;
pub(crate) mod variants;

use std::sync::Arc;

use crate::blob::{self, BlobStore};
use crate::budget::{AtCapacity, Budget};
use crate::clock::Clock;
use crate::db;
use crate::db::admission::Database;
use crate::domain::filename;
use crate::id::AttachmentId;
use crate::metrics::Metrics;
use crate::quote::quoted;
use crate::transcode::Converter;

pub use config::{CdnMode, Config};
pub use file_url::{FileUrls, SignedUrlError};

/// Reasons why an operation on an attachment fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("size_bytes must be at least 1")]
    EmptyFile,
    /// The filename is longer than accepted. Contains its length in characters.
    #[error("filename has {0} characters; at most {most} are accepted", most = filename::MAX_LENGTH)]
    FilenameTooLong(usize),
    /// The declared media type is not accepted.
    #[error(
        "content_type {} is not supported; docs/reference/media-types.md lists what is, without parameters",
        quoted(.0)
    )]
    UnsupportedType(String),
    /// The filename has the extension of a type that is not accepted.
    #[error("files named .{0} are not supported")]
    UnsupportedExtension(&'static str),
    /// The file is larger than this number of bytes.
    #[error("the file is too large; at most {0} bytes are accepted")]
    TooLarge(u64),
    /// The partner's quota of pending attachments is used up.
    #[error(
        "{limit} attachments wait for their upload already; upload or delete some, or try again in {retry_after} s"
    )]
    TooManyPending {
        limit: u64,
        /// Time after which the caller may try again, in seconds.
        retry_after: u64,
    },
    /// The attachment does not exist or belongs to another partner.
    #[error("Attachment not found")]
    NotFound,
    /// The attachment was deleted while a message that uses it was being sent.
    #[error("a file of this message was deleted while it was being sent; try again")]
    Deleted,
    /// The blob of a stored attachment is missing or truncated.
    #[error("the bytes of attachment {0} are lost or cut: restore them from a backup")]
    BlobMissing(AttachmentId),
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

/// Operations on attachments, with the state that they share.
#[derive(Debug)]
pub struct Attachments {
    db: Database,
    blobs: Arc<dyn BlobStore>,
    clock: Clock,
    config: Config,
    file_urls: FileUrls,
    converter: Arc<Converter>,
    temporary_bytes: Budget,
    inspections: Budget,
    metrics: Metrics,
    open_files: open_files::OpenFileCache,
    pending_counts: pending_quota::PendingCounts,
    active_uploads: active_uploads::ActiveUploads,
}

impl Attachments {
    #[must_use]
    pub(crate) fn new(
        db: Database,
        blobs: Arc<dyn BlobStore>,
        clock: Clock,
        file_urls: FileUrls,
        converter: Arc<Converter>,
        config: Config,
        metrics: Metrics,
    ) -> Self {
        Self {
            db,
            blobs,
            clock,
            file_urls,
            converter,
            temporary_bytes: Budget::new("temporary_bytes", config.temporary_bytes(), &metrics),
            inspections: Budget::new("inspections", config.inspections(), &metrics),
            config,
            metrics,
            open_files: open_files::OpenFileCache::default(),
            pending_counts: pending_quota::PendingCounts::default(),
            active_uploads: active_uploads::ActiveUploads::default(),
        }
    }

    #[must_use]
    pub fn file_urls(&self) -> &FileUrls {
        &self.file_urls
    }

    /// Returns the budget for bytes that are not stored yet. It also covers large responses while
    /// they are buffered in temporary files.
    #[must_use]
    pub(crate) fn temporary_bytes(&self) -> &Budget {
        &self.temporary_bytes
    }

    /// Checks that the database and the blob store respond. Returns one error description for each
    /// that does not.
    pub async fn check(&self) -> Vec<String> {
        let (db, blobs) = tokio::join!(self.db.check(), self.blobs.check());
        let db = db.err().map(|error| error.to_string());
        let blobs = blobs.err().map(|error| error.to_string());
        [db, blobs].into_iter().flatten().collect()
    }

    /// Returns the version of ffmpeg, or `None` if there is none.
    pub async fn ffmpeg_version(&self) -> Option<String> {
        let ffmpeg = self.converter.ffmpeg().await;
        ffmpeg.map(|ffmpeg| ffmpeg.version.clone())
    }
}
