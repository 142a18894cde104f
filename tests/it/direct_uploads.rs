//! Direct uploads: presigned PUTs to a bucket, and their finalizing on first use.

use std::time::Duration;

use haversack::blob::DirectAccess;
use haversack::id::AttachmentId;
use serde_json::{Value, json};

use crate::blob_stores::open;
use haversack_testkit::bucket::PREFIX;
use haversack_testkit::{Api, BucketServer, RECIPIENT, Response, TestApp, corpus, text, within};

/// Time after which every upload URL of these tests has expired.
const LATE: Duration = Duration::from_hours(2);

fn status_path(created: &Value) -> String {
    format!("/v3/attachments/{}", text(created, "attachment_id"))
}

async fn send(api: &Api, id: &str) -> Response {
    api.send_parts(json!([{"type": "media", "attachment_id": id}]))
        .await
}

/// Returns the key of an attachment's object below the prefix, from its URL.
fn object(created: &Value) -> String {
    let url: url::Url = text(created, "download_url").parse().expect("URL");
    percent_encoding::percent_decode_str(&url.path()[1..])
        .decode_utf8()
        .expect("UTF-8")
        .into_owned()
}

/// Returns the key of an upload before it is finalized.
fn staged(created: &Value) -> String {
    format!("uploads/{}", text(created, "attachment_id"))
}

/// Returns two different pictures of one type and size.
fn pictures() -> (Vec<u8>, Vec<u8>) {
    let first = corpus("photo.jpg");
    let mut second = first.clone();
    let middle = second.len() / 2;
    second[middle] ^= 1;
    (first, second)
}

/// A server on a bucket, and an attachment of a photo.
struct Setup {
    bucket: BucketServer,
    app: TestApp,
    photo: Vec<u8>,
    created: Value,
}

impl Setup {
    /// Creates the attachment without uploading the photo.
    async fn created() -> Self {
        let bucket = BucketServer::start().await;
        let app = TestApp::with_bucket(&bucket, |_| {}).await;
        let photo = corpus("photo.jpg");
        let filename = "größe 1+1.jpg";
        let created = app.api.create(filename, "image/jpeg", photo.len()).await;
        bucket.take_calls();
        Self {
            bucket,
            app,
            photo,
            created,
        }
    }

    /// Creates the attachment and uploads the photo to the bucket.
    async fn uploaded() -> Self {
        let setup = Self::created().await;
        let put = setup.app.api.put(&setup.created, &setup.photo).await;
        assert_eq!(put.status, 200);
        setup
    }

    /// Creates the attachment, uploads the photo and finalizes it.
    async fn finalized() -> Self {
        let setup = Self::uploaded().await;
        setup.bucket.take_calls();
        assert_eq!(setup.attachment().await["status"], "complete");
        setup
    }

    /// Returns the attachment, which finalizes the upload.
    async fn attachment(&self) -> Value {
        self.app
            .api
            .get(&status_path(&self.created))
            .await
            .expect(200)
    }

    fn id(&self) -> &str {
        text(&self.created, "attachment_id")
    }

    fn url(&self) -> &str {
        text(&self.created, "download_url")
    }
}

#[tokio::test]
async fn upload_url_is_of_the_bucket() {
    let setup = Setup::created().await;
    let (app, created) = (&setup.app, &setup.created);
    assert!(
        !text(created, "upload_url").starts_with(&app.url("")),
        "{created}"
    );
    let length = setup.photo.len().to_string();
    let required = json!({"Content-Type": "image/jpeg", "Content-Length": length});
    assert_eq!(created["required_headers"], required);
}

#[tokio::test]
async fn attachment_without_upload_is_pending_and_cannot_be_used() {
    let setup = Setup::created().await;
    assert_eq!(setup.attachment().await["status"], "pending");
    assert_eq!(setup.app.anonymous().get(setup.url()).await.status, 404);
    let sent = send(&setup.app.api, setup.id()).await;
    assert_eq!(sent.error(), (404, 2007));
}

#[tokio::test]
async fn upload_goes_to_the_bucket_alone() {
    let setup = Setup::uploaded().await;
    assert_eq!(
        setup.bucket.take_calls(),
        [format!("PUT /pack/{PREFIX}{}", staged(&setup.created))]
    );
}

#[tokio::test]
async fn first_use_inspects_the_upload_and_copies_it_to_its_final_key() {
    let setup = Setup::uploaded().await;
    setup.bucket.take_calls();
    let attachment = setup.attachment().await;
    assert_eq!(
        (text(&attachment, "status"), &attachment["width"]),
        ("complete", &json!(160))
    );
    assert_eq!(attachment["download_url"], setup.created["download_url"]);
    let calls = setup.bucket.take_calls();
    assert!(
        calls
            .iter()
            .all(|call| !call.starts_with("PUT") || call.contains("attachments")),
        "{calls:?}"
    );
    assert_eq!(
        setup.bucket.objects().into_iter().collect::<Vec<_>>(),
        [(object(&setup.created), setup.photo)]
    );
}

