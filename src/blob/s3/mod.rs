//! Stores blobs in an S3 bucket. Blobs written by the server pass through a temporary file, since
//! S3 needs the length in advance. Direct uploads of clients go to `uploads/<id>` and become blobs
//! by a copy within the bucket.
//!
//! The object key of a blob equals its public URL path, and the object carries the headers for a
//! CDN to pass on.

mod client;
mod config;
mod error;
mod ranged_reader;
pub(crate) mod url;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base16ct::lower::encode_string;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hyper::Method;

pub use config::{S3Config, S3Credentials, S3Style};

use self::client::{Client, ObjectMeta};
use self::ranged_reader::RemoteObject;
use super::staging::{Spool, SpoolWriter, Spooled};
use super::{
    Blob, BlobKey, BlobMeta, BlobStore, BlobWriter, ByteStream, Digests, DirectAccess, Error,
    ObjectHeaders, RandomAccess, StagedBlob,
};
use crate::id::{BlobId, random_bytes};

/// Maximum lifetime of a presigned URL, in seconds (signature version 4).
pub(crate) const MAX_PRESIGNED_TTL: u64 = 7 * 24 * 3600;
/// Key prefix of direct uploads.
const UPLOADS: &str = "uploads/";
/// Key prefix of the objects written by health checks.
const CHECKS: &str = "checks/";

/// A blob store in an S3 bucket; clones share their state.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Arc<Client>,
    spool: Spool,
}

impl S3Store {
    /// Opens the store, with temporary files in `folder`, whose lock the caller holds. Makes no
    /// call to the bucket: a server can start during an outage of the bucket.
    ///
    /// # Errors
    /// The folder cannot be created or emptied, or no certificate authorities are found.
    pub fn open(config: S3Config, folder: &Path) -> Result<Self, Error> {
        Ok(Self {
            client: Arc::new(Client::new(config)?),
            spool: Spool::open(folder, false)?,
        })
    }

    /// Verifies all required features of the bucket, including conditional requests. More expensive
    /// than [`BlobStore::check`].
    ///
    /// # Errors
    /// A call fails, or a required feature is missing.
    pub async fn probe(&self) -> Result<(), Error> {
        self.check().await?;
        let (from, to) = (check_object(), check_object());
        self.client
            .put_bytes(&from, Bytes::from_static(b"haversack"))
            .await?;
        let checked = self.check_conditional_requests(&from, &to).await;
        self.client.delete(&from).await?;
        self.client.delete(&to).await?;
        checked
    }

    /// Verifies that conditional reads and copies are honoured: they detect objects replaced after
    /// inspection (TOCTOU).
    async fn check_conditional_requests(&self, from: &str, to: &str) -> Result<(), Error> {
        let found = self.client.head(from).await?.ok_or(Error::NotFound)?;
        let other = ObjectMeta {
            etag: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            ..found.clone()
        };
        let headers = ObjectHeaders {
            content_type: "text/plain".to_owned(),
            content_disposition: "attachment".to_owned(),
            cache_control: "no-store",
        };
        match self.client.copy(from, &other, to, &headers).await {
            Err(Error::PreconditionFailed) => {}
            Ok(()) => {
                return Err(Error::MissingFeature(
                    "x-amz-copy-source-if-match of copies",
                ));
            }
            Err(error) => return Err(error),
        }
        match self.client.get(from, None, Some(&other)).await {
            Err(Error::PreconditionFailed) => {}
            Ok(_) => return Err(Error::MissingFeature("If-Match of reads")),
            Err(error) => return Err(error),
        }
        self.client.copy(from, &found, to, &headers).await
    }

    /// Returns an existing object for inspection and conditional copy, pinned to its current entity
    /// tag.
    async fn remote(&self, object: String) -> Result<Option<Box<dyn StagedBlob>>, Error> {
        let meta = self.client.head(&object).await?;
        Ok(meta.map(|meta| {
            Box::new(RemoteObject::new(Arc::clone(&self.client), object, meta))
                as Box<dyn StagedBlob>
        }))
    }
}

/// Generates the key of an object for a health check.
fn check_object() -> String {
    format!("{CHECKS}{}", encode_string(&random_bytes::<16>()))
}

/// Returns the object key of a blob below the prefix.
fn object(key: &BlobKey) -> String {
    if key.path().is_empty() {
        format!("blobs/{}", key.id())
    } else {
        key.path().to_owned()
    }
}

#[async_trait]
impl BlobStore for S3Store {
    async fn create(&self) -> Result<Box<dyn BlobWriter>, Error> {
        Ok(Box::new(Writer {
            client: Arc::clone(&self.client),
            writer: self.spool.create().await?,
        }))
    }

