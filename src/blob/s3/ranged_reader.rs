//! Gives blocking random access to an object for inspection, through ranged reads that fail if the
//! object's entity tag changes.

use std::io::{self, Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use tokio::runtime::Handle;

use super::super::{BlobKey, Digests, Error, ObjectHeaders, RandomAccess, StagedBlob};
use super::client::{Client, ObjectMeta};
use super::object;

/// Size of a ranged read: a round trip costs about as much time as transferring half a megabyte.
const BLOCK: u64 = 512 * 1024;
/// Number of cached blocks: enough for the start and end of a file and its table.
const CACHE_BLOCKS: NonZeroUsize = NonZeroUsize::new(6).expect("not zero");

/// An existing object that can be inspected and copied.
#[derive(Debug)]
pub(super) struct RemoteObject {
    blocks: Arc<Blocks>,
    digests: Digests,
}

#[derive(Debug)]
struct Blocks {
    client: Arc<Client>,
    object: String,
    meta: ObjectMeta,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    cached: LruCache<u64, Bytes>,
    /// The first read error, which a parser may have mistaken for the end of the file.
    failed: Option<ReadFailure>,
}

#[derive(Clone, Debug)]
enum ReadFailure {
    Changed,
    Unavailable(String),
}

impl ReadFailure {
    fn to_error(&self) -> Error {
        match self {
            Self::Changed => Error::PreconditionFailed,
            Self::Unavailable(problem) => Error::Unavailable {
                action: "inspect an upload",
                problem: problem.clone(),
            },
        }
    }
}

impl RemoteObject {
    /// Wraps an object found by HEAD. Must be called within a Tokio runtime.
    pub(super) fn new(client: Arc<Client>, object: String, meta: ObjectMeta) -> Self {
        let digests = Digests {
            size: meta.size,
            sha256: None,
            md5: meta.etag.clone(),
        };
        let state = Mutex::new(State {
            cached: LruCache::new(CACHE_BLOCKS),
            failed: None,
        });
        Self {
            blocks: Arc::new(Blocks {
                client,
                object,
                meta,
                runtime: Handle::current(),
                state,
            }),
            digests,
        }
    }
}

#[async_trait]
impl StagedBlob for RemoteObject {
    fn digests(&self) -> &Digests {
        &self.digests
    }

    fn content(&self) -> Result<Box<dyn RandomAccess>, Error> {
        Ok(Box::new(RemoteReader {
            blocks: Arc::clone(&self.blocks),
            position: 0,
        }))
    }

    fn check(&self) -> Result<(), Error> {
        let state = self.blocks.state.lock().expect("no panic while locked");
        state
            .failed
            .as_ref()
            .map_or(Ok(()), |failure| Err(failure.to_error()))
    }

    async fn publish(self: Box<Self>, key: &BlobKey, headers: &ObjectHeaders) -> Result<(), Error> {
        self.check()?;
        let Blocks {
            client,
            object: from,
            meta,
            ..
        } = &*self.blocks;
        client.copy(from, meta, &object(key), headers).await
    }
}

impl Blocks {
    /// Returns a block, from the cache or by a ranged read. Blocks the thread.
    fn block(&self, number: u64) -> Result<Bytes, Error> {
        {
            let mut state = self.state.lock().expect("no panic while locked");
            if let Some(failure) = &state.failed {
                return Err(failure.to_error());
            }
            if let Some(block) = state.cached.get(&number) {
                return Ok(block.clone());
            }
        }
        let start = number * BLOCK;
        let part = start..(start + BLOCK).min(self.meta.size);
        let read = self
            .runtime
            .block_on(self.client.get_bytes(&self.object, part, &self.meta));
        let mut state = self.state.lock().expect("no panic while locked");
        match read {
            Ok(block) => {
                state.cached.put(number, block.clone());
                Ok(block)
            }
            Err(error) => {
                let failure = match error {
                    Error::PreconditionFailed | Error::NotFound => ReadFailure::Changed,
                    other => ReadFailure::Unavailable(other.to_string()),
                };
                let error = failure.to_error();
                state.failed.get_or_insert(failure);
                Err(error)
            }
        }
    }
}

struct RemoteReader {
    blocks: Arc<Blocks>,
    position: u64,
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.blocks.meta.size || buffer.is_empty() {
            return Ok(0);
        }
        let block = self
            .blocks
            .block(self.position / BLOCK)
            .map_err(io::Error::other)?;
        let skip = usize::try_from(self.position % BLOCK).expect("less than a block");
        let rest = block.get(skip..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for RemoteReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.blocks.meta.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start"))?;
        Ok(self.position)
    }
}

impl RandomAccess for RemoteReader {
    fn size(&self) -> io::Result<u64> {
        Ok(self.blocks.meta.size)
    }
}
