//! Stores blobs in memory, for tests and as the reference for the other stores.

use std::collections::HashMap;
use std::io::{self, Cursor};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use md5::Digest;

use super::digest::Hasher;
use super::{
    Blob, BlobKey, BlobMeta, BlobStore, BlobWriter, ByteStream, Digests, Error, ObjectHeaders,
    RandomAccess, StagedBlob,
};
use crate::clock::system_time;
use crate::id::BlobId;

/// An in-memory blob store; clones share their contents.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<HashMap<BlobId, (Bytes, SystemTime)>>>);

impl MemoryStore {
    fn blobs(&self) -> std::sync::MutexGuard<'_, HashMap<BlobId, (Bytes, SystemTime)>> {
        self.0.lock().expect("no panic while locked")
    }
}

#[async_trait]
impl BlobStore for MemoryStore {
    async fn create(&self) -> Result<Box<dyn BlobWriter>, Error> {
        Ok(Box::new(Writer {
            store: self.clone(),
            bytes: BytesMut::new(),
        }))
    }

    async fn open(&self, key: &BlobKey) -> Result<Option<Arc<dyn Blob>>, Error> {
        let blob = self.blobs().get(&key.id()).map(|(bytes, _)| bytes.clone());
        Ok(blob.map(|bytes| Arc::new(MemoryBlob(bytes)) as Arc<dyn Blob>))
    }

    async fn remove(&self, key: &BlobKey) -> Result<(), Error> {
        self.blobs().remove(&key.id());
        Ok(())
    }

    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn list(&self) -> BoxStream<'_, Result<BlobMeta, Error>> {
        let blobs = self.blobs();
        let listed = blobs.iter().map(|(id, (bytes, modified))| {
            Ok(BlobMeta {
                name: id.to_string(),
                id: Some(*id),
                size: bytes.len() as u64,
                modified: *modified,
            })
        });
        stream::iter(listed.collect::<Vec<_>>()).boxed()
    }
}

struct Writer {
    store: MemoryStore,
    bytes: BytesMut,
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.bytes.extend_from_slice(&chunk);
        Ok(())
    }

    async fn seal(self: Box<Self>) -> Result<Box<dyn StagedBlob>, Error> {
        let bytes = self.bytes.freeze();
        let mut hasher = Hasher::default();
        hasher.update_sha256(&bytes);
        hasher.md5().update(&bytes);
        Ok(Box::new(StagedBytes {
            store: self.store,
            digests: hasher.finish(),
            bytes,
        }))
    }
}

#[derive(Debug)]
struct StagedBytes {
    store: MemoryStore,
    digests: Digests,
    bytes: Bytes,
}

impl RandomAccess for Cursor<Bytes> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.get_ref().len() as u64)
    }
}

#[async_trait]
impl StagedBlob for StagedBytes {
    fn digests(&self) -> &Digests {
        &self.digests
    }

    fn content(&self) -> Result<Box<dyn RandomAccess>, Error> {
        Ok(Box::new(Cursor::new(self.bytes.clone())))
    }

    async fn publish(self: Box<Self>, key: &BlobKey, _: &ObjectHeaders) -> Result<(), Error> {
        self.store
            .blobs()
            .insert(key.id(), (self.bytes, system_time()));
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryBlob(Bytes);

#[async_trait]
impl Blob for MemoryBlob {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read(self: Arc<Self>, range: Range<u64>) -> Result<ByteStream, Error> {
        let at = |end: u64| usize::try_from(end).unwrap_or(usize::MAX).min(self.0.len());
        let part = self.0.slice(at(range.start)..at(range.end));
        Ok(stream::iter((!part.is_empty()).then_some(Ok(part))).boxed())
    }
}
