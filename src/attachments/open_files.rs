//! Caches open files for downloads.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;

use super::download::FileHandle;
use crate::clock::Timestamp;
use crate::id::{AttachmentId, PartnerId};

/// Number of files kept open; each takes one file descriptor.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Form in which an attachment can be downloaded. Each form has its own filename, and so its own
/// URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rendition {
    Original,
    Variant,
}

type Key = (PartnerId, AttachmentId, Rendition);

/// Cache of open files; the least recently downloaded ones are closed first.
#[derive(Debug)]
pub(super) struct OpenFileCache(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    files: LruCache<Key, Arc<FileHandle>>,
    /// Number of times that deleted files were evicted. If it has changed since a lookup started,
    /// the lookup's result is not cached, as that file may have been evicted.
    generation: u64,
}

impl Default for OpenFileCache {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            files: LruCache::new(CAPACITY),
            generation: 0,
        }))
    }
}

impl OpenFileCache {
    /// Returns the cached rendition that matches. If there is none, returns the generation to pass
    /// to [`Self::put`].
    pub(super) fn get(
        &self,
        (partner, id): (PartnerId, AttachmentId),
        matches: impl Fn(&FileHandle) -> bool,
    ) -> Result<Arc<FileHandle>, u64> {
        let mut inner = self.lock();
        let cached = renditions(partner, id)
            .into_iter()
            .find(|key| inner.files.peek(key).is_some_and(|file| matches(file)));
        cached
            .and_then(|key| inner.files.get(&key).cloned())
            .ok_or(inner.generation)
    }

    /// Caches a file, unless files were evicted since `generation`, as this file may be one of
    /// them.
    pub(super) fn put(&self, rendition: Rendition, file: Arc<FileHandle>, generation: u64) {
        let mut inner = self.lock();
        if inner.generation == generation {
            let key = (file.partner_id, file.id, rendition);
            inner.files.put(key, file);
        }
    }

    /// Closes a deleted attachment's files and removes them from the cache.
    pub(super) fn evict(&self, partner: PartnerId, id: AttachmentId) {
        let mut inner = self.lock();
        inner.generation += 1;
        for key in renditions(partner, id) {
            inner.files.pop(&key);
        }
    }

    /// Closes expired files, as the file system frees a deleted file's bytes only once it is
    /// closed.
    pub(super) fn evict_expired(&self, now: Timestamp) {
        let mut inner = self.lock();
        let expired: Vec<Key> = inner
            .files
            .iter()
            .filter(|(_, file)| file.is_expired(now))
            .map(|(key, _)| *key)
            .collect();
        for key in expired {
            inner.generation += 1;
            inner.files.pop(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic while locked")
    }
}

fn renditions(partner: PartnerId, id: AttachmentId) -> [Key; 2] {
    [Rendition::Original, Rendition::Variant].map(|rendition| (partner, id, rendition))
}