#[tokio::test]
async fn finalized_upload_can_be_sent_by_id_and_by_url() {
    let setup = Setup::finalized().await;
    send(&setup.app.api, setup.id()).await.expect(201);
    setup
        .app
        .api
        .send_parts(json!([{"type": "media", "url": setup.url()}]))
        .await
        .expect(201);
}

#[tokio::test]
async fn finalized_upload_is_served_with_ranges_and_conditions() {
    let setup = Setup::finalized().await;
    let (client, url, photo) = (setup.app.anonymous(), setup.url(), &setup.photo);
    let whole = client.get(url).await;
    assert_eq!((whole.status.as_u16(), &whole.bytes), (200, photo));
    assert_eq!(whole.header("content-type"), "image/jpeg");
    let part = client.get_with(url, &[("range", "bytes=10-19")]).await;
    assert_eq!(
        (part.status.as_u16(), part.bytes.as_slice()),
        (206, &photo[10..20])
    );
    let parts = client.get_with(url, &[("range", "bytes=0-0,-2")]).await;
    assert_eq!(parts.status, 206);
    let first = format!("bytes 0-0/{}", photo.len());
    assert!(String::from_utf8_lossy(&parts.bytes).contains(&first));
    let head = client.request("HEAD", url, &[], None).await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-length")),
        (200, photo.len().to_string().as_str())
    );
    let condition = [("if-none-match", whole.header("etag"))];
    assert_eq!(client.get_with(url, &condition).await.status, 304);
}

#[tokio::test]
async fn send_by_id_finalizes_the_upload() {
    let setup = Setup::uploaded().await;
    let sent = send(&setup.app.api, setup.id()).await.expect(201);
    let part = &sent["chat"]["message"]["parts"][0];
    assert_eq!(
        (text(part, "url"), text(part, "mime_type")),
        (setup.url(), "image/jpeg")
    );
    assert_finalized(&setup.bucket);
}

#[tokio::test]
async fn send_by_url_finalizes_the_upload() {
    let setup = Setup::uploaded().await;
    setup
        .app
        .api
        .send_parts(json!([{"type": "media", "url": setup.url()}]))
        .await
        .expect(201);
    assert_finalized(&setup.bucket);
}

#[tokio::test]
async fn head_finalizes_the_upload() {
    let setup = Setup::uploaded().await;
    let client = setup.app.anonymous();
    let head = client.request("HEAD", setup.url(), &[], None).await;
    assert_eq!(head.status, 200);
    assert_finalized(&setup.bucket);
}

#[tokio::test]
async fn download_finalizes_the_upload() {
    let setup = Setup::uploaded().await;
    let download = setup.app.anonymous().get(setup.url()).await;
    assert_eq!(download.bytes, setup.photo);
    assert_finalized(&setup.bucket);
}

#[tokio::test]
async fn voice_memo_finalizes_the_upload() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let memo = app
        .api
        .upload("memo.m4a", "audio/x-m4a", &corpus("voice.m4a"))
        .await;
    let chat = app.api.send_text(&[RECIPIENT], "hi").await;
    let path = format!("/v3/chats/{}/voicememo", text(&chat, "id"));
    let memo = app
        .api
        .post(&path, &json!({"attachment_id": memo.id}))
        .await
        .expect(202);
    assert_eq!(memo["voice_memo"]["voice_memo"]["duration_ms"], 2500);
    assert_finalized(&bucket);
}

/// Asserts that the bucket has one object, at its final key.
fn assert_finalized(bucket: &BucketServer) {
    let keys: Vec<_> = bucket.objects().into_keys().collect();
    assert!(
        keys.len() == 1 && keys[0].starts_with("attachments/"),
        "{keys:?}"
    );
}

#[tokio::test]
async fn altered_url_type_or_length_returns_403_from_bucket() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = text(&created, "upload_url");
    let put = async |url: &str, content_type: &str, body: &[u8]| {
        app.anonymous()
            .request(
                "PUT",
                url,
                &[("content-type", content_type)],
                Some(body.into()),
            )
            .await
            .status
            .as_u16()
    };
    assert_eq!(put(url, "text/html", b"hello").await, 403);
    assert_eq!(put(url, "text/plain", b"hello!").await, 403);
    assert_eq!(
        put(
            &url.replace(
                text(&created, "attachment_id"),
                &AttachmentId::new().to_string()
            ),
            "text/plain",
            b"hello"
        )
        .await,
        403
    );
    assert_eq!(
        app.anonymous().get(url).await.status,
        403,
        "the URL is for PUT only"
    );
    assert!(bucket.objects().is_empty());
    assert_eq!(put(url, "text/plain", b"hello").await, 200);
}

