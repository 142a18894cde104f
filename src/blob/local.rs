//! Blobs as files of a folder: `unfinished-uploads/` for what is being written, `blobs/<two digits>/<id>` for what is
//! there.
//!
//! How a file is written: temporary file, sync, rename, sync of the folder. All blocking work runs on the blocking pool;
//! only reads that the page cache can answer at once stay on the async threads.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use md5::{Digest, Md5};
use tempfile::NamedTempFile;
use tokio::task::{JoinHandle, spawn_blocking};

use super::buffers::{self, Buffers};
use super::digest::Hasher;
use super::{Blob, BlobKey, BlobStore, BlobWriter, ByteStream, Content, Digests, Error, SealedBlob};

/// Bytes that all uploads together aim to hold in memory. Each has two batches, one that fills and one that is hashed and
/// written, and nothing else of its body. Beyond 256 uploads the smallest batch makes it more.
const UPLOAD_MEMORY: usize = 32 * 1024 * 1024;
/// Largest batch: beyond it, handing a batch to other threads costs nothing in comparison.
const LARGEST_BATCH: usize = 1024 * 1024;
/// Smallest batch, however many uploads there are.
const SMALLEST_BATCH: usize = 64 * 1024;
/// Pieces below this are copied. A larger one fills at least half of the connection's buffer that it keeps.
const SMALL_PIECE: usize = 32 * 1024;
/// Emptied at every start, so its name is one that nobody else uses: the operator may name any folder for blobs.
const UNFINISHED: &str = "unfinished-uploads";

/// The store.
#[derive(Clone, Debug)]
pub struct LocalStore {
    tmp: PathBuf,
    blobs: PathBuf,
    /// Shared by the clones of the store, of which each upload under way holds one; counted, not used.
    uploads: Arc<()>,
    buffers: Buffers,
}

impl LocalStore {
    /// Opens the store in `folder`, creating it if need be, and removes what an earlier run left half written. The
    /// caller holds the lock of the data folder, so nobody else is writing there.
    ///
    /// # Errors
    /// A folder cannot be created or emptied.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let store = Self {
            tmp: folder.join(UNFINISHED),
            blobs: folder.join("blobs"),
            uploads: Arc::default(),
            buffers: Buffers::default(),
        };
        if store.tmp.exists() {
            fs::remove_dir_all(&store.tmp).map_err(|e| failed("empty", &store.tmp, e))?;
        }
        for path in [&store.tmp, &store.blobs] {
            fs::create_dir_all(path).map_err(|e| failed("create", path, e))?;
        }
        // Made and synced before anything is put into them: a name is safe only if the folders above it are.
        for digits in 0..=u8::MAX {
            let path = store.blobs.join(format!("{digits:02x}"));
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

    /// The last two digits of an id are random, so they spread the files evenly.
    fn path(&self, key: BlobKey) -> PathBuf {
        let name = key.to_string();
        self.blobs.join(&name[name.len() - 2..]).join(name)
    }
}

#[async_trait]
impl BlobStore for LocalStore {
    async fn create(&self) -> Result<Box<dyn BlobWriter>, Error> {
        let store = self.clone();
        let file =
            blocking(move || NamedTempFile::new_in(&store.tmp).map_err(|e| failed("create a file in", &store.tmp, e)))
                .await?;
        Ok(Box::new(LocalWriter {
            store: self.clone(),
            work: Work::Idle(Box::new(Target { file, hasher: Hasher::default() })),
            batch: Vec::new(),
            small: BytesMut::new(),
            batch_size: 0,
        }))
    }

    async fn open(&self, key: BlobKey) -> Result<Option<Arc<dyn Blob>>, Error> {
        let (path, buffers) = (self.path(key), self.buffers.clone());
        blocking(move || {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed("open", &path, error)),
            };
            let size = file.metadata().map_err(|e| failed("look at", &path, e))?.len();
            Ok(Some(Arc::new(LocalBlob { file, size, buffers }) as Arc<dyn Blob>))
        })
        .await
    }

    async fn remove(&self, key: BlobKey) -> Result<(), Error> {
        let path = self.path(key);
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, error)),
            _ => Ok(()),
        })
        .await
    }

    async fn check(&self) -> Result<(), Error> {
        let tmp = self.tmp.clone();
        blocking(move || {
            tempfile::tempfile_in(&tmp)
                .and_then(|mut file| file.write_all(b"haversack"))
                .map_err(|e| failed("write a file in", &tmp, e))
        })
        .await
    }
}

struct LocalWriter {
    store: LocalStore,
    work: Work,
    batch: Vec<Bytes>,
    /// Small pieces, copied together: a piece that is kept as it came keeps the whole buffer it was read into.
    small: BytesMut,
    batch_size: usize,
}

