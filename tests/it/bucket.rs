//! Files in a bucket: uploads that go past us, what becomes of them, and what is there for a CDN.

use std::time::Duration;

use haversack::blob::{BlobKey, BlobStore, DirectAccess};
use haversack::db;
use haversack::id::{AttachmentId, PartnerId};
use serde_json::{Value, json};

use crate::blob_stores::open;
use haversack_testkit::bucket::PREFIX;
use haversack_testkit::origin::response;
use haversack_testkit::program::{haversack, run, stderr, stdout};
use haversack_testkit::{Api, BucketServer, Origin, Response, TestApp, corpus, within};

/// After this no upload of ours can still be running.
const LATE: Duration = Duration::from_hours(2);

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {value}"))
}

fn status_path(created: &Value) -> String {
    format!("/v3/attachments/{}", text(created, "attachment_id"))
}

async fn send(api: &Api, id: &str) -> Response {
    api.send_parts(json!([{"type": "media", "attachment_id": id}]))
        .await
}

/// The name of an attachment's object below the prefix, by its URL.
fn object(created: &Value) -> String {
    let url: url::Url = text(created, "download_url").parse().expect("URL");
    percent_encoding::percent_decode_str(&url.path()[1..])
        .decode_utf8()
        .expect("UTF-8")
        .into_owned()
}

fn staged(created: &Value) -> String {
    format!("uploads/{}", text(created, "attachment_id"))
}

/// Two pictures of one type and size that differ.
fn pictures() -> (Vec<u8>, Vec<u8>) {
    let first = corpus("photo.jpg");
    let mut second = first.clone();
    let middle = second.len() / 2;
    second[middle] ^= 1;
    (first, second)
}

#[tokio::test]
async fn an_upload_goes_past_us_and_is_a_file_from_its_first_use_on() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let bytes = corpus("photo.jpg");
    let created = app
        .api
        .create("größe 1+1.jpg", "image/jpeg", bytes.len())
        .await;
    assert!(
        !text(&created, "upload_url").starts_with(&app.url("")),
        "{created}"
    );
    let required = json!({"Content-Type": "image/jpeg", "Content-Length": bytes.len().to_string()});
    assert_eq!(created["required_headers"], required);
    assert_eq!(
        app.api.get(&status_path(&created)).await.expect(200)["status"],
        "pending"
    );
    assert_eq!(
        app.anonymous()
            .get(text(&created, "download_url"))
            .await
            .status,
        404
    );
    assert_eq!(
        send(&app.api, text(&created, "attachment_id"))
            .await
            .error(),
        (404, 2007)
    );

    bucket.take_calls();
    assert_eq!(app.api.put(&created, &bytes).await.status, 200);
    assert_eq!(
        bucket.take_calls(),
        [format!("PUT /pack/{PREFIX}{}", staged(&created))]
    );
    let attachment = app.api.get(&status_path(&created)).await.expect(200);
    assert_eq!(
        (text(&attachment, "status"), &attachment["width"]),
        ("complete", &json!(160))
    );
    assert_eq!(attachment["download_url"], created["download_url"]);
    let calls = bucket.take_calls();
    assert!(
        calls
            .iter()
            .all(|call| !call.starts_with("PUT") || call.contains("attachments")),
        "{calls:?}"
    );
    assert_eq!(
        bucket.objects().into_iter().collect::<Vec<_>>(),
        [(object(&created), bytes.clone())]
    );

    send(&app.api, text(&created, "attachment_id"))
        .await
        .expect(201);
    app.api
        .send_parts(json!([{"type": "media", "url": created["download_url"]}]))
        .await
        .expect(201);
    let client = app.anonymous();
    let url = text(&created, "download_url");
    let whole = client.get(url).await;
    assert_eq!((whole.status.as_u16(), &whole.bytes), (200, &bytes));
    assert_eq!(whole.header("content-type"), "image/jpeg");
    let part = client.get_with(url, &[("range", "bytes=10-19")]).await;
    assert_eq!(
        (part.status.as_u16(), part.bytes.as_slice()),
        (206, &bytes[10..20])
    );
    let parts = client.get_with(url, &[("range", "bytes=0-0,-2")]).await;
    assert!(
        parts.status == 206
            && String::from_utf8_lossy(&parts.bytes)
                .contains(&format!("bytes 0-0/{}", bytes.len()))
    );
    let head = client.request("HEAD", url, &[], None).await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-length")),
        (200, bytes.len().to_string().as_str())
    );
    assert_eq!(
        client
            .get_with(url, &[("if-none-match", whole.header("etag"))])
            .await
            .status,
        304
    );
}