#[tokio::test]
async fn upload_url_of_this_server_returns_404_on_a_bucket() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let own = app.url(&format!(
        "/uploads/{}?expires=1&signature=x",
        text(&created, "attachment_id")
    ));
    let refused = app
        .anonymous()
        .request(
            "PUT",
            &own,
            &[("content-type", "text/plain")],
            Some(b"hello".to_vec()),
        )
        .await;
    assert!(
        refused.status == 404 && refused.text().contains("<Code>NoSuchKey</Code>"),
        "{}",
        refused.text()
    );
}

#[tokio::test]
async fn upload_after_finalizing_does_not_change_the_file() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let (first, second) = pictures();
    let created = app.api.create("a.jpg", "image/jpeg", first.len()).await;
    assert_eq!(app.api.put(&created, &second).await.status, 200);
    assert_eq!(
        app.api.put(&created, &first).await.status,
        200,
        "before the first use, the last upload counts"
    );
    assert_eq!(
        app.api.get(&status_path(&created)).await.expect(200)["status"],
        "complete"
    );
    assert_eq!(
        app.api.put(&created, &second).await.status,
        200,
        "the bucket accepts it"
    );
    let url = text(&created, "download_url");
    assert_eq!(app.anonymous().get(url).await.bytes, first);
    send(&app.api, text(&created, "attachment_id"))
        .await
        .expect(201);
    assert_eq!(bucket.objects()[&object(&created)], first);

    // The staged object is deleted once the upload URL has expired.
    app.background.sweep().await.expect("sweep");
    assert!(bucket.objects().contains_key(&staged(&created)));
    app.clock.advance(LATE);
    app.background.sweep().await.expect("sweep");
    assert_eq!(
        bucket.objects().into_iter().collect::<Vec<_>>(),
        [(object(&created), first.clone())]
    );
    assert_eq!(app.anonymous().get(url).await.bytes, first);
}

#[tokio::test]
async fn upload_replaced_between_inspection_and_copy_is_inspected_again() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let (first, second) = pictures();
    let program = [b"\x7fELF\x02\x01\x01\0".as_slice(), &first[8..]].concat();
    for (replacement, status) in [(&second, "complete"), (&program, "failed")] {
        let created = app.api.create("a.jpg", "image/jpeg", first.len()).await;
        assert_eq!(app.api.put(&created, &first).await.status, 200);
        bucket.block_copies();
        let (api, path) = (app.api.clone(), status_path(&created));
        let request = tokio::spawn(async move { api.get(&path).await });
        within(bucket.wait_for_blocked_copy()).await;
        assert_eq!(app.api.put(&created, replacement).await.status, 200);
        bucket.release_copies();
        let attachment = within(request).await.expect("no panic").expect(200);
        assert_eq!(text(&attachment, "status"), status, "{attachment}");
        let published = bucket.objects().remove(&object(&created));
        assert_eq!(
            published.as_ref(),
            Some(replacement).filter(|_| status == "complete")
        );
    }
}

#[tokio::test]
async fn concurrent_first_uses_copy_the_upload_once() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let file = app
        .api
        .upload("a.jpg", "image/jpeg", &corpus("photo.jpg"))
        .await;
    bucket.take_calls();
    let downloads = (0..20).map(|_| async { app.anonymous().get(&file.url).await.status.as_u16() });
    assert_eq!(futures_util::future::join_all(downloads).await, [200; 20]);
    let copies = bucket
        .take_calls()
        .into_iter()
        .filter(|call| call.starts_with("PUT"));
    assert_eq!(copies.count(), 1);
}

#[tokio::test]
async fn upload_of_unsupported_type_fails_and_is_deleted() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let program = app
        .api
        .upload("a.jpg", "image/jpeg", &corpus("elf-named.jpg"))
        .await;
    assert_eq!(send(&app.api, &program.id).await.error(), (400, 5004));
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{}", program.id))
        .await
        .expect(200);
    assert_eq!(text(&attachment, "status"), "failed");
    assert!(
        text(&attachment, "failure_reason").contains("program"),
        "{attachment}"
    );
    assert!(bucket.objects().is_empty(), "{:?}", bucket.objects().keys());
}