/// Where the file is: here, or with the threads that hash and write the last batch.
enum Work {
    Idle(Box<Target>),
    Writing(JoinHandle<Result<Box<Target>, Error>>, JoinHandle<Md5>),
    Failed,
}

struct Target {
    file: NamedTempFile,
    hasher: Hasher,
}

impl Target {
    fn write(&mut self, batch: &[Bytes]) -> Result<(), Error> {
        for chunk in batch {
            self.hasher.update_sha256(chunk);
        }
        write_all(&mut self.file, batch).map_err(|e| failed("write", self.file.path(), e))
    }
}

/// One call for the whole batch: the system gives a large write large pages.
fn write_all(file: &mut NamedTempFile, batch: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn hash(md5: &mut Md5, batch: &[Bytes]) {
    for chunk in batch {
        md5.update(chunk);
    }
}

impl LocalWriter {
    async fn idle(&mut self) -> Result<Box<Target>, Error> {
        match std::mem::replace(&mut self.work, Work::Failed) {
            Work::Idle(target) => Ok(target),
            Work::Writing(target, md5) => {
                let mut target = target.await.map_err(|_| Error::Stopped)??;
                *target.hasher.md5() = md5.await.map_err(|_| Error::Stopped)?;
                Ok(target)
            }
            Work::Failed => Err(Error::Stopped),
        }
    }

    fn take_batch(&mut self) -> Vec<Bytes> {
        self.end_small();
        self.batch_size = 0;
        std::mem::take(&mut self.batch)
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.batch.push(std::mem::take(&mut self.small).freeze());
        }
    }

    /// Gives a batch to two threads: one body is hashed by both cores of a small machine.
    async fn hand_over(&mut self) -> Result<(), Error> {
        let mut target = self.idle().await?;
        let batch: Arc<[Bytes]> = self.take_batch().into();
        let mut md5 = std::mem::take(target.hasher.md5());
        let same_batch = Arc::clone(&batch);
        let md5 = spawn_blocking(move || {
            hash(&mut md5, &same_batch);
            md5
        });
        let target = spawn_blocking(move || target.write(&batch).map(|()| target));
        self.work = Work::Writing(target, md5);
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for LocalWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.batch_size += chunk.len();
        if chunk.len() < SMALL_PIECE {
            self.small.extend_from_slice(&chunk);
        } else {
            self.end_small();
            self.batch.push(chunk);
        }
        let uploads = Arc::strong_count(&self.store.uploads) - 1;
        let batch = (UPLOAD_MEMORY / 2 / uploads.max(1)).clamp(SMALLEST_BATCH, LARGEST_BATCH);
        if self.batch_size >= batch {
            self.hand_over().await?;
        }
        Ok(())
    }

    async fn seal(mut self: Box<Self>) -> Result<Box<dyn SealedBlob>, Error> {
        let mut target = self.idle().await?;
        let batch = self.take_batch();
        let store = self.store.clone();
        blocking(move || {
            hash(target.hasher.md5(), &batch);
            target.write(&batch)?;
            let Target { file, hasher } = *target;
            file.as_file().sync_all().map_err(|e| failed("sync", file.path(), e))?;
            Ok(Box::new(LocalSealed { store, digests: hasher.finish(), file }) as Box<dyn SealedBlob>)
        })
        .await
    }
}

#[derive(Debug)]
struct LocalSealed {
    store: LocalStore,
    digests: Digests,
    file: NamedTempFile,
}

#[async_trait]
impl SealedBlob for LocalSealed {
    fn digests(&self) -> &Digests {
        &self.digests
    }

    fn content(&self) -> Result<Box<dyn Content>, Error> {
        let file = self.file.reopen().map_err(|e| failed("open", self.file.path(), e))?;
        Ok(Box::new(file))
    }

