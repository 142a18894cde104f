//! The contract of blob stores, checked for memory, folder and bucket; and errors of buckets.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use haversack::blob::{
    Blob, BlobKey, BlobStore, DirectAccess, Error, LocalStore, MemoryStore, ObjectHeaders, S3Store,
    StagedBlob,
};
use haversack::config::{Config, Settings};
use haversack::domain::tier::Tier;
use haversack::id::{BlobId, PartnerId};

use haversack_testkit::bucket::credential;
use haversack_testkit::{Api, BucketServer};

fn key(filename: &str) -> BlobKey {
    let id = BlobId::new();
    BlobKey::for_file(id, PartnerId::new(), id, filename, Tier::Persistent)
}

fn metadata() -> ObjectHeaders {
    ObjectHeaders {
        content_type: "text/plain".to_owned(),
        content_disposition: "inline; filename=\"a.txt\"".to_owned(),
        cache_control: "public, max-age=31536000, immutable",
    }
}

async fn write(store: &dyn BlobStore, chunks: &[&[u8]]) -> Box<dyn StagedBlob> {
    let mut writer = store.create().await.expect("writer");
    for chunk in chunks {
        writer
            .write(Bytes::copy_from_slice(chunk))
            .await
            .expect("write");
    }
    writer.seal().await.expect("seal")
}

async fn read(blob: Arc<dyn Blob>, range: std::ops::Range<u64>) -> Vec<u8> {
    let pieces: Vec<Bytes> = blob
        .read(range)
        .await
        .expect("read")
        .try_collect()
        .await
        .expect("all bytes");
    pieces.concat()
}

async fn store_is_writable(store: &dyn BlobStore) {
    store.check().await.expect("it can be written to");
}

async fn blob_is_visible_only_once_published(store: &dyn BlobStore) {
    let key = key("größe 1+1 & 100%.bin");
    let long: Vec<u8> = (0_u32..800_000).flat_map(u32::to_le_bytes).collect();
    let sealed = write(store, &[b"head", &long]).await;
    assert_eq!(sealed.digests().size, long.len() as u64 + 4);
    assert!(store.open(&key).await.expect("open").is_none());
    sealed.publish(&key, &metadata()).await.expect("publish");

    let whole = [b"head".as_slice(), &long].concat();
    let blob = store.open(&key).await.expect("open").expect("blob");
    assert_eq!(blob.size(), whole.len() as u64);
    assert!(read(Arc::clone(&blob), 0..blob.size()).await == whole);
    assert_eq!(read(Arc::clone(&blob), 2..6).await, whole[2..6]);
    assert_eq!(
        read(Arc::clone(&blob), blob.size() - 1..blob.size()).await,
        whole[whole.len() - 1..]
    );
    assert_eq!(read(blob, 7..7).await, b"");
}

async fn staged_blob_can_be_read_at_any_position(store: &dyn BlobStore) {
    let sealed = write(store, &[b"0123456789"]).await;
    let ends = tokio::task::spawn_blocking(move || {
        let mut content = sealed.content().expect("content");
        assert_eq!(content.size().expect("size"), 10);
        let mut end = String::new();
        content.seek(SeekFrom::End(-3)).expect("seek");
        content.read_to_string(&mut end).expect("read");
        content.seek(SeekFrom::Start(1)).expect("seek");
        let mut start = [0; 2];
        content.read_exact(&mut start).expect("read");
        sealed.check().expect("unchanged");
        (start, end)
    });
    assert_eq!(ends.await.expect("no panic"), (*b"12", "789".to_owned()));
}

async fn digests_match_reference_vectors(store: &dyn BlobStore) {
    let sealed = write(store, &[b"a", b"bc"]).await;
    // RFC 1321 A.5 and FIPS 180-2 B.1.
    assert_eq!(sealed.digests().md5, "900150983cd24fb0d6963f7d28e17f72");
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sealed.digests().sha256.as_deref(), Some(sha256));
}

async fn dropped_and_removed_blobs_are_not_listed(store: &dyn BlobStore) {
    let before = names(store).await;
    let mut writer = store.create().await.expect("writer");
    writer
        .write(Bytes::from_static(b"half"))
        .await
        .expect("write");
    drop(writer);
    drop(write(store, &[b"sealed"]).await);
    assert_eq!(names(store).await, before);

    let key = key("a.txt");
    write(store, &[b"x"])
        .await
        .publish(&key, &metadata())
        .await
        .expect("publish");
    assert!(store.open(&key).await.expect("open").is_some());
    store.remove(&key).await.expect("remove");
    store.remove(&key).await.expect("remove again");
    assert!(store.open(&key).await.expect("open").is_none());
    assert_eq!(names(store).await, before);
}

