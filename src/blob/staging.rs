//! Writes incoming blobs to temporary files, and hashes them while they are received, on two cores
//! and with bounded memory. Leftovers of a crash are deleted at the next start.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use md5::{Digest, Md5};
use tempfile::NamedTempFile;
use tokio::task::{JoinHandle, spawn_blocking};

use super::digest::Hasher;
use super::{Digests, Error};

/// Target for the buffer memory of all concurrent uploads together, in bytes. Each upload buffers
/// at most two batches: one being filled, one being hashed and written. Beyond 256 uploads the
/// minimum batch size exceeds the target.
const UPLOAD_MEMORY: usize = 32 * 1024 * 1024;
/// Maximum batch size in bytes. Beyond it, the cost of passing a batch to other threads is
/// negligible.
const MAX_BATCH: usize = 1024 * 1024;
/// Minimum batch size in bytes, whatever the number of uploads.
const MIN_BATCH: usize = 64 * 1024;
/// Chunks below this size in bytes are copied. A larger chunk occupies at least half of the
/// connection buffer that it keeps allocated.
const SMALL_CHUNK: usize = 32 * 1024;
/// Name of the folder of temporary files. It is emptied at every start; the specific name prevents
/// data loss if the operator chooses an existing folder for blobs.
pub(super) const UNFINISHED: &str = "unfinished-uploads";

/// The folder of temporary files.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    /// Reference count of uploads in progress: each writer holds a clone of the spool.
    uploads: Arc<()>,
    /// True if a sealed file has to survive a crash.
    durable: bool,
}

impl Spool {
    /// Creates the folder below `parent`, or empties it. The caller holds the lock of `parent`, so
    /// there is no other writer.
    pub(super) fn open(parent: &Path, durable: bool) -> Result<Self, Error> {
        let folder = parent.join(UNFINISHED);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|e| failed("empty", &folder, e))?;
        }
        fs::create_dir_all(&folder).map_err(|e| failed("create", &folder, e))?;
        Ok(Self {
            folder,
            uploads: Arc::default(),
            durable,
        })
    }

    /// Creates a temporary file.
    pub(super) async fn create(&self) -> Result<SpoolWriter, Error> {
        let spool = self.clone();
        let file = blocking(move || {
            NamedTempFile::new_in(&spool.folder)
                .map_err(|e| failed("create a file in", &spool.folder, e))
        })
        .await?;
        Ok(SpoolWriter {
            spool: self.clone(),
            state: WriteState::Idle(Box::new(HashedFile {
                file,
                hasher: Hasher::default(),
            })),
            batch: Vec::new(),
            small: BytesMut::new(),
            batch_size: 0,
        })
    }

    /// Verifies that temporary files can be written.
    pub(super) async fn check(&self) -> Result<(), Error> {
        let folder = self.folder.clone();
        blocking(move || {
            tempfile::tempfile_in(&folder)
                .and_then(|mut file| file.write_all(b"haversack"))
                .map_err(|e| failed("write a file in", &folder, e))
        })
        .await
    }
}

/// A complete temporary file; deleted on drop.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) file: NamedTempFile,
    pub(super) digests: Digests,
}

impl Spooled {
    /// Opens the file again, for reading.
    pub(super) fn reopen(&self) -> Result<File, Error> {
        self.file
            .reopen()
            .map_err(|e| failed("open", self.file.path(), e))
    }
}

/// An unfinished temporary file.
pub(super) struct SpoolWriter {
    spool: Spool,
    state: WriteState,
    batch: Vec<Bytes>,
    /// Collects small chunks by copying: a retained chunk would keep its whole receive buffer
    /// allocated.
    small: BytesMut,
    batch_size: usize,
}

/// Owner of the file: the writer itself, or the threads that hash and write the last batch.
enum WriteState {
    Idle(Box<HashedFile>),
    Writing(JoinHandle<Result<Box<HashedFile>, Error>>, JoinHandle<Md5>),
    Failed,
}

struct HashedFile {
    file: NamedTempFile,
    hasher: Hasher,
}

impl HashedFile {
    fn write(&mut self, batch: &[Bytes]) -> Result<(), Error> {
        for chunk in batch {
            self.hasher.update_sha256(chunk);
        }
        write_all(&mut self.file, batch).map_err(|e| failed("write", self.file.path(), e))
    }
}

