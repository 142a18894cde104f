//! Files in a bucket: objects and their headers, redirects to the bucket, outages, and `haversack
//! doctor`.

use std::time::Duration;

use haversack::attachments::CdnMode;
use haversack::blob::{BlobKey, BlobStore};
use haversack::db::{Connection, blob_deletions};
use haversack::id::{AttachmentId, PartnerId};
use serde_json::{Value, json};

use crate::blob_stores::open;
use haversack_testkit::origin::http_response;
use haversack_testkit::program::{haversack, run, stderr, stdout};
use haversack_testkit::{Api, BucketServer, Origin, Response, TestApp, corpus, text};

async fn send(api: &Api, id: &str) -> Response {
    api.send_parts(json!([{"type": "media", "attachment_id": id}]))
        .await
}

#[tokio::test]
async fn objects_carry_type_disposition_and_caching_headers() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |settings| {
        settings.attachments.cdn_mode = CdnMode::Redirect;
    })
    .await;
    let page = app
        .api
        .upload("größe.html", "text/html", &corpus("page.html"))
        .await;
    let scan = app
        .api
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await;
    let sent = send(&app.api, &scan.id).await.expect(201)["chat"]["message"]["parts"][0].clone();
    for (url, media_type, disposition) in [
        (
            page.url.as_str(),
            "text/html",
            "attachment; filename=\"gr__e.html\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.html",
        ),
        (
            &scan.url,
            "image/tiff",
            "inline; filename=\"scan.tiff\"; filename*=UTF-8''scan.tiff",
        ),
        (
            text(&sent, "url"),
            "image/jpeg",
            "inline; filename=\"scan.jpg\"; filename*=UTF-8''scan.jpg",
        ),
    ] {
        let object = app.anonymous().get(url).await;
        assert_eq!(object.status, 200, "{url}");
        assert_eq!(object.header("content-type"), media_type);
        assert_eq!(object.header("content-disposition"), disposition);
        assert_eq!(
            object.header("cache-control"),
            "public, max-age=31536000, immutable"
        );
    }
}

#[tokio::test]
async fn redirect_mode_returns_302_to_presigned_url() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |settings| {
        settings.attachments.cdn_mode = CdnMode::Redirect;
    })
    .await;
    let bytes = corpus("photo.jpg");
    let file = app.api.upload("a.jpg", "image/jpeg", &bytes).await;
    for method in ["GET", "HEAD"] {
        let redirect = app
            .anonymous()
            .without_redirects()
            .request(method, &file.url, &[], None)
            .await;
        assert_eq!(
            (redirect.status.as_u16(), redirect.header("cache-control")),
            (302, "no-store"),
            "{method}"
        );
        assert_eq!(redirect.header("x-content-type-options"), "nosniff");
        let location = redirect.header("location");
        assert!(
            location.contains("X-Amz-Expires=60&") && location.contains("a.jpg"),
            "{location}"
        );
        let object = app
            .anonymous()
            .request(method, location, &[("range", "bytes=1-4")], None)
            .await;
        assert!(object.status.is_success(), "{method}: {object:?}");
    }
    let part = app
        .anonymous()
        .get_with(&file.url, &[("range", "bytes=1-4")])
        .await;
    assert_eq!(
        (part.status.as_u16(), part.bytes.as_slice()),
        (206, &bytes[1..5])
    );
}

#[tokio::test]
async fn redirect_mode_returns_404_for_unknown_and_pending_files() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |settings| {
        settings.attachments.cdn_mode = CdnMode::Redirect;
    })
    .await;
    let file = app
        .api
        .upload("a.jpg", "image/jpeg", &corpus("photo.jpg"))
        .await;
    let other = app
        .anonymous()
        .without_redirects()
        .get(&file.url.replace("a.jpg", "b.jpg"))
        .await;
    assert_eq!(
        (other.status.as_u16(), other.text()),
        (404, "there is no such file\n")
    );
    let pending = app.api.create("c.jpg", "image/jpeg", 5).await;
    assert_eq!(
        app.anonymous()
            .without_redirects()
            .get(text(&pending, "download_url"))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn deleted_attachment_leaves_no_object() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let scan = app
        .api
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await;
    send(&app.api, &scan.id).await.expect(201);
    assert_eq!(bucket.objects().len(), 2);
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{}", scan.id))
            .await
            .status,
        204
    );
    assert!(bucket.objects().is_empty());
    assert_eq!(app.anonymous().get(&scan.url).await.status, 404);
}

#[tokio::test]
async fn deletion_queued_before_a_crash_does_not_delete_rebuilt_variant() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let scan = app
        .api
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await;
    let id = AttachmentId::parse(&scan.id).expect("id");
    let url = url::Url::parse(&scan.url).expect("URL");
    let partner = url
        .path()
        .split('/')
        .nth(3)
        .and_then(PartnerId::parse)
        .expect("id");
    // The state after a crash between publishing the variant and writing its row.
    let key = BlobKey::for_file(
        id.variant_blob_id(),
        partner,
        id.blob_id(),
        "scan.jpg",
        haversack::domain::tier::Tier::Persistent,
    )
    .to_string();
    let (now, later) = (
        app.clock.clock().now(),
        app.clock.clock().now() + Duration::from_hours(1),
    );
    let enqueue = app.db.transaction(async move |db: &mut Connection| {
        blob_deletions::enqueue(db, &key, later, now).await
    });
    enqueue.await.expect("enqueue");

    let sent = send(&app.api, &scan.id).await.expect(201)["chat"]["message"]["parts"][0].clone();
    app.clock.advance(Duration::from_hours(2));
    app.background.sweep().await.expect("sweep");
    assert_eq!(bucket.objects().len(), 2, "{:?}", bucket.objects().keys());
    assert_eq!(app.anonymous().get(text(&sent, "url")).await.status, 200);
}

