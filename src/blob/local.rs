//! Stores blobs as files in a folder: temporary files in `unfinished-uploads/`, blobs under
//! `blobs/<two digits>/<id>`.
//!
//! A blob is written to a temporary file, synced, renamed, and the folder synced. All blocking work
//! runs on the blocking pool; only reads that the page cache can answer immediately run on the
//! async threads.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::task::spawn_blocking;

use super::buffer_pool::{self, Buffers};
use super::staging::{Spool, SpoolWriter, Spooled, blocking, failed};
use super::{
    Blob, BlobKey, BlobMeta, BlobStore, BlobWriter, ByteStream, Digests, Error, ObjectHeaders,
    RandomAccess, StagedBlob,
};
use crate::id::BlobId;

/// A blob store in a folder; clones share their state.
#[derive(Clone, Debug)]
pub struct LocalStore {
    spool: Spool,
    blobs: PathBuf,
    buffers: Buffers,
}

impl LocalStore {
    /// Opens the store in `folder`, creating it if necessary, and deletes the temporary files of an
    /// earlier run. The caller holds the lock of the folder, so there is no other writer.
    ///
    /// # Errors
    /// A folder cannot be created or emptied.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let store = Self {
            spool: Spool::open(folder, true)?,
            blobs: folder.join("blobs"),
            buffers: Buffers::default(),
        };
        fs::create_dir_all(&store.blobs).map_err(|e| failed("create", &store.blobs, e))?;
        // Created and synced in advance: a renamed file is durable only if the folders above it
        // are.
        for path in store.folders() {
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("create", &path, error));
                }
                _ => {}
            }
        }
        sync_folder(&store.blobs)?;
        sync_folder(folder)?;
        Ok(store)
    }

    /// Opens an existing store that a server may be using. Temporary files go to `scratch`; to be
    /// published, they must be on the same file system.
    ///
    /// # Errors
    /// A folder cannot be created or emptied.
    pub fn attach(folder: &Path, scratch: &Path) -> Result<Self, Error> {
        let spool = Spool::open(scratch, true)?;
        Ok(Self {
            spool,
            blobs: folder.join("blobs"),
            buffers: Buffers::default(),
        })
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let blobs = self.blobs.clone();
        (0..=u8::MAX).map(move |digits| blobs.join(format!("{digits:02x}")))
    }

    /// Returns the path of a blob. The last two digits of an id are random, so files are spread
    /// evenly.
    fn path(&self, key: &BlobKey) -> PathBuf {
        let name = key.id().to_string();
        self.blobs.join(&name[name.len() - 2..]).join(name)
    }
}

#[async_trait]
impl BlobStore for LocalStore {
    async fn create(&self) -> Result<Box<dyn BlobWriter>, Error> {
        Ok(Box::new(LocalWriter {
            store: self.clone(),
            writer: self.spool.create().await?,
        }))
    }

    async fn open(&self, key: &BlobKey) -> Result<Option<Arc<dyn Blob>>, Error> {
        let (path, buffers) = (self.path(key), self.buffers.clone());
        blocking(move || {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed("open", &path, error)),
            };
            let size = file
                .metadata()
                .map_err(|e| failed("read the size of", &path, e))?
                .len();
            Ok(Some(Arc::new(LocalBlob {
                file,
                size,
                buffers,
            }) as Arc<dyn Blob>))
        })
        .await
    }

    async fn remove(&self, key: &BlobKey) -> Result<(), Error> {
        let path = self.path(key);
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path, error))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn check(&self) -> Result<(), Error> {
        self.spool.check().await
    }

    fn list(&self) -> BoxStream<'_, Result<BlobMeta, Error>> {
        let folders =
            stream::iter(self.folders()).then(|folder| blocking(move || list_folder(&folder)));
        folders
            .flat_map(|listed| {
                stream::iter(match listed {
                    Ok(listed) => listed.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                })
            })
            .boxed()
    }
}

fn list_folder(folder: &Path) -> Result<Vec<BlobMeta>, Error> {
    let list = || {
        let mut listed = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // The file was deleted after it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = BlobId::parse(&name);
            listed.push(BlobMeta {
                name,
                id,
                size: metadata.len(),
                modified: metadata.modified()?,
            });
        }
        Ok(listed)
    };
    list().map_err(|e| failed("list", folder, e))
}

struct LocalWriter {
    store: LocalStore,
    writer: SpoolWriter,
}

#[async_trait]
impl BlobWriter for LocalWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.writer.write(chunk).await
    }

    async fn seal(self: Box<Self>) -> Result<Box<dyn StagedBlob>, Error> {
        Ok(Box::new(StagedFile {
            store: self.store,
            spooled: self.writer.seal().await?,
        }))
    }
}