#[tokio::test]
async fn a_send_or_a_download_can_be_the_first_use() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let bytes = corpus("photo.jpg");
    let sent = app.api.upload("a.jpg", "image/jpeg", &bytes).await;
    let part = &send(&app.api, &sent.id).await.expect(201)["chat"]["message"]["parts"][0].clone();
    assert_eq!(
        (text(part, "url"), text(part, "mime_type")),
        (sent.url.as_str(), "image/jpeg")
    );
    let shown = app.api.upload("b.jpg", "image/jpeg", &bytes).await;
    assert_eq!(
        app.anonymous()
            .request("HEAD", &shown.url, &[], None)
            .await
            .status,
        200
    );
    let loaded = app.api.upload("c.jpg", "image/jpeg", &bytes).await;
    assert_eq!(app.anonymous().get(&loaded.url).await.bytes, bytes);
    let named = app.api.upload("d.jpg", "image/jpeg", &bytes).await;
    app.api
        .send_parts(json!([{"type": "media", "url": named.url}]))
        .await
        .expect(201);
    assert_eq!(bucket.objects().len(), 4);

    let memo = app
        .api
        .upload("memo.m4a", "audio/x-m4a", &corpus("voice.m4a"))
        .await;
    let chat = app
        .api
        .send_text(&[haversack_testkit::RECIPIENT], "hi")
        .await;
    let path = format!("/v3/chats/{}/voicememo", text(&chat, "id"));
    let memo = app
        .api
        .post(&path, &json!({"attachment_id": memo.id}))
        .await
        .expect(202);
    assert_eq!(memo["voice_memo"]["voice_memo"]["duration_ms"], 2500);
    assert!(
        bucket
            .objects()
            .keys()
            .all(|name| name.starts_with("attachments/")),
        "{:?}",
        bucket.objects().keys()
    );
}

#[tokio::test]
async fn the_bucket_takes_only_what_was_signed() {
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
        "nor does the URL do anything else"
    );
    assert!(bucket.objects().is_empty());
    assert_eq!(put(url, "text/plain", b"hello").await, 200);

    // What URLs of ours were good for before there was a bucket goes nowhere now.
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
async fn objects_carry_what_a_cdn_is_to_pass_on() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |flags| {
        flags.cdn_mode = Some("redirect".to_owned())
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
async fn who_asks_for_a_file_is_sent_to_the_bucket_if_the_operator_wants_that() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |flags| {
        flags.cdn_mode = Some("redirect".to_owned())
    })
    .await;
    let bytes = corpus("photo.jpg");
    let file = app.api.upload("a.jpg", "image/jpeg", &bytes).await;
    for method in ["GET", "HEAD"] {
        let sent_on = app
            .anonymous()
            .without_redirects()
            .request(method, &file.url, &[], None)
            .await;
        assert_eq!(
            (sent_on.status.as_u16(), sent_on.header("cache-control")),
            (302, "no-store"),
            "{method}"
        );
        assert_eq!(sent_on.header("x-content-type-options"), "nosniff");
        let place = sent_on.header("location");
        assert!(
            place.contains("X-Amz-Expires=60&") && place.contains("a.jpg"),
            "{place}"
        );
        let object = app
            .anonymous()
            .request(method, place, &[("range", "bytes=1-4")], None)
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
async fn a_second_upload_changes_nothing_once_the_first_is_used() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let (first, second) = pictures();
    let created = app.api.create("a.jpg", "image/jpeg", first.len()).await;
    assert_eq!(app.api.put(&created, &second).await.status, 200);
    assert_eq!(
        app.api.put(&created, &first).await.status,
        200,
        "until then the last one is the one"
    );
    assert_eq!(
        app.api.get(&status_path(&created)).await.expect(200)["status"],
        "complete"
    );
    assert_eq!(
        app.api.put(&created, &second).await.status,
        200,
        "as any bucket"
    );
    let url = text(&created, "download_url");
    assert_eq!(app.anonymous().get(url).await.bytes, first);
    send(&app.api, text(&created, "attachment_id"))
        .await
        .expect(201);
    assert_eq!(bucket.objects()[&object(&created)], first);

    // What is of no use is swept, but not while more can come.
    app.service.sweep().await.expect("sweep");
    assert!(bucket.objects().contains_key(&staged(&created)));
    app.clock.advance(LATE);
    app.service.sweep().await.expect("sweep");
    assert_eq!(
        bucket.objects().into_iter().collect::<Vec<_>>(),
        [(object(&created), first.clone())]
    );
    assert_eq!(app.anonymous().get(url).await.bytes, first);
}