    async fn open(&self, key: &BlobKey) -> Result<Option<Arc<dyn Blob>>, Error> {
        let object = object(key);
        let meta = self.client.head(&object).await?;
        Ok(meta.map(|meta| {
            Arc::new(S3Blob {
                client: Arc::clone(&self.client),
                object,
                meta,
            }) as Arc<dyn Blob>
        }))
    }

    async fn remove(&self, key: &BlobKey) -> Result<(), Error> {
        self.client.delete(&object(key)).await
    }

    async fn check(&self) -> Result<(), Error> {
        self.spool.check().await?;
        let object = check_object();
        self.client
            .put_bytes(&object, Bytes::from_static(b"haversack"))
            .await?;
        let read = self.client.get(&object, None, None).await;
        self.client.delete(&object).await?;
        drop(read?);
        // Without s3:ListBucket, S3 responds with 403 instead of 404 to a request for a missing
        // object.
        self.client.head(&object).await.map(drop)
    }

    fn list(&self) -> BoxStream<'_, Result<BlobMeta, Error>> {
        let pages =
            stream::try_unfold(Some(None), move |page: Option<Option<String>>| async move {
                let Some(token) = page else { return Ok(None) };
                let (listed, next) = self.client.list(token.as_deref()).await?;
                Ok::<_, Error>(Some((listed, next.map(Some))))
            });
        pages
            .flat_map(|page| {
                stream::iter(match page {
                    Ok(listed) => listed.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                })
            })
            .boxed()
    }

    fn name(&self, key: &BlobKey) -> String {
        object(key)
    }

    fn bucket(&self) -> Option<&dyn DirectAccess> {
        Some(self)
    }
}

#[async_trait]
impl DirectAccess for S3Store {
    fn presign_put(
        &self,
        id: BlobId,
        content_type: &str,
        content_length: u64,
        lifetime: Duration,
    ) -> String {
        self.client.presign_put(
            &self.upload_name(id),
            content_type,
            content_length,
            lifetime,
        )
    }

    fn presign_get(&self, key: &BlobKey, method: &Method, lifetime: Duration) -> String {
        self.client.presign_get(&object(key), method, lifetime)
    }

    fn upload_name(&self, id: BlobId) -> String {
        format!("{UPLOADS}{id}")
    }

    async fn staged_upload(&self, id: BlobId) -> Result<Option<Box<dyn StagedBlob>>, Error> {
        self.remote(self.upload_name(id)).await
    }

    async fn remove_upload(&self, id: BlobId) -> Result<(), Error> {
        self.client.delete(&self.upload_name(id)).await
    }

    async fn staged_copy(&self, key: &BlobKey) -> Result<Option<Box<dyn StagedBlob>>, Error> {
        self.remote(object(key)).await
    }
}

struct Writer {
    client: Arc<Client>,
    writer: SpoolWriter,
}

#[async_trait]
impl BlobWriter for Writer {
    async fn write(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.writer.write(chunk).await
    }

    async fn seal(self: Box<Self>) -> Result<Box<dyn StagedBlob>, Error> {
        Ok(Box::new(StagedFile {
            client: self.client,
            spooled: self.writer.seal().await?,
        }))
    }
}

/// A complete temporary file to be uploaded as an object.
#[derive(Debug)]
struct StagedFile {
    client: Arc<Client>,
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

    async fn publish(self: Box<Self>, key: &BlobKey, headers: &ObjectHeaders) -> Result<(), Error> {
        self.client
            .put_file(&object(key), &self.spooled, headers)
            .await
    }
}

/// An existing object, pinned to its entity tag.
#[derive(Debug)]
struct S3Blob {
    client: Arc<Client>,
    object: String,
    meta: ObjectMeta,
}

#[async_trait]
impl Blob for S3Blob {
    fn size(&self) -> u64 {
        self.meta.size
    }

    async fn read(self: Arc<Self>, range: Range<u64>) -> Result<ByteStream, Error> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        // Whole files are requested without a range: some caches in front of buckets store only
        // such responses.
        let part = Some(range).filter(|range| *range != (0..self.meta.size));
        self.client.get(&self.object, part, Some(&self.meta)).await
    }
}

/// Converts an entry in a bucket listing to a [`BlobMeta`].
fn listed(name: &str, size: u64, modified: SystemTime) -> BlobMeta {
    let id = match name.strip_prefix(UPLOADS) {
        Some(id) => BlobId::parse(id),
        None => BlobKey::upload_in_path(name),
    };
    BlobMeta {
        name: name.to_owned(),
        id,
        size,
        modified,
    }
}