#[tokio::test]
async fn file_deleted_by_another_server_returns_404() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    assert_eq!(app.anonymous().get(&file.url).await.status, 200);
    let key = format!(
        "{} {}",
        file.id,
        url::Url::parse(&file.url)
            .expect("URL")
            .path()
            .trim_start_matches('/')
    );
    open(&bucket)
        .0
        .remove(&BlobKey::parse(&key).expect("key"))
        .await
        .expect("remove");
    assert_eq!(app.anonymous().get(&file.url).await.status, 404);
}

#[tokio::test]
async fn bucket_outage_returns_503_and_recovers() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let used = app.api.upload("a.txt", "text/plain", b"hello").await;
    assert_eq!(app.anonymous().get(&used.url).await.bytes, b"hello");
    let unused = app.api.upload("b.txt", "text/plain", b"hello").await;
    assert_eq!(app.anonymous().get("/readyz").await.status, 200);
    bucket.set_down(true);
    let (download, send_unused, ready, metadata) = tokio::join!(
        async { app.anonymous().get(&used.url).await },
        send(&app.api, &unused.id),
        async { app.anonymous().get("/readyz").await },
        app.api.create("c.txt", "text/plain", 5),
    );
    assert_eq!(
        (download.status.as_u16(), download.header("retry-after")),
        (503, "1")
    );
    assert_eq!(
        (send_unused.error(), send_unused.header("retry-after")),
        ((503, 4004), "1")
    );
    assert!(
        !send_unused.message().contains("127.0.0.1"),
        "{}",
        send_unused.message()
    );
    assert_eq!(ready.status, 503);
    bucket.set_down(false);
    assert_eq!(app.anonymous().get(&used.url).await.bytes, b"hello");
    send(&app.api, &unused.id).await.expect(201);
    assert_eq!(
        app.api.put(&metadata, b"hello").await.status,
        200,
        "creating an attachment needs no bucket"
    );
    assert_eq!(app.anonymous().get("/readyz").await.status, 200);
}

#[tokio::test]
async fn file_reused_after_304_is_copied_within_the_bucket() {
    let (bucket, origin) = (BucketServer::start().await, Origin::start());
    let photo = corpus("photo.jpg");
    let first = http_response(
        "200 OK",
        &format!("etag: \"v1\"\ncontent-length: {}", photo.len()),
        &photo,
    );
    origin.on("/a.jpg", move |request| {
        if request.contains("if-none-match") {
            http_response("304 Not Modified", "etag: \"v1\"", b"")
        } else {
            first.clone()
        }
    });
    let app = TestApp::with_origin_and_bucket(&origin, &bucket).await;
    let fetch = async || {
        let sent = app
            .api
            .send_parts(json!([{"type": "media", "url": origin.url("/a.jpg")}]))
            .await
            .expect(201);
        sent["chat"]["message"]["parts"][0].clone()
    };
    let (first, again) = (fetch().await, fetch().await);
    assert!(
        origin.requests()[1]
            .to_lowercase()
            .contains("if-none-match"),
        "{:?}",
        origin.requests()
    );
    let key =
        |part: &Value| url::Url::parse(text(part, "url")).expect("URL").path()[1..].to_owned();
    let objects = bucket.objects();
    assert_eq!(objects.len(), 2, "{:?}", objects.keys());
    assert!(objects[&key(&first)] == photo && objects[&key(&again)] == photo);
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{}", text(&first, "id")))
            .await
            .status,
        204
    );
    assert_eq!(app.anonymous().get(text(&again, "url")).await.bytes, photo);
}

#[tokio::test]
async fn stripped_metadata_is_not_in_the_bucket() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |settings| {
        settings.attachments.strip_private_metadata = true;
    })
    .await;
    let photo = corpus("photo-exif-rotated.jpg");
    let file = app.api.upload("a.jpg", "image/jpeg", &photo).await;
    let stored = app.anonymous().get(&file.url).await.bytes;
    assert!(stored.len() == photo.len() && stored != photo);
    assert_eq!(
        bucket.objects().into_values().collect::<Vec<_>>(),
        [stored],
        "only the stripped file is stored"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_checks_the_bucket_and_prints_no_secret() {
    let bucket = BucketServer::start().await;
    let folder = tempfile::tempdir().expect("folder");
    let doctor = |secret: &str| {
        let mut command = haversack(folder.path());
        command
            .arg("doctor")
            .env("HAVERSACK_BLOBS_URL", bucket.url());
        run(command
            .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
            .env("AWS_SECRET_ACCESS_KEY", secret))
    };
    let fine = doctor("not-a-secret");
    let output = stdout(&fine);
    assert!(
        fine.status.success() && output.contains("an object was written, read, copied and deleted"),
        "{output}{}",
        stderr(&fine)
    );
    assert!(bucket.objects().is_empty());
    let wrong = doctor("another-secret");
    let output = format!("{}{}", stdout(&wrong), stderr(&wrong));
    assert!(
        !wrong.status.success() && output.contains("AWS_SECRET_ACCESS_KEY"),
        "{output}"
    );
    assert!(
        !output.contains("another-secret") && !output.contains("X-Amz"),
        "{output}"
    );
}