#[tokio::test]
async fn an_upload_that_is_replaced_between_the_look_and_the_copy_is_looked_at_again() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let (first, second) = pictures();
    let program = [b"\x7fELF\x02\x01\x01\0".as_slice(), &first[8..]].concat();
    for (replacement, status) in [(&second, "complete"), (&program, "failed")] {
        let created = app.api.create("a.jpg", "image/jpeg", first.len()).await;
        assert_eq!(app.api.put(&created, &first).await.status, 200);
        bucket.block_copies();
        let (api, path) = (app.api.clone(), status_path(&created));
        let asked = tokio::spawn(async move { api.get(&path).await });
        within(bucket.wait_for_blocked_copy()).await;
        assert_eq!(app.api.put(&created, replacement).await.status, 200);
        bucket.release_copies();
        let attachment = within(asked).await.expect("no panic").expect(200);
        assert_eq!(text(&attachment, "status"), status, "{attachment}");
        let published = bucket.objects().remove(&object(&created));
        assert_eq!(
            published.as_ref(),
            Some(replacement).filter(|_| status == "complete")
        );
    }
}

#[tokio::test]
async fn of_many_first_uses_at_once_one_makes_the_file() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let file = app
        .api
        .upload("a.jpg", "image/jpeg", &corpus("photo.jpg"))
        .await;
    bucket.take_calls();
    let asks = (0..20).map(|_| async { app.anonymous().get(&file.url).await.status.as_u16() });
    assert_eq!(futures_util::future::join_all(asks).await, [200; 20]);
    let copies = bucket
        .take_calls()
        .into_iter()
        .filter(|call| call.starts_with("PUT"));
    assert_eq!(copies.count(), 1);
}

#[tokio::test]
async fn what_is_of_no_type_that_is_taken_is_not_kept() {
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

    // A bucket that does not keep to the length that was signed.
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
async fn what_came_in_time_is_kept_though_nobody_asked_for_it() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let came = app.api.upload("a.txt", "text/plain", b"hello").await;
    let never = app.api.create("b.txt", "text/plain", 5).await;
    app.clock.advance(LATE);
    app.service.sweep().await.expect("sweep");
    assert_eq!(app.anonymous().get(&came.url).await.bytes, b"hello");
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{}", came.id))
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
    // The URL of what was given up is good for the bucket still, in this test; what it leaves is found by the next sweep.
    app.api.put(&never, b"hello").await;
    assert_eq!(
        app.api.get(&status_path(&never)).await.expect(200)["status"],
        "failed"
    );
}

#[tokio::test]
async fn a_bucket_that_is_away_keeps_nothing_from_being_kept() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let came = app.api.upload("a.txt", "text/plain", b"hello").await;
    app.clock.advance(LATE);
    bucket.set_down(true);
    app.service.metrics().outbox.set(7);
    app.service.sweep().await.expect_err("it says so");
    assert_eq!(
        app.service.metrics().outbox.get(),
        0,
        "counted all the same"
    );
    bucket.set_down(false);
    app.service.sweep().await.expect("sweep");
    assert_eq!(app.anonymous().get(&came.url).await.bytes, b"hello");
}

#[tokio::test]
async fn deleting_removes_the_objects_and_what_comes_after() {
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

    let unused = app.api.create("a.txt", "text/plain", 5).await;
    assert_eq!(app.api.put(&unused, b"hello").await.status, 200);
    assert_eq!(app.api.delete(&status_path(&unused)).await.status, 204);
    assert!(bucket.objects().is_empty());
    assert_eq!(
        app.api.put(&unused, b"hello").await.status,
        200,
        "the bucket knows nothing of that"
    );
    assert_eq!(
        app.anonymous()
            .get(text(&unused, "download_url"))
            .await
            .status,
        404
    );
    app.clock.advance(LATE);
    app.service.sweep().await.expect("sweep");
    assert!(bucket.objects().is_empty());
}