/// Writes the whole batch with vectored I/O: the kernel allocates large page-cache pages for large
/// writes.
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

impl SpoolWriter {
    async fn take_file(&mut self) -> Result<Box<HashedFile>, Error> {
        match std::mem::replace(&mut self.state, WriteState::Failed) {
            WriteState::Idle(file) => Ok(file),
            WriteState::Writing(file, md5) => {
                let mut file = file.await.map_err(|_| Error::TaskFailed)??;
                *file.hasher.md5() = md5.await.map_err(|_| Error::TaskFailed)?;
                Ok(file)
            }
            WriteState::Failed => Err(Error::TaskFailed),
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

    /// Hashes and writes a batch on two threads: a single upload uses both cores of a small
    /// machine.
    async fn flush_batch(&mut self) -> Result<(), Error> {
        let mut file = self.take_file().await?;
        let batch: Arc<[Bytes]> = self.take_batch().into();
        let mut md5 = std::mem::take(file.hasher.md5());
        let same_batch = Arc::clone(&batch);
        let md5 = spawn_blocking(move || {
            hash(&mut md5, &same_batch);
            md5
        });
        let file = spawn_blocking(move || file.write(&batch).map(|()| file));
        self.state = WriteState::Writing(file, md5);
        Ok(())
    }

    pub(super) async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.batch_size += chunk.len();
        if chunk.len() < SMALL_CHUNK {
            self.small.extend_from_slice(&chunk);
        } else {
            self.end_small();
            self.batch.push(chunk);
        }
        let uploads = Arc::strong_count(&self.spool.uploads) - 1;
        let batch = (UPLOAD_MEMORY / 2 / uploads.max(1)).clamp(MIN_BATCH, MAX_BATCH);
        if self.batch_size >= batch {
            self.flush_batch().await?;
        }
        Ok(())
    }

    /// Finishes the file and syncs it to disk if `durable`.
    pub(super) async fn seal(mut self) -> Result<Spooled, Error> {
        let mut file = self.take_file().await?;
        let batch = self.take_batch();
        let durable = self.spool.durable;
        blocking(move || {
            hash(file.hasher.md5(), &batch);
            file.write(&batch)?;
            let HashedFile { file, hasher } = *file;
            if durable {
                file.as_file()
                    .sync_all()
                    .map_err(|e| failed("sync", file.path(), e))?;
            }
            Ok(Spooled {
                file,
                digests: hasher.finish(),
            })
        })
        .await
    }
}

pub(super) fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(work).await.map_err(|_| Error::TaskFailed)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool() -> (Spool, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("folder");
        (Spool::open(folder.path(), true).expect("spool"), folder)
    }

    #[tokio::test]
    async fn small_chunk_does_not_retain_its_receive_buffer() {
        struct Received {
            _alive: Arc<()>,
        }
        impl AsRef<[u8]> for Received {
            fn as_ref(&self) -> &[u8] {
                &[7; 8192]
            }
        }
        let (spool, _folder) = spool();
        let mut writer = spool.create().await.expect("writer");
        let alive = Arc::new(());
        for _ in 0..100 {
            let buffer = Bytes::from_owner(Received {
                _alive: Arc::clone(&alive),
            });
            writer.write(buffer.slice(..1)).await.expect("write");
        }
        assert_eq!(
            Arc::strong_count(&alive),
            1,
            "all receive buffers are freed"
        );
        assert_eq!(writer.seal().await.expect("seal").digests.size, 100);
    }

    #[tokio::test]
    async fn several_batches_are_written_to_one_file() {
        let (spool, _folder) = spool();
        let long = vec![7; MAX_BATCH * 2 + 5];
        let mut writer = spool.create().await.expect("writer");
        for chunk in [b"head".as_slice(), &long] {
            writer
                .write(Bytes::copy_from_slice(chunk))
                .await
                .expect("write");
        }
        let spooled = writer.seal().await.expect("seal");
        assert_eq!(spooled.digests.size, long.len() as u64 + 4);
        assert_eq!(
            fs::read(spooled.file.path()).expect("read"),
            [b"head".as_slice(), &long].concat()
        );
    }
}
