//! What every blob store promises: one set of checks for memory, folder and bucket.

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
use haversack::config::{Config, Flags};
use haversack::domain::tier::Tier;
use haversack::id::{BlobId, PartnerId};

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
        .expect("all of it");
    pieces.concat()
}

async fn a_blob_is_seen_only_when_published_and_then_whole(store: &dyn BlobStore) {
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

async fn a_sealed_blob_can_be_read_from_anywhere(store: &dyn BlobStore) {
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
        sealed.check().expect("all came");
        (start, end)
    });
    assert_eq!(ends.await.expect("no panic"), (*b"12", "789".to_owned()));
}

async fn digests_are_those_of_the_bytes(store: &dyn BlobStore) {
    let sealed = write(store, &[b"a", b"bc"]).await;
    // RFC 1321 A.5 and FIPS 180-2 B.1.
    assert_eq!(sealed.digests().md5, "900150983cd24fb0d6963f7d28e17f72");
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sealed.digests().sha256.as_deref(), Some(sha256));
}

async fn what_is_dropped_or_removed_is_not_there(store: &dyn BlobStore) {
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

async fn an_empty_blob_is_a_blob(store: &dyn BlobStore) {
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

async fn everything_is_listed(store: &dyn BlobStore) {
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

async fn check(store: &dyn BlobStore) {
    store.check().await.expect("it can be written to");
    a_blob_is_seen_only_when_published_and_then_whole(store).await;
    a_sealed_blob_can_be_read_from_anywhere(store).await;
    digests_are_those_of_the_bytes(store).await;
    what_is_dropped_or_removed_is_not_there(store).await;
    an_empty_blob_is_a_blob(store).await;
    everything_is_listed(store).await;
}

/// The store in a bucket, and its folder.
pub fn open(bucket: &BucketServer) -> (S3Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let flags = Flags {
        blobs_url: Some(bucket.url()),
        ..Flags::default()
    };
    let config = Config::load_with(flags, &haversack_testkit::bucket::credential)
        .expect("config")
        .bucket
        .expect("a bucket");
    (S3Store::open(config, folder.path()).expect("store"), folder)
}

#[tokio::test]
async fn memory_keeps_the_promises() {
    check(&MemoryStore::default()).await;
}

#[tokio::test]
async fn a_folder_keeps_the_promises() {
    let folder = tempfile::tempdir().expect("folder");
    check(&LocalStore::open(folder.path()).expect("store")).await;
}

#[tokio::test]
async fn a_bucket_keeps_the_promises() {
    let bucket = BucketServer::start().await;
    let (store, folder) = open(&bucket);
    check(&store).await;
    let left = std::fs::read_dir(folder.path().join("unfinished-uploads")).expect("folder");
    assert_eq!(left.count(), 0, "no temporary file is left");
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

#[tokio::test]
async fn an_upload_is_read_and_copied_only_as_it_was_found() {
    let bucket = BucketServer::start().await;
    let (store, _folder) = open(&bucket);
    let (id, client) = (
        BlobId::new(),
        Api::anonymous("127.0.0.1:1".parse().expect("address")),
    );
    let put = async |bytes: &[u8]| {
        let url = store.presign_put(id, "text/plain", bytes.len() as u64, Duration::from_mins(1));
        assert_eq!(
            client
                .request(
                    "PUT",
                    &url,
                    &[("content-type", "text/plain")],
                    Some(bytes.into())
                )
                .await
                .status,
            200
        );
    };
    let key = BlobKey::for_file(id, PartnerId::new(), id, "a.txt", Tier::Persistent);
    assert!(store.uploaded(id).await.expect("answer").is_none());

    // Longer than a block, so that not all of it is read at once.
    let long: Vec<u8> = (0_u32..400_000).flat_map(u32::to_le_bytes).collect();
    put(&long).await;
    let sealed = store
        .uploaded(id)
        .await
        .expect("answer")
        .expect("an upload");
    assert_eq!(
        (sealed.digests().size, sealed.digests().sha256.as_ref()),
        (long.len() as u64, None)
    );
    let (sealed, bytes) = content(sealed).await;
    assert!(bytes.expect("read") == long);
    // Replaced between the look and the copy.
    put(b"another").await;
    assert!(matches!(
        sealed.publish(&key, &metadata()).await,
        Err(Error::PreconditionFailed)
    ));
    assert!(store.open(&key).await.expect("answer").is_none());

    // Replaced before the look.
    let sealed = store
        .uploaded(id)
        .await
        .expect("answer")
        .expect("an upload");
    put(b"a third").await;
    let (sealed, bytes) = content(sealed).await;
    assert!(matches!(
        Error::from_read(bytes.expect_err("changed")),
        Error::PreconditionFailed
    ));
    assert!(matches!(sealed.check(), Err(Error::PreconditionFailed)));
    // Removed.
    let sealed = store
        .uploaded(id)
        .await
        .expect("answer")
        .expect("an upload");
    store.remove_uploaded(id).await.expect("remove");
    assert!(matches!(
        sealed.publish(&key, &metadata()).await,
        Err(Error::PreconditionFailed)
    ));

    put(b"the last").await;
    let sealed = store
        .uploaded(id)
        .await
        .expect("answer")
        .expect("an upload");
    sealed.publish(&key, &metadata()).await.expect("publish");
    assert_eq!(
        store
            .open(&key)
            .await
            .expect("answer")
            .expect("blob")
            .size(),
        8
    );
    assert!(
        store.uploaded(id).await.expect("answer").is_some(),
        "until the row is written"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_bucket_is_said() {
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
    assert!(bucket.objects().is_empty(), "the check leaves nothing");
    bucket.hide_missing_keys();
    let hidden = store.check().await.expect_err("hidden").to_string();
    assert!(
        hidden.contains("403") && hidden.contains("s3:ListBucket"),
        "{hidden}"
    );

    let wrong = |name: &str| match name {
        "AWS_SECRET_ACCESS_KEY" => Some("something-else".to_owned()),
        name => haversack_testkit::bucket::credential(name),
    };
    let flags = Flags {
        blobs_url: Some(bucket.url()),
        ..Flags::default()
    };
    let config = Config::load_with(flags, &wrong)
        .expect("config")
        .bucket
        .expect("bucket");
    let folder = tempfile::tempdir().expect("folder");
    let refused = S3Store::open(config, folder.path())
        .expect("store")
        .check()
        .await;
    let refused = refused.expect_err("refused").to_string();
    assert!(
        refused.contains("AWS_SECRET_ACCESS_KEY") && !refused.contains("something-else"),
        "{refused}"
    );
    bucket.delete_bucket();
    let gone = store.check().await.expect_err("gone").to_string();
    assert!(
        gone.contains("NoSuchBucket") && gone.contains("HAVERSACK_BLOBS_URL"),
        "{gone}"
    );
}