async fn empty_blob_can_be_opened(store: &dyn BlobStore) {
    let key = key("empty");
    write(store, &[])
        .await
        .publish(&key, &metadata())
        .await
        .expect("publish");
    let blob = store.open(&key).await.expect("open").expect("blob");
    assert_eq!(
        (blob.size(), read(blob.clone(), 0..0).await),
        (0, Vec::new())
    );
    store.remove(&key).await.expect("remove");
}

async fn published_blobs_are_listed(store: &dyn BlobStore) {
    let keys = [key("a b+c.txt"), key("ü.txt"), key("100%.txt")];
    for key in &keys {
        write(store, &[b"1234"])
            .await
            .publish(key, &metadata())
            .await
            .expect("publish");
    }
    let listed: Vec<_> = store.list().try_collect().await.expect("list");
    let ids: BTreeSet<_> = listed.iter().filter_map(|listed| listed.id).collect();
    for key in &keys {
        assert!(ids.contains(&key.id()));
        let listed = listed
            .iter()
            .find(|listed| listed.id == Some(key.id()))
            .expect("listed");
        assert!(
            listed.name == key.path() || listed.name == key.id().to_string(),
            "{}",
            listed.name
        );
        assert_eq!(listed.size, 4);
        assert!(
            listed
                .modified
                .elapsed()
                .is_ok_and(|age| age.as_secs() < 600)
        );
        store.remove(key).await.expect("remove");
    }
}

async fn names(store: &dyn BlobStore) -> BTreeSet<String> {
    store
        .list()
        .map_ok(|listed| listed.name)
        .try_collect()
        .await
        .expect("list")
}

/// Returns a store in a bucket, and the folder of its temporary files.
pub fn open(bucket: &BucketServer) -> (S3Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let mut settings = Settings::default();
    settings.storage.blobs_url = Some(bucket.url());
    let config = Config::resolve(settings, &credential)
        .expect("config")
        .storage
        .bucket
        .expect("a bucket");
    (S3Store::open(config, folder.path()).expect("store"), folder)
}

/// Defines a test of each part of the contract for one kind of store.
macro_rules! contract {
    ($store:ident) => {
        contract!(
            $store:
            store_is_writable,
            blob_is_visible_only_once_published,
            staged_blob_can_be_read_at_any_position,
            digests_match_reference_vectors,
            dropped_and_removed_blobs_are_not_listed,
            empty_blob_can_be_opened,
            published_blobs_are_listed,
        );
    };
    ($store:ident: $($part:ident,)*) => {
        mod $store {
            $(
                #[tokio::test]
                async fn $part() {
                    super::$store(async |store| super::$part(store).await).await;
                }
            )*
        }
    };
}

contract!(memory);
contract!(folder);
contract!(bucket);

async fn memory(check: impl AsyncFn(&dyn BlobStore)) {
    check(&MemoryStore::default()).await;
}

async fn folder(check: impl AsyncFn(&dyn BlobStore)) {
    let folder = tempfile::tempdir().expect("folder");
    check(&LocalStore::open(folder.path()).expect("store")).await;
}

async fn bucket(check: impl AsyncFn(&dyn BlobStore)) {
    let server = BucketServer::start().await;
    let (store, folder) = open(&server);
    check(&store).await;
    let unfinished = std::fs::read_dir(folder.path().join("unfinished-uploads")).expect("folder");
    assert_eq!(unfinished.count(), 0, "no temporary file remains");
}

async fn content(sealed: Box<dyn StagedBlob>) -> (Box<dyn StagedBlob>, std::io::Result<Vec<u8>>) {
    let read = move || {
        let mut bytes = Vec::new();
        let read = sealed
            .content()
            .expect("content")
            .read_to_end(&mut bytes)
            .map(|_| bytes);
        (sealed, read)
    };
    tokio::task::spawn_blocking(read).await.expect("no panic")
}

/// A bucket with an upload URL of one attachment.
struct DirectUpload {
    store: S3Store,
    id: BlobId,
    key: BlobKey,
    _bucket: BucketServer,
    _folder: tempfile::TempDir,
}

impl DirectUpload {
    async fn new() -> Self {
        let bucket = BucketServer::start().await;
        let (store, folder) = open(&bucket);
        let id = BlobId::new();
        Self {
            store,
            id,
            key: BlobKey::for_file(id, PartnerId::new(), id, "a.txt", Tier::Persistent),
            _bucket: bucket,
            _folder: folder,
        }
    }

    async fn put(&self, bytes: &[u8]) {
        let size = bytes.len() as u64;
        let minute = Duration::from_mins(1);
        let url = self.store.presign_put(self.id, "text/plain", size, minute);
        let headers = [("content-type", "text/plain")];
        let client = Api::anonymous("127.0.0.1:1".parse().expect("address"));
        let put = client.request("PUT", &url, &headers, Some(bytes.into()));
        assert_eq!(put.await.status, 200);
    }

    async fn uploaded(&self) -> Box<dyn StagedBlob> {
        let uploaded = self.store.staged_upload(self.id).await.expect("response");
        uploaded.expect("an upload")
    }
}