#[tokio::test]
async fn upload_of_other_length_fails_and_is_deleted() {
    // Simulates a bucket that does not enforce the signed length.
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let id = AttachmentId::parse(text(&created, "attachment_id")).expect("id");
    let longer = open(&bucket)
        .0
        .presign_put(id.blob_id(), "text/plain", 6, Duration::from_mins(1));
    let client = app.anonymous();
    let put = client.request(
        "PUT",
        &longer,
        &[("content-type", "text/plain")],
        Some(b"hello!".to_vec()),
    );
    assert_eq!(put.await.status, 200);
    let attachment = app.api.get(&status_path(&created)).await.expect(200);
    assert!(
        text(&attachment, "failure_reason").contains("6 bytes and not the 5"),
        "{attachment}"
    );
    assert!(bucket.objects().is_empty());
}

#[tokio::test]
async fn sweeper_finalizes_unused_uploads_and_expires_missing_ones() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let uploaded = app.api.upload("a.txt", "text/plain", b"hello").await;
    let never = app.api.create("b.txt", "text/plain", 5).await;
    app.clock.advance(LATE);
    app.background.sweep().await.expect("sweep");
    assert_eq!(app.anonymous().get(&uploaded.url).await.bytes, b"hello");
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{}", uploaded.id))
            .await
            .expect(200)["status"],
        "complete"
    );
    assert_eq!(
        app.api.get(&status_path(&never)).await.expect(200)["status"],
        "failed"
    );
    assert!(
        bucket
            .objects()
            .keys()
            .all(|name| name.starts_with("attachments/")),
        "{:?}",
        bucket.objects().keys()
    );
    // The bucket's clock is not the test's, so it still accepts the URL; the attachment remains
    // failed.
    app.api.put(&never, b"hello").await;
    assert_eq!(
        app.api.get(&status_path(&never)).await.expect(200)["status"],
        "failed"
    );
}

#[tokio::test]
async fn sweep_during_bucket_outage_fails_and_next_one_finalizes() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let uploaded = app.api.upload("a.txt", "text/plain", b"hello").await;
    app.clock.advance(LATE);
    bucket.set_down(true);
    app.metrics.outbox.set(7);
    app.background
        .sweep()
        .await
        .expect_err("the bucket is down");
    assert_eq!(
        app.metrics.outbox.get(),
        0,
        "the outbox is counted nevertheless"
    );
    bucket.set_down(false);
    app.background.sweep().await.expect("sweep");
    assert_eq!(app.anonymous().get(&uploaded.url).await.bytes, b"hello");
}

#[tokio::test]
async fn upload_after_deletion_is_deleted_by_the_sweeper() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let unused = app.api.create("a.txt", "text/plain", 5).await;
    assert_eq!(app.api.put(&unused, b"hello").await.status, 200);
    assert_eq!(app.api.delete(&status_path(&unused)).await.status, 204);
    assert!(bucket.objects().is_empty());
    assert_eq!(
        app.api.put(&unused, b"hello").await.status,
        200,
        "the bucket still accepts the URL"
    );
    assert_eq!(
        app.anonymous()
            .get(text(&unused, "download_url"))
            .await
            .status,
        404
    );
    app.clock.advance(LATE);
    app.background.sweep().await.expect("sweep");
    assert!(bucket.objects().is_empty());
}

#[tokio::test]
async fn sweep_during_bucket_outage_still_deletes_failed_attachments() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let never = app.api.create("a.txt", "text/plain", 5).await;
    let path = format!("/v3/attachments/{}", text(&never, "attachment_id"));
    app.clock.advance(LATE);
    app.background.sweep().await.expect("sweep");
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "failed");
    let later = app.api.create("b.txt", "text/plain", 5).await;
    app.clock.advance(Duration::from_hours(25));
    bucket.set_down(true);
    app.background
        .sweep()
        .await
        .expect_err("the later upload cannot be checked");
    assert_eq!(
        app.api.get(&path).await.error(),
        (404, 2003),
        "deleted nevertheless"
    );
    bucket.set_down(false);
    app.background.sweep().await.expect("sweep");
    let path = format!("/v3/attachments/{}", text(&later, "attachment_id"));
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_url_expires_with_the_upload_window() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |settings| {
        settings.attachments.upload_url_ttl = Duration::from_hours(3 * 24);
    })
    .await;
    let url = async || {
        text(
            &app.api.create("a.txt", "text/plain", 5).await,
            "upload_url",
        )
        .to_owned()
    };
    assert!(url().await.contains("X-Amz-Expires=259200&"));
    crate::ephemeral::set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    assert!(
        url().await.contains("X-Amz-Expires=21600&"),
        "six hours at most for the ephemeral tier"
    );
}
