//! Finding the file behind a file URL.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::{Error, Service};
use crate::blob::{Blob, BlobKey};
use crate::clock::Timestamp;
use crate::db::attachments as table;
use crate::domain::attachment::{Attachment, Content};
use crate::domain::filename;
use crate::id::{AttachmentId, PartnerId};

/// Files kept open for the next request; each costs one file descriptor.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// A file that can be served.
#[derive(Debug)]
pub struct StoredFile {
    /// Whose it is.
    pub partner_id: PartnerId,
    /// The name as given.
    pub filename: String,
    /// The type it is delivered under.
    pub media_type: String,
    /// MD5 of the bytes: the entity tag.
    pub md5: String,
    /// When it was stored. It never changes.
    pub stored_at: Timestamp,
    /// The bytes.
    pub blob: Arc<dyn Blob>,
}

/// Files that were asked for lately, open.
#[derive(Debug)]
pub(super) struct FileCache(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    files: LruCache<AttachmentId, Arc<StoredFile>>,
    /// Counts deletions. A file that was looked up before a deletion and is put in after it might be the deleted one.
    deletions: u64,
}

impl Default for FileCache {
    fn default() -> Self {
        Self(Mutex::new(Inner { files: LruCache::new(OPEN_FILES), deletions: 0 }))
    }
}

impl FileCache {
    fn get(&self, id: AttachmentId) -> Result<Arc<StoredFile>, u64> {
        let mut inner = self.0.lock().expect("no panic while locked");
        inner.files.get(&id).cloned().ok_or(inner.deletions)
    }

    fn put(&self, id: AttachmentId, file: Arc<StoredFile>, deletions: u64) {
        let mut inner = self.0.lock().expect("no panic while locked");
        if inner.deletions == deletions {
            inner.files.put(id, file);
        }
    }

    pub(super) fn forget(&self, id: AttachmentId) {
        let mut inner = self.0.lock().expect("no panic while locked");
        inner.deletions += 1;
        inner.files.pop(&id);
    }
}

impl Service {
    /// The file behind a file URL; `None` if partner, id and name do not all fit a stored file.
    ///
    /// # Errors
    /// Database or store fail.
    pub async fn stored_file(
        &self,
        partner: PartnerId,
        id: AttachmentId,
        segment: &str,
    ) -> Result<Option<Arc<StoredFile>>, Error> {
        let fits =
            |file: &Arc<StoredFile>| file.partner_id == partner && filename::url_segment(&file.filename) == segment;
        let deletions = match self.files.get(id) {
            Ok(file) => return Ok(Some(file).filter(fits)),
            Err(deletions) => deletions,
        };
        let Some(file) = self.open(id).await? else { return Ok(None) };
        self.files.put(id, Arc::clone(&file), deletions);
        Ok(Some(file).filter(fits))
    }

    async fn open(&self, id: AttachmentId) -> Result<Option<Arc<StoredFile>>, Error> {
        let Some(attachment) = self.stored(id).await? else { return Ok(None) };
        let Some(blob) = self.blobs.open(BlobKey::from(attachment.blob_of)).await? else {
            // Deleted between the two looks, or lost.
            return if self.stored(id).await?.is_none() { Ok(None) } else { Err(Error::Lost(id)) };
        };
        if blob.size() != attachment.size_bytes {
            return Err(Error::Lost(id));
        }
        let Content::Stored { md5, at, .. } = attachment.content else { return Ok(None) };
        Ok(Some(Arc::new(StoredFile {
            partner_id: attachment.partner_id,
            filename: attachment.filename,
            media_type: attachment.media_type,
            md5,
            stored_at: at,
            blob,
        })))
    }

    /// The attachment, if its bytes were stored.
    async fn stored(&self, id: AttachmentId) -> Result<Option<Attachment>, Error> {
        let found = table::find(&mut *self.db.read().await?, id).await?;
        Ok(found.filter(|attachment| matches!(attachment.content, Content::Stored { .. })))
    }
}