#[tokio::test]
async fn missing_direct_upload_is_none() {
    let upload = DirectUpload::new().await;
    assert!(
        upload
            .store
            .staged_upload(upload.id)
            .await
            .expect("response")
            .is_none()
    );
}

#[tokio::test]
async fn direct_upload_is_read_whole_and_published() {
    let upload = DirectUpload::new().await;
    // Longer than a block, so that it takes several reads.
    let long: Vec<u8> = (0_u32..400_000).flat_map(u32::to_le_bytes).collect();
    upload.put(&long).await;
    let staged = upload.uploaded().await;
    assert_eq!(
        (staged.digests().size, staged.digests().sha256.as_ref()),
        (long.len() as u64, None)
    );
    let (staged, bytes) = content(staged).await;
    assert!(bytes.expect("read") == long);
    staged
        .publish(&upload.key, &metadata())
        .await
        .expect("publish");
    let blob = upload.store.open(&upload.key).await.expect("response");
    assert_eq!(blob.expect("blob").size(), long.len() as u64);
    assert!(
        upload
            .store
            .staged_upload(upload.id)
            .await
            .expect("response")
            .is_some(),
        "kept until the row is written"
    );
}

#[tokio::test]
async fn direct_upload_replaced_before_copy_is_not_published() {
    let upload = DirectUpload::new().await;
    upload.put(b"first").await;
    let (staged, bytes) = content(upload.uploaded().await).await;
    assert_eq!(bytes.expect("read"), b"first");
    upload.put(b"another").await;
    assert!(matches!(
        staged.publish(&upload.key, &metadata()).await,
        Err(Error::PreconditionFailed)
    ));
    let blob = upload.store.open(&upload.key).await.expect("response");
    assert!(blob.is_none());
}

#[tokio::test]
async fn direct_upload_replaced_before_read_fails_the_read() {
    let upload = DirectUpload::new().await;
    upload.put(b"first").await;
    let staged = upload.uploaded().await;
    upload.put(b"another").await;
    let (staged, bytes) = content(staged).await;
    assert!(matches!(
        Error::from_read(bytes.expect_err("changed")),
        Error::PreconditionFailed
    ));
    assert!(matches!(staged.check(), Err(Error::PreconditionFailed)));
}

#[tokio::test]
async fn direct_upload_removed_before_copy_is_not_published() {
    let upload = DirectUpload::new().await;
    upload.put(b"first").await;
    let staged = upload.uploaded().await;
    upload.store.remove_upload(upload.id).await.expect("remove");
    assert!(matches!(
        staged.publish(&upload.key, &metadata()).await,
        Err(Error::PreconditionFailed)
    ));
}

#[tokio::test]
async fn unreachable_bucket_is_a_transient_error_without_url() {
    let bucket = BucketServer::start().await;
    let (store, _folder) = open(&bucket);
    bucket.set_down(true);
    let away = store.check().await.expect_err("away");
    assert!(
        away.is_transient() && !away.to_string().contains("X-Amz"),
        "{away}"
    );
    bucket.set_down(false);
    store.check().await.expect("there");
    assert!(
        bucket.objects().is_empty(),
        "the check removes its test object"
    );
}

#[tokio::test]
async fn bucket_without_list_permission_names_the_permission() {
    let bucket = BucketServer::start().await;
    let (store, _folder) = open(&bucket);
    bucket.hide_missing_keys();
    let hidden = store.check().await.expect_err("hidden").to_string();
    assert!(
        hidden.contains("403") && hidden.contains("s3:ListBucket"),
        "{hidden}"
    );
}

#[tokio::test]
async fn wrong_secret_names_the_variable_and_not_the_secret() {
    let bucket = BucketServer::start().await;
    let wrong = |name: &str| match name {
        "AWS_SECRET_ACCESS_KEY" => Some("something-else".to_owned()),
        name => credential(name),
    };
    let mut settings = Settings::default();
    settings.storage.blobs_url = Some(bucket.url());
    let config = Config::resolve(settings, &wrong)
        .expect("config")
        .storage
        .bucket
        .expect("bucket");
    let folder = tempfile::tempdir().expect("folder");
    let store = S3Store::open(config, folder.path()).expect("store");
    let refused = store.check().await.expect_err("refused").to_string();
    assert!(
        refused.contains("AWS_SECRET_ACCESS_KEY") && !refused.contains("something-else"),
        "{refused}"
    );
}

#[tokio::test]
async fn missing_bucket_names_the_setting() {
    let bucket = BucketServer::start().await;
    let (store, _folder) = open(&bucket);
    bucket.delete_bucket();
    let gone = store
        .check()
        .await
        .expect_err("the bucket is missing")
        .to_string();
    assert!(
        gone.contains("NoSuchBucket") && gone.contains("HAVERSACK_BLOBS_URL"),
        "{gone}"
    );
}
