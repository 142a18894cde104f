//! Where bytes are kept. Owns writing them so that a reader sees a whole file or none, and reading parts of them.
//! Knows nothing of attachments, partners or HTTP.

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

pub use digest::Digests;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use s3::S3Store;

pub use crate::domain::blob_key::BlobKey;
use crate::id::BlobId;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was just written cannot be read back.
    #[error("cannot read back what was written: {0}")]
    ReadBack(io::Error),
    /// A task of ours ended early.
    #[error("a storage task was stopped before it finished")]
    TaskFailed,
    /// The bucket does not answer, or asks to come again later.
    #[error("cannot {action} now: {problem}")]
    Unavailable {
        /// What was tried.
        action: &'static str,
        /// What happened.
        problem: String,
    },
    /// The bucket will not do it.
    #[error("the bucket refused to {action} with {status} {code}{hint}")]
    Rejected {
        /// What was tried.
        action: &'static str,
        /// The HTTP status.
        status: u16,
        /// The bucket's own code, such as `AccessDenied`.
        code: String,
        /// What would mend it, after a colon; empty if that is not known.
        hint: String,
    },
    /// The bytes are not those that were there a moment ago.
    #[error("the bytes were replaced while they were being used")]
    PreconditionFailed,
    /// There is nothing of that name any more.
    #[error("the bytes were removed while they were being used")]
    NotFound,
}

impl Error {
    /// Whether it is worth trying again in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// What a failed read of a [`RandomAccess`] or a [`ByteStream`] was.
    #[must_use]
    pub fn from_read(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::ReadBack)
    }
}

/// What a file is told to be to whoever gets it from the store itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHeaders {
    /// `Content-Type`.
    pub content_type: String,
    /// `Content-Disposition`.
    pub content_disposition: String,
    /// `Cache-Control`.
    pub cache_control: &'static str,
}

/// Bytes on their way out, in order.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// A store of blobs.
#[async_trait]
pub trait BlobStore: fmt::Debug + Send + Sync {
    /// Starts a blob. Nothing of it can be read, and dropping the writer leaves nothing.
    async fn create(&self) -> Result<Box<dyn BlobWriter>, Error>;

    /// Opens a blob; `None` if there is none of that name. An open blob can be read to its end even if it is removed
    /// meanwhile.
    async fn open(&self, key: &BlobKey) -> Result<Option<Arc<dyn Blob>>, Error>;

    /// Removes a blob. Removing one that is not there is no error.
    async fn remove(&self, key: &BlobKey) -> Result<(), Error>;

    /// Whether the store can be written to.
    async fn check(&self) -> Result<(), Error>;

    /// Everything that is there, in no order. What comes or goes meanwhile may be told of or not.
    fn list(&self) -> BoxStream<'_, Result<BlobMeta, Error>>;

    /// The store as clients reach it by themselves; `None` if they cannot.
    fn bucket(&self) -> Option<&dyn DirectAccess> {
        None
    }
}

/// Something that is in a store.
#[derive(Clone, Debug)]
pub struct BlobMeta {
    /// Its name in the store: an id, or a path below the prefix of a bucket.
    pub name: String,
    /// The id in that name.
    pub id: Option<BlobId>,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written.
    pub modified: SystemTime,
}

/// What a signed URL lets its holder do with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// GET.
    Get,
    /// HEAD.
    Head,
}

/// A store that clients reach by themselves. Uploads go to places of their own in it, where later ones replace earlier
/// ones; nothing there is a blob until it was published.
#[async_trait]
pub trait DirectAccess: Send + Sync {
    /// A URL that takes one upload of this type and length for so long.
    fn presign_put(
        &self,
        id: BlobId,
        content_type: &str,
        content_length: u64,
        lifetime: Duration,
    ) -> String;

    /// A URL that gives a blob for so long.
    fn presign_get(&self, key: &BlobKey, reading: Reading, lifetime: Duration) -> String;

    /// What was uploaded for an attachment, as it is now. If another upload replaces it, whatever is done with this one
    /// fails with [`Error::PreconditionFailed`].
    async fn uploaded(&self, id: BlobId) -> Result<Option<Box<dyn StagedBlob>>, Error>;

    /// Removes what was uploaded for an attachment.
    async fn remove_uploaded(&self, id: BlobId) -> Result<(), Error>;

    /// A blob once more, to be published under another name.
    async fn duplicate(&self, key: &BlobKey) -> Result<Option<Box<dyn StagedBlob>>, Error>;
}

/// A blob being written.
#[async_trait]
pub trait BlobWriter: Send {
    /// Appends bytes.
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error>;

    /// Ends it, still out of readers' sight. In a folder the bytes are safe from here on; in a bucket once published.
    async fn seal(self: Box<Self>) -> Result<Box<dyn StagedBlob>, Error>;
}

/// A file that can be read from anywhere, by blocking calls.
pub trait RandomAccess: Read + Seek + Send + Sync {
    /// Its size in bytes.
    ///
    /// # Errors
    /// The system does not say.
    fn size(&self) -> io::Result<u64>;

    /// The file it is, if it is one on this machine.
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

/// A blob that is whole and safe, but not to be seen yet. Dropping it leaves nothing.
#[async_trait]
pub trait StagedBlob: fmt::Debug + Send + Sync {
    /// Size and hashes of what was written.
    fn digests(&self) -> &Digests;

    /// Opens it for us alone, to look at what it holds. Blocks.
    ///
    /// # Errors
    /// It cannot be opened.
    fn content(&self) -> Result<Box<dyn RandomAccess>, Error>;

    /// Whether all that was read of it came. A parser may take what could not be read for the end of the file.
    ///
    /// # Errors
    /// The first that a read ended with.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Gives it its name, in one step; when this returns bytes and name are safe.
    async fn publish(self: Box<Self>, key: &BlobKey, metadata: &ObjectHeaders)
    -> Result<(), Error>;
}

/// An open blob.
#[async_trait]
pub trait Blob: fmt::Debug + Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Streams a range of it. What can be known to fail fails here; the stream may still be cut.
    async fn read(self: Arc<Self>, range: Range<u64>) -> Result<ByteStream, Error>;
}

/// Reads all of a blob to hash it.
///
/// # Errors
/// It cannot be read.
pub async fn digests(blob: Arc<dyn Blob>) -> Result<Digests, Error> {
    let size = blob.size();
    let mut stream = blob.read(0..size).await?;
    let mut hasher = digest::Hasher::default();
    while let Some(piece) = stream.next().await {
        hasher.update(&piece.map_err(Error::from_read)?);
    }
    Ok(hasher.finish())
}
