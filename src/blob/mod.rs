//! Stores blobs: immutable files under a key, visible as a whole or not at all. Blob stores write
//! them crash-safely and read ranges of them. This module knows nothing of attachments, partners or
//! HTTP, except for the headers that objects in a bucket carry.

mod buffer_pool;
mod digest;
mod local;
mod memory;
pub mod s3;
mod staging;

use std::fmt;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hyper::Method;

pub use digest::Digests;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use s3::S3Store;

pub use crate::domain::blob_key::BlobKey;
pub use crate::domain::object_headers::ObjectHeaders;
use crate::id::BlobId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A staged blob cannot be read back.
    #[error("cannot read back what was written: {0}")]
    ReadBack(io::Error),
    /// A blocking or detached task panicked or was cancelled.
    #[error("a storage task was stopped before it finished")]
    TaskFailed,
    /// The bucket is unreachable or asks to retry later.
    #[error("cannot {action} now: {problem}")]
    Unavailable {
        action: &'static str,
        problem: String,
    },
    /// The bucket rejected a request.
    #[error("the bucket refused to {action} with {status} {code}{hint}")]
    Rejected {
        action: &'static str,
        /// HTTP status of the bucket's response.
        status: u16,
        /// S3 error code, such as `AccessDenied`.
        code: String,
        /// Advice to the operator, starting with a colon; empty if none is known.
        hint: String,
    },
    /// The bucket accepted a request, but its response cannot be used.
    #[error("cannot {action}: the response of the bucket {problem}")]
    InvalidResponse {
        action: &'static str,
        problem: String,
    },
    /// The bucket lacks a required feature of S3.
    #[error("the bucket ignores {0}, which Haversack needs")]
    MissingFeature(&'static str),
    /// The object was replaced or deleted after it was found.
    #[error("the bytes were replaced while they were being used")]
    PreconditionFailed,
    /// The blob no longer exists.
    #[error("the bytes were removed while they were being used")]
    NotFound,
}

impl Error {
    /// Returns true if a retry can succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Converts a read error of a [`RandomAccess`] or a [`ByteStream`].
    #[must_use]
    pub fn from_read(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::ReadBack)
    }
}

/// The bytes of a blob or range, in order.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync {
    /// Starts a blob. It is not visible to readers; dropping the writer discards it.
    async fn create(&self) -> Result<Box<dyn BlobWriter>, Error>;

    /// Opens a blob; `None` if there is none. An open blob can be read to its end even if it is
    /// removed meanwhile.
    async fn open(&self, key: &BlobKey) -> Result<Option<Arc<dyn Blob>>, Error>;

    /// Removes a blob. Succeeds even if the blob does not exist.
    async fn remove(&self, key: &BlobKey) -> Result<(), Error>;

    /// Verifies that the store can be written to.
    async fn check(&self) -> Result<(), Error>;

    /// Lists all blobs, in no order. A blob published or removed during the listing can be included
    /// or missing.
    fn list(&self) -> BoxStream<'_, Result<BlobMeta, Error>>;

    /// Returns the name of a blob in [`BlobStore::list`].
    fn name(&self, key: &BlobKey) -> String {
        key.id().to_string()
    }

    /// Returns the interface for clients that access the store directly; `None` if they cannot.
    fn bucket(&self) -> Option<&dyn DirectAccess> {
        None
    }
}

/// A blob as listed by [`BlobStore::list`].
#[derive(Clone, Debug)]
pub struct BlobMeta {
    /// Name in the store: an id in a folder, an object key below the prefix in a bucket.
    pub name: String,
    /// The id of the blob, or of the upload that the blob is a variant of; `None` if the name does
    /// not have the format of a blob.
    pub id: Option<BlobId>,
    pub size: u64,
    pub modified: SystemTime,
}

/// A store that clients can access with presigned URLs. Each direct upload has an object of its
/// own, which a later upload replaces; it is not a blob until it is published.
#[async_trait]
pub trait DirectAccess: Send + Sync {
    /// Returns a URL that accepts uploads with this type and length for `lifetime`.
    fn presign_put(
        &self,
        id: BlobId,
        content_type: &str,
        content_length: u64,
        lifetime: Duration,
    ) -> String;

    /// Returns the name of a direct upload in [`BlobStore::list`].
    fn upload_name(&self, id: BlobId) -> String;

    /// Returns a URL that serves a blob for `lifetime`, to GET or HEAD requests according to
    /// `method`.
    fn presign_get(&self, key: &BlobKey, method: &Method, lifetime: Duration) -> String;

    /// Stages the current direct upload; `None` if there is none. If another upload replaces it,
    /// reading and publishing fail with [`Error::PreconditionFailed`].
    async fn staged_upload(&self, id: BlobId) -> Result<Option<Box<dyn StagedBlob>>, Error>;

    /// Removes a direct upload. Succeeds even if it does not exist.
    async fn remove_upload(&self, id: BlobId) -> Result<(), Error>;

    /// Stages a copy of a blob, to be published under another key; `None` if there is no such blob.
    async fn staged_copy(&self, key: &BlobKey) -> Result<Option<Box<dyn StagedBlob>>, Error>;
}

/// A blob being written.
#[async_trait]
pub trait BlobWriter: Send {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error>;

    /// Completes the blob, which stays invisible to readers. In a folder it is durable from here
    /// on, in a bucket once it is published.
    async fn seal(self: Box<Self>) -> Result<Box<dyn StagedBlob>, Error>;
}

/// A file with blocking random access.
pub trait RandomAccess: Read + Seek + Send + Sync {
    /// Returns the size in bytes.
    ///
    /// # Errors
    /// The file's metadata cannot be read.
    fn size(&self) -> io::Result<u64>;

    /// Returns the underlying file, if it is a local one.
    fn as_file(&self) -> Option<&std::fs::File> {
        None
    }
}

impl RandomAccess for std::fs::File {
    fn as_file(&self) -> Option<&std::fs::File> {
        Some(self)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// A complete blob that is not visible to readers yet. Dropping it discards it.
#[async_trait]
pub trait StagedBlob: fmt::Debug + Send + Sync {
    fn digests(&self) -> &Digests;

    /// Opens the blob for inspection. Blocks the thread.
    ///
    /// # Errors
    /// The blob cannot be opened.
    fn content(&self) -> Result<Box<dyn RandomAccess>, Error>;

    /// Verifies that no read of [`StagedBlob::content`] failed: a parser may mistake a failed read
    /// for the end of the file.
    ///
    /// # Errors
    /// The first read error.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Publishes the blob under a key, atomically and durably.
    async fn publish(self: Box<Self>, key: &BlobKey, headers: &ObjectHeaders) -> Result<(), Error>;
}

/// An open blob.
#[async_trait]
pub trait Blob: fmt::Debug + Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Streams a range. The stream itself may still fail.
    async fn read(self: Arc<Self>, range: Range<u64>) -> Result<ByteStream, Error>;
}

/// Hashes a whole blob.
///
/// # Errors
/// The blob cannot be read.
pub async fn digests(blob: Arc<dyn Blob>) -> Result<Digests, Error> {
    let size = blob.size();
    let mut stream = blob.read(0..size).await?;
    let mut hasher = digest::Hasher::default();
    while let Some(chunk) = stream.next().await {
        hasher.update(&chunk.map_err(Error::from_read)?);
    }
    Ok(hasher.finish())
}
