//! An S3 server in the test process: `s3s`, which verifies every signature, over a temporary
//! folder. Adds features of a bucket that `s3s-fs` lacks: preconditions of reads, atomic writes,
//! and URL-encoded keys in listings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::auth::SimpleAuth;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, DeleteObjectInput, DeleteObjectOutput, ETag, ETagCondition,
    GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input,
    ListObjectsV2Output, PutObjectInput, PutObjectOutput,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{RwLock, Semaphore};

/// Prefix of all keys of the server under test.
pub const PREFIX: &str = "some/place/";
const NAME: &str = "pack";

/// An S3 server with one bucket.
pub struct BucketServer {
    url: String,
    folder: TempDir,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    down: AtomicBool,
    /// Missing keys are reported as forbidden.
    hides_missing: AtomicBool,
    /// Method and path of every call, in order.
    calls: Mutex<Vec<String>>,
    copies: Gate,
}

/// Blocks copies until a test releases them.
struct Gate {
    closed: AtomicBool,
    waiting: Semaphore,
    open: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            closed: AtomicBool::new(false),
            waiting: Semaphore::new(0),
            open: Semaphore::new(0),
        }
    }
}

impl BucketServer {
    /// Starts a server with an empty bucket.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join(NAME)).expect("bucket");
        let state = Arc::new(State::default());
        let files = FileSystem::new(folder.path()).expect("files");
        let (lock, bucket) = (RwLock::default(), folder.path().join(NAME));
        let secret = |name| credential(name).expect("a credential");
        let mut builder = S3ServiceBuilder::new(Objects {
            files,
            folder: bucket,
            lock,
            state: Arc::clone(&state),
        });
        builder.set_auth(SimpleAuth::from_single(
            secret("AWS_ACCESS_KEY_ID"),
            secret("AWS_SECRET_ACCESS_KEY"),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        tokio::spawn(serve(listener, builder.build(), Arc::clone(&state)));
        let url = format!("s3://{NAME}/{PREFIX}?region=eu-test-1&endpoint=http://{address}");
        Self { url, folder, state }
    }

    /// Returns the value for `HAVERSACK_BLOBS_URL`.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Simulates an outage: while down, the server closes every connection without a response.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// Returns method and path of every call since the last call of this function.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.calls.lock().expect("lock"))
    }

    /// Blocks copies before they begin.
    pub fn block_copies(&self) {
        self.state.copies.closed.store(true, Ordering::SeqCst);
    }

    /// Waits until a copy is blocked.
    pub async fn wait_for_blocked_copy(&self) {
        self.state
            .copies
            .waiting
            .acquire()
            .await
            .expect("never closed")
            .forget();
    }

    /// Releases the blocked copy, and stops blocking.
    pub fn release_copies(&self) {
        self.state.copies.closed.store(false, Ordering::SeqCst);
        self.state.copies.open.add_permits(1);
    }

    /// Returns the objects below [`PREFIX`]: key and content.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let root = self.folder.path().join(NAME).join(PREFIX);
        let mut objects = BTreeMap::new();
        collect(&root, &root, &mut objects);
        objects
    }

    /// Returns the file of the first object whose key contains `part`.
    pub fn file_of(&self, part: &str) -> PathBuf {
        let objects = self.objects();
        let name = objects
            .keys()
            .find(|name| name.contains(part))
            .expect("an object");
        self.folder.path().join(NAME).join(PREFIX).join(name)
    }

    /// Reports missing keys as forbidden from now on, as AWS does to callers without
    /// `s3:ListBucket`.
    pub fn hide_missing_keys(&self) {
        self.state.hides_missing.store(true, Ordering::SeqCst);
    }

    /// Deletes the bucket itself.
    pub fn delete_bucket(&self) {
        std::fs::remove_dir_all(self.folder.path().join(NAME)).expect("remove");
    }
}

/// Returns a fresh prefix in the bucket of a real server, if `HAVERSACK_TEST_BLOBS_URL` names one.
pub fn external_url() -> Option<String> {
    let url = std::env::var("HAVERSACK_TEST_BLOBS_URL").ok()?;
    let (bucket, query) = url.split_once('?').expect("a query");
    Some(format!("{bucket}/test-{}?{query}", uuid::Uuid::now_v7()))
}

/// Returns an environment variable with credentials: of the real server, or of [`BucketServer`].
pub fn credential(name: &str) -> Option<String> {
    std::env::var(name).ok().or(match name {
        "AWS_ACCESS_KEY_ID" => Some("AKIDTEST".to_owned()),
        "AWS_SECRET_ACCESS_KEY" => Some("not-a-secret".to_owned()),
        _ => None,
    })
}

fn collect(root: &Path, folder: &Path, objects: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| entry.expect("entry").path()) {
        if path.is_dir() {
            collect(root, &path, objects);
        } else {
            let name = path
                .strip_prefix(root)
                .expect("below")
                .to_str()
                .expect("UTF-8")
                .to_owned();
            objects.insert(name, std::fs::read(&path).expect("read"));
        }
    }
}

async fn serve(listener: TcpListener, s3: S3Service, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (s3, state) = (s3.clone(), Arc::clone(&state));
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (s3, state) = (s3.clone(), Arc::clone(&state));
            async move {
                // hyper closes the connection without a response.
                if state.down.load(Ordering::SeqCst) {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset));
                }
                let call = format!("{} {}", request.method(), request.uri().path());
                state.calls.lock().expect("lock").push(call);
                s3.call(request.map(s3s::Body::from))
                    .await
                    .map_err(|error| std::io::Error::other(format!("{error:?}")))
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

struct Objects {
    files: FileSystem,
    /// The folder of the bucket.
    folder: PathBuf,
    /// Makes a write and its entity tag visible together.
    lock: RwLock<()>,
    state: Arc<State>,
}

fn precondition(condition: Option<&ETagCondition>, etag: Option<&ETag>) -> S3Result<()> {
    match (condition, etag) {
        (Some(ETagCondition::ETag(wanted)), Some(etag)) if !etag.strong_cmp(wanted) => {
            Err(s3_error!(PreconditionFailed))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl S3 for Objects {
    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let _lock = self.lock.write().await;
        if !self.folder.exists() {
            return Err(s3_error!(NoSuchBucket));
        }
        self.files.put_object(req).await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let _lock = self.lock.write().await;
        self.files.delete_object(req).await
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let _lock = self.lock.read().await;
        let condition = req.input.if_match.clone();
        let response = self.files.get_object(req).await?;
        precondition(condition.as_ref(), response.output.e_tag.as_ref())?;
        Ok(response)
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let _lock = self.lock.read().await;
        let found = self.files.head_object(req).await;
        if found.is_err() && self.state.hides_missing.load(Ordering::SeqCst) {
            Err(s3_error!(AccessDenied))
        } else {
            found
        }
    }

    async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let gate = &self.state.copies;
        if gate.closed.load(Ordering::SeqCst) {
            gate.waiting.add_permits(1);
            gate.open.acquire().await.expect("never closed").forget();
        }
        let _lock = self.lock.write().await;
        self.files.copy_object(req).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let _lock = self.lock.read().await;
        let encoded = req.input.encoding_type.is_some();
        let mut response = self.files.list_objects_v2(req).await?;
        for object in response
            .output
            .contents
            .iter_mut()
            .flatten()
            .filter(|_| encoded)
        {
            object.key = object
                .key
                .as_deref()
                .map(|key| utf8_percent_encode(key, NON_ALPHANUMERIC).to_string());
        }
        Ok(response)
    }
}
