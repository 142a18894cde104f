//! Where bytes are kept. Owns writing them so that a reader sees a whole file or none, and reading parts of them.
//! Knows nothing of attachments, partners or HTTP.

mod buffers;
mod digest;
mod local;
pub mod presign;

use std::fmt;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use digest::Digests;
pub use local::LocalStore;

use crate::id::AttachmentId;

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
    Unreadable(io::Error),
    /// A task of ours ended early.
    #[error("a storage task was stopped before it finished")]
    Stopped,
}

/// The name of a blob: made of ids only, so that no caller's text reaches a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlobKey(AttachmentId);

impl BlobKey {
    /// Reads what [`fmt::Display`] wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        AttachmentId::parse(text).map(Self)
    }

    /// The id it is made of.
    #[must_use]
    pub fn id(self) -> AttachmentId {
        self.0
    }
}

impl From<AttachmentId> for BlobKey {
    fn from(id: AttachmentId) -> Self {
        Self(id)
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
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
    async fn open(&self, key: BlobKey) -> Result<Option<Arc<dyn Blob>>, Error>;

    /// Removes a blob. Removing one that is not there is no error.
    async fn remove(&self, key: BlobKey) -> Result<(), Error>;

    /// Whether the store can be written to.
    async fn check(&self) -> Result<(), Error>;
}

/// A blob being written.
#[async_trait]
pub trait BlobWriter: Send {
    /// Appends bytes.
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error>;

    /// Makes the bytes safe on disk, still out of readers' sight.
    async fn seal(self: Box<Self>) -> Result<Box<dyn SealedBlob>, Error>;
}

/// A file that can be read from anywhere, by blocking calls.
pub trait Content: Read + Seek + Send + Sync {
    /// Its size in bytes.
    ///
    /// # Errors
    /// The system does not say.
    fn size(&self) -> io::Result<u64>;
}

impl Content for std::fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// A blob that is whole and safe, but not to be seen yet. Dropping it leaves nothing.
#[async_trait]
pub trait SealedBlob: fmt::Debug + Send + Sync {
    /// Size and hashes of what was written.
    fn digests(&self) -> &Digests;

    /// Opens it for us alone, to look at what it holds. Blocks.
    ///
    /// # Errors
    /// It cannot be opened.
    fn content(&self) -> Result<Box<dyn Content>, Error>;

    /// Gives it its name, in one step; when this returns the name is safe on disk too.
    async fn publish(self: Box<Self>, key: BlobKey) -> Result<(), Error>;
}

/// An open blob.
pub trait Blob: fmt::Debug + Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Streams a range of it.
    fn read(self: Arc<Self>, range: Range<u64>) -> ByteStream;
}