#[tokio::test]
async fn what_a_crash_left_asked_to_be_removed_is_not_what_was_made_again() {
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
    // As it is between giving the delivered form its name and writing the row.
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
    let ask = app.db.write::<_, db::Error, _>(move |db| {
        Box::pin(async move { db::blob_deletions::enqueue(db, &key, later, now).await })
    });
    ask.await.expect("request");

    let sent = send(&app.api, &scan.id).await.expect(201)["chat"]["message"]["parts"][0].clone();
    app.clock.advance(LATE);
    app.service.sweep().await.expect("sweep");
    assert_eq!(bucket.objects().len(), 2, "{:?}", bucket.objects().keys());
    assert_eq!(app.anonymous().get(text(&sent, "url")).await.status, 200);
}

#[tokio::test]
async fn a_file_that_another_server_deleted_is_gone_here_too() {
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
async fn a_bucket_that_is_away_is_told_as_that_and_comes_back() {
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
        "announcing a file needs no bucket"
    );
    assert_eq!(app.anonymous().get("/readyz").await.status, 200);
}

#[tokio::test]
async fn what_a_304_stands_for_is_copied_within_the_bucket() {
    let (bucket, origin) = (BucketServer::start().await, Origin::start());
    let photo = corpus("photo.jpg");
    let first = response(
        "200 OK",
        &format!("etag: \"v1\"\ncontent-length: {}", photo.len()),
        &photo,
    );
    origin.on("/a.jpg", move |request| {
        if request.contains("if-none-match") {
            response("304 Not Modified", "etag: \"v1\"", b"")
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
    let name =
        |part: &Value| url::Url::parse(text(part, "url")).expect("URL").path()[1..].to_owned();
    let objects = bucket.objects();
    assert_eq!(objects.len(), 2, "{:?}", objects.keys());
    assert!(objects[&name(&first)] == photo && objects[&name(&again)] == photo);
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
async fn places_are_removed_on_the_way() {
    let bucket = BucketServer::start().await;
    let app =
        TestApp::with_bucket(&bucket, |flags| flags.strip_private_metadata = Some(true)).await;
    let photo = corpus("photo-exif-rotated.jpg");
    let file = app.api.upload("a.jpg", "image/jpeg", &photo).await;
    let stored = app.anonymous().get(&file.url).await.bytes;
    assert!(stored.len() == photo.len() && stored != photo);
    assert_eq!(
        bucket.objects().into_values().collect::<Vec<_>>(),
        [stored],
        "what was removed is nowhere"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_looks_at_the_bucket_and_tells_no_secret() {
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
    let told = stdout(&fine);
    assert!(
        fine.status.success() && told.contains("written, read, copied and removed"),
        "{told}{}",
        stderr(&fine)
    );
    assert!(bucket.objects().is_empty());
    let wrong = doctor("another-secret");
    let told = format!("{}{}", stdout(&wrong), stderr(&wrong));
    assert!(
        !wrong.status.success() && told.contains("AWS_SECRET_ACCESS_KEY"),
        "{told}"
    );
    assert!(
        !told.contains("another-secret") && !told.contains("X-Amz"),
        "{told}"
    );
}

#[tokio::test]
async fn a_bucket_that_is_away_keeps_no_row_from_being_swept() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |_| {}).await;
    let never = app.api.create("a.txt", "text/plain", 5).await;
    let path = format!(
        "/v3/attachments/{}",
        never["attachment_id"].as_str().expect("id")
    );
    app.clock.advance(LATE);
    app.service.sweep().await.expect("it is given up");
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "failed");
    let later = app.api.create("b.txt", "text/plain", 5).await;
    app.clock.advance(Duration::from_hours(25));
    bucket.set_down(true);
    app.service
        .sweep()
        .await
        .expect_err("the other cannot be looked for");
    assert_eq!(
        app.api.get(&path).await.error(),
        (404, 2003),
        "it is forgotten all the same"
    );
    bucket.set_down(false);
    app.service.sweep().await.expect("sweep");
    let path = format!(
        "/v3/attachments/{}",
        later["attachment_id"].as_str().expect("id")
    );
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_of_an_upload_is_good_as_long_as_its_window() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with_bucket(&bucket, |flags| {
        flags.upload_url_ttl_seconds = Some(3 * 24 * 3600)
    })
    .await;
    let url = async || {
        app.api.create("a.txt", "text/plain", 5).await["upload_url"]
            .as_str()
            .expect("URL")
            .to_owned()
    };
    assert!(url().await.contains("X-Amz-Expires=259200&"));
    crate::ephemeral::set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    assert!(url().await.contains("X-Amz-Expires=21600&"), "six hours");
}