#[derive(Debug)]
struct StagedFile {
    store: LocalStore,
    spooled: Spooled,
}

#[async_trait]
impl StagedBlob for StagedFile {
    fn digests(&self) -> &Digests {
        &self.spooled.digests
    }

    fn content(&self) -> Result<Box<dyn RandomAccess>, Error> {
        Ok(Box::new(self.spooled.reopen()?))
    }

    async fn publish(self: Box<Self>, key: &BlobKey, _: &ObjectHeaders) -> Result<(), Error> {
        let path = self.store.path(key);
        blocking(move || {
            let folder = path
                .parent()
                .expect("a blob's path has a folder")
                .to_owned();
            self.spooled
                .file
                .persist(&path)
                .map_err(|e| failed("rename to", &path, e.error))?;
            sync_folder(&folder)
        })
        .await
    }
}

#[derive(Debug)]
struct LocalBlob {
    file: File,
    size: u64,
    buffers: Buffers,
}

#[async_trait]
impl Blob for LocalBlob {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(self: Arc<Self>, range: Range<u64>) -> Result<ByteStream, Error> {
        Ok(Box::pin(stream::try_unfold(
            (self, range),
            |(blob, range)| async move {
                if range.is_empty() {
                    return Ok(None);
                }
                let length = usize::try_from(range.end - range.start)
                    .map_or(buffer_pool::SIZE, |left| left.min(buffer_pool::SIZE));
                let chunk = Arc::clone(&blob).chunk(range.start, length).await?;
                let next = range.start + chunk.len() as u64..range.end;
                Ok(Some((chunk, (blob, next))))
            },
        )))
    }
}

impl LocalBlob {
    /// Reads between one and `max` bytes at `offset`. The end of the file is an error: the caller
    /// requests no bytes beyond the recorded size.
    async fn chunk(self: Arc<Self>, offset: u64, max: usize) -> io::Result<Bytes> {
        let mut buffer = self.buffers.take();
        if let Some(read) = read_cached(&self.file, &mut buffer.space()[..max], offset) {
            return Ok(buffer.freeze(read));
        }
        let task = spawn_blocking(move || {
            let read = self.file.read_at(&mut buffer.space()[..max], offset)?;
            Ok::<_, io::Error>((buffer, read))
        });
        let (buffer, read) = task.await.map_err(io::Error::other)??;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a stored file is shorter than recorded",
            ));
        }
        Ok(buffer.freeze(read))
    }
}

/// Reads from the page cache, without waiting for the disk. Returns `None` if the cache holds none
/// of the bytes, or the file system does not support such reads.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let buffers = &mut [io::IoSliceMut::new(buffer)];
    rustix::io::preadv2(file, buffers, offset, rustix::io::ReadWriteFlags::NOWAIT)
        .ok()
        .filter(|read| *read > 0)
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

/// Syncs a folder, which makes renames into it durable.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| failed("sync", folder, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::staging::UNFINISHED;

    async fn write(store: &LocalStore, chunks: &[&[u8]]) -> Box<dyn StagedBlob> {
        let mut writer = store.create().await.expect("writer");
        for chunk in chunks {
            writer
                .write(Bytes::copy_from_slice(chunk))
                .await
                .expect("write");
        }
        writer.seal().await.expect("seal")
    }

    fn files_in(folder: &Path) -> usize {
        fs::read_dir(folder).expect("folder").count()
    }

    #[tokio::test]
    async fn blob_is_found_by_its_id_whatever_its_path() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).expect("store");
        let id = BlobId::new();
        let headers = ObjectHeaders {
            content_type: String::new(),
            content_disposition: String::new(),
            cache_control: "",
        };
        write(&store, &[b"x"])
            .await
            .publish(&BlobKey::from(id), &headers)
            .await
            .expect("publish");
        let key = BlobKey::parse(&format!("{id} attachments/x/y.jpg")).expect("key");
        assert_eq!(
            store.open(&key).await.expect("open").expect("blob").size(),
            1
        );
    }

    #[tokio::test]
    async fn dropped_blobs_and_leftovers_of_a_crash_are_deleted() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).expect("store");
        let mut writer = store.create().await.expect("writer");
        writer
            .write(Bytes::from_static(b"half"))
            .await
            .expect("write");
        drop(writer);
        drop(write(&store, &[b"sealed"]).await);
        assert_eq!(files_in(&folder.path().join(UNFINISHED)), 0);

        fs::write(folder.path().join(UNFINISHED).join("left-by-a-crash"), b"x").expect("write");
        LocalStore::open(folder.path()).expect("store");
        assert_eq!(files_in(&folder.path().join(UNFINISHED)), 0);
    }
}