    async fn publish(self: Box<Self>, key: BlobKey) -> Result<(), Error> {
        blocking(move || {
            let path = self.store.path(key);
            let folder = path.parent().expect("a blob's path has a folder").to_owned();
            self.file.persist(&path).map_err(|e| failed("rename to", &path, e.error))?;
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

impl Blob for LocalBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(self: Arc<Self>, range: Range<u64>) -> ByteStream {
        Box::pin(stream::try_unfold((self, range), |(blob, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let wanted = usize::try_from(range.end - range.start).map_or(buffers::SIZE, |left| left.min(buffers::SIZE));
            let chunk = Arc::clone(&blob).chunk(range.start, wanted).await?;
            let next = range.start + chunk.len() as u64..range.end;
            Ok(Some((chunk, (blob, next))))
        }))
    }
}

impl LocalBlob {
    /// Up to `wanted` bytes at `offset`, at least one. Ends with an error at the end of the file, as the caller never
    /// asks beyond it.
    async fn chunk(self: Arc<Self>, offset: u64, wanted: usize) -> io::Result<Bytes> {
        let mut buffer = self.buffers.take();
        if let Some(read) = read_cached(&self.file, &mut buffer.space()[..wanted], offset) {
            return Ok(buffer.freeze(read));
        }
        let task = spawn_blocking(move || {
            let read = self.file.read_at(&mut buffer.space()[..wanted], offset)?;
            Ok::<_, io::Error>((buffer, read))
        });
        let (buffer, read) = task.await.map_err(io::Error::other)??;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a stored file is shorter than recorded"));
        }
        Ok(buffer.freeze(read))
    }
}

/// Reads what the page cache holds, without ever waiting for the disk; `None` if that is nothing, or the system
/// cannot tell.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let buffers = &mut [io::IoSliceMut::new(buffer)];
    rustix::io::preadv2(file, buffers, offset, rustix::io::ReadWriteFlags::NOWAIT).ok().filter(|read| *read > 0)
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

/// A rename is safe only once the folder that holds the name is.
fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| failed("sync", folder, e))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|_| Error::Stopped)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AttachmentId;
    use futures_util::TryStreamExt;

    async fn write(store: &LocalStore, chunks: &[&[u8]]) -> Box<dyn SealedBlob> {
        let mut writer = store.create().await.expect("writer");
        for chunk in chunks {
            writer.write(Bytes::copy_from_slice(chunk)).await.expect("write");
        }
        writer.seal().await.expect("seal")
    }

    fn files_in(folder: &Path) -> usize {
        fs::read_dir(folder).expect("folder").count()
    }

    #[tokio::test]
    async fn a_blob_is_seen_only_when_published_and_then_whole() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).expect("store");
        let key = BlobKey::from(AttachmentId::new());
        let long = vec![7; LARGEST_BATCH * 2 + 5];

        let sealed = write(&store, &[b"head", &long]).await;
        assert_eq!(sealed.digests().size, long.len() as u64 + 4);
        assert!(store.open(key).await.expect("open").is_none());
        sealed.publish(key).await.expect("publish");

        let blob = store.open(key).await.expect("open").expect("blob");
        let bytes: Vec<Bytes> = Arc::clone(&blob).read(0..blob.size()).try_collect().await.expect("read");
        assert_eq!(bytes.concat(), [b"head".as_slice(), &long].concat());
        let middle: Vec<Bytes> = blob.read(2..6).try_collect().await.expect("read");
        assert_eq!(middle.concat(), b"ad\x07\x07");

        store.remove(key).await.expect("remove");
        store.remove(key).await.expect("remove again");
        assert!(store.open(key).await.expect("open").is_none());
    }

    #[tokio::test]
    async fn a_small_piece_does_not_keep_the_buffer_it_came_in() {
        struct Received {
            _alive: Arc<()>,
        }
        impl AsRef<[u8]> for Received {
            fn as_ref(&self) -> &[u8] {
                &[7; 8192]
            }
        }
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).expect("store");
        let mut writer = store.create().await.expect("writer");
        let alive = Arc::new(());
        for _ in 0..100 {
            let buffer = Bytes::from_owner(Received { _alive: Arc::clone(&alive) });
            writer.write(buffer.slice(..1)).await.expect("write");
        }
        assert_eq!(Arc::strong_count(&alive), 1, "no buffer is kept");
        assert_eq!(writer.seal().await.expect("seal").digests().size, 100);
    }

    #[tokio::test]
    async fn what_is_dropped_leaves_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).expect("store");
        let mut writer = store.create().await.expect("writer");
        writer.write(Bytes::from_static(b"half")).await.expect("write");
        drop(writer);
        drop(write(&store, &[b"sealed"]).await);
        assert_eq!(files_in(&folder.path().join(UNFINISHED)), 0);

        fs::write(folder.path().join(UNFINISHED).join("left-by-a-crash"), b"x").expect("write");
        LocalStore::open(folder.path()).expect("store");
        assert_eq!(files_in(&folder.path().join(UNFINISHED)), 0);
    }

    #[tokio::test]
    async fn digests_are_those_of_the_bytes() {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalStore::open(folder.path()).expect("store");
        let sealed = write(&store, &[b"a", b"bc"]).await;
        // RFC 1321 A.5 and FIPS 180-2 B.1.
        assert_eq!(sealed.digests().md5, "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(sealed.digests().sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
