//! Signed URLs of ephemeral files: where they appear, their expiry, and attempts to alter them.

use std::time::Duration;

use haversack::clock::Timestamp;
use serde_json::json;

use crate::ephemeral::{PHOTO, set_tier};
use haversack_testkit::raw::request_target;
use haversack_testkit::{RECIPIENT, TestApp, corpus, each_case_async, text};

/// Starts a server on which the partner under test has the ephemeral tier.
async fn ephemeral() -> TestApp {
    let app = TestApp::start().await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    app
}

/// Returns the expiry in a signed URL.
fn expires(url: &str) -> Timestamp {
    let expires = url
        .split_once("?expires=")
        .expect("a signed URL")
        .1
        .split_once('&')
        .expect("a signature")
        .0;
    Timestamp::from_millis(expires.parse().expect("milliseconds"))
}

#[tokio::test]
async fn signed_url_expires_after_15_minutes() {
    let app = ephemeral().await;
    let file = app.api.upload("a b.jpg", "image/jpeg", PHOTO).await;
    assert!(
        file.url.starts_with(&app.url("/attachments/partners/")),
        "{}",
        file.url
    );
    assert!(
        file.url
            .contains(&format!("/{}/a%20b.jpg?expires=", file.id)),
        "{}",
        file.url
    );
    assert_eq!(
        expires(&file.url),
        app.clock.clock().now() + Duration::from_mins(15)
    );

    let anonymous = app.anonymous();
    let whole = anonymous.get(&file.url).await;
    assert_eq!(
        (whole.status.as_u16(), whole.bytes.as_slice()),
        (200, PHOTO)
    );
    assert_eq!(whole.header("cache-control"), "private, no-store");
    assert_eq!(
        anonymous.request("HEAD", &file.url, &[], None).await.status,
        200
    );
    let range = anonymous
        .get_with(&file.url, &[("range", "bytes=0-3")])
        .await;
    assert_eq!(
        (range.status.as_u16(), range.header("cache-control")),
        (206, "private, no-store")
    );
    let same = anonymous
        .get_with(&file.url, &[("if-none-match", whole.header("etag"))])
        .await;
    assert_eq!(
        (same.status.as_u16(), same.header("cache-control")),
        (304, "private, no-store")
    );

    app.clock
        .advance(Duration::from_mins(15) - Duration::from_millis(1));
    assert_eq!(anonymous.get(&file.url).await.status, 200);
    app.clock.advance(Duration::from_millis(1));
    for method in ["GET", "HEAD"] {
        let late = anonymous
            .request(
                method,
                &file.url,
                &[("if-none-match", whole.header("etag"))],
                None,
            )
            .await;
        assert_eq!(
            (late.status.as_u16(), late.header("cache-control")),
            (403, "no-store"),
            "{method}"
        );
        assert!(
            method == "HEAD" || late.text().starts_with("this URL has expired"),
            "{}",
            late.text()
        );
    }
    let fresh = app
        .api
        .get(&format!("/v3/attachments/{}", file.id))
        .await
        .expect(200);
    assert_eq!(
        anonymous.get(text(&fresh, "download_url")).await.bytes,
        PHOTO
    );
}

#[tokio::test]
async fn every_response_has_a_fresh_signed_url() {
    let app = ephemeral().await;
    let file = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await
        .expect(201);
    let (chat, message) = (
        text(&sent["chat"], "id").to_owned(),
        text(&sent["chat"]["message"], "id").to_owned(),
    );
    app.clock.advance(Duration::from_hours(1));
    let again = app
        .api
        .send_parts(json!([{"type": "media", "url": file.url}]))
        .await
        .expect(201);
    let read = app
        .api
        .get(&format!("/v3/messages/{message}"))
        .await
        .expect(200);
    let listed = app
        .api
        .get(&format!("/v3/chats/{chat}/messages?limit=1"))
        .await
        .expect(200);
    let thread = app
        .api
        .get(&format!("/v3/messages/{message}/thread"))
        .await
        .expect(200);
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{}", file.id))
        .await
        .expect(200);
    assert_eq!(
        app.anonymous()
            .get(text(&sent["chat"]["message"]["parts"][0], "url"))
            .await
            .status,
        403
    );
    each_case_async(
        [
            text(&again["chat"]["message"]["parts"][0], "url"),
            text(&read["parts"][0], "url"),
            text(&listed["messages"][0]["parts"][0], "url"),
            text(&thread["messages"][0]["parts"][0], "url"),
            text(&attachment, "download_url"),
        ],
        async |url| {
            assert_eq!(
                expires(url),
                app.clock.clock().now() + Duration::from_mins(15),
                "{url}"
            );
            assert_eq!(app.anonymous().get(url).await.bytes, PHOTO, "{url}");
        },
    )
    .await;
    assert_eq!(
        again["chat"]["message"]["parts"][0]["id"], file.id,
        "an expired URL of this server still names the file in a send"
    );
}

#[tokio::test]
async fn altered_signed_url_returns_403() {
    let app = ephemeral().await;
    let file = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    let other = app
        .api
        .upload("a.jpg", "image/jpeg", &corpus("tiny.jpg"))
        .await;
    let (path, query) = file.url.split_once('?').expect("a query");
    let (other_path, other_query) = other.url.split_once('?').expect("a query");
    let mut altered = vec![
        path.to_owned(),
        format!("{path}?"),
        format!("{path}?{other_query}"),
        format!("{other_path}?{query}"),
        format!("{path}?{query}&x=1"),
        format!("{path}?{}", query.to_uppercase()),
        format!("{path}?{query}").replace("expires=", "expires=0"),
        text(
            &app.api.create("b.jpg", "image/jpeg", 5).await,
            "upload_url",
        )
        .split_once('?')
        .map_or_else(String::new, |(_, upload)| format!("{path}?{upload}")),
    ];
    // Each character of the query in turn.
    for at in 0..query.len() {
        let mut bytes = query.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
        altered.push(format!(
            "{path}?{}",
            String::from_utf8(bytes).expect("text")
        ));
    }
    for url in altered {
        let response = app.anonymous().get(&url).await;
        assert_eq!(
            (response.status.as_u16(), response.header("cache-control")),
            (403, "no-store"),
            "{url}"
        );
        assert!(
            response.text().starts_with("this file needs a signed URL"),
            "{url} {}",
            response.text()
        );
        // An API key does not replace the signature.
        assert_eq!(app.api.get(&url).await.status, 403, "{url}");
    }
    assert_eq!(app.anonymous().get(&file.url).await.bytes, PHOTO);
}

#[tokio::test]
async fn signed_url_of_missing_file_returns_404() {
    let app = ephemeral().await;
    let file = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    let (path, _) = file.url.split_once('?').expect("a query");
    let pending = app.api.create("c.jpg", "image/jpeg", 5).await;
    each_case_async(
        [
            text(&pending, "download_url").to_owned(),
            file.url.replace("a.jpg", "b.jpg"),
            file.url
                .replace(&file.id, "01990000-0000-7000-8000-000000000001"),
            path.replace("a.jpg", "b.jpg"),
        ],
        async |url| {
            assert_eq!(app.anonymous().get(&url).await.status, 404, "{url}");
        },
    )
    .await;
    assert_eq!(app.anonymous().get(&file.url).await.bytes, PHOTO);
}

#[tokio::test]
async fn original_and_variant_have_separate_signatures() {
    let app = ephemeral().await;
    let file = app
        .api
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await;
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await
        .expect(201);
    let url = text(&sent["chat"]["message"]["parts"][0], "url").to_owned();
    assert_eq!(
        app.anonymous().get(&url).await.header("content-type"),
        "image/jpeg"
    );
    assert_eq!(
        app.anonymous().get(&file.url).await.header("content-type"),
        "image/tiff"
    );
    let mixed = url.split_once('?').expect("a query").0.to_owned()
        + "?"
        + file.url.split_once('?').expect("a query").1;
    assert_eq!(app.anonymous().get(&mixed).await.status, 403);
    assert_eq!(app.stored_files().await.len(), 2);

    app.clock.advance(Duration::from_hours(36));
    assert_eq!(app.anonymous().get(&url).await.status, 404);
    app.background.sweep().await.expect("sweep");
    assert!(
        app.stored_files().await.is_empty(),
        "both renditions are deleted"
    );
}

#[tokio::test]
async fn ephemeral_files_bypass_the_cdn() {
    let app = TestApp::with(|settings| {
        settings.urls.cdn_url = Some("https://cdn.example.com".parse().expect("URL"));
    })
    .await;
    let persistent = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    assert!(
        persistent
            .url
            .starts_with("https://cdn.example.com/attachments/"),
        "{}",
        persistent.url
    );
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    let file = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    assert!(
        file.url.starts_with(&app.url("/attachments/")),
        "{}",
        file.url
    );
    assert_eq!(app.anonymous().get(&file.url).await.bytes, PHOTO);
    let unsigned = request_target(file.url.split_once('?').expect("a query").0).to_owned();
    let at_cdn = app
        .anonymous()
        .get_with(&unsigned, &[("host", "cdn.example.com")])
        .await;
    assert_eq!(
        (at_cdn.status.as_u16(), at_cdn.header("cache-control")),
        (403, "no-store")
    );
}

#[tokio::test]
async fn url_signed_by_a_clock_eleven_hours_ahead_is_invalid() {
    let app = ephemeral().await;
    let file = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    let path = format!("/v3/attachments/{}", file.id);
    let fresh = async || text(&app.api.get(&path).await.expect(200), "download_url").to_owned();
    app.clock.advance(Duration::from_hours(11));
    let ahead = fresh().await;
    assert_eq!(app.anonymous().get(&ahead).await.status, 200);
    app.clock.turn_back(Duration::from_hours(11));
    assert_eq!(
        app.anonymous().get(&ahead).await.status,
        403,
        "it would else be valid for eleven hours"
    );
    assert_eq!(app.anonymous().get(&fresh().await).await.status, 200);
}

#[tokio::test]
async fn url_signed_by_a_clock_30_seconds_ahead_is_valid() {
    let app = ephemeral().await;
    let file = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    let path = format!("/v3/attachments/{}", file.id);
    let fresh = async || text(&app.api.get(&path).await.expect(200), "download_url").to_owned();
    let ahead = fresh().await;
    app.clock.turn_back(Duration::from_secs(30));
    assert_eq!(app.anonymous().get(&ahead).await.status, 200);
}

#[tokio::test]
async fn stored_response_of_idempotency_key_keeps_its_expired_url() {
    let app = ephemeral().await;
    let file = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    let message =
        json!({"parts": [{"type": "media", "attachment_id": file.id}], "idempotency_key": "k"});
    let body = json!({"to": [RECIPIENT], "message": message});
    let first = app.api.post("/v3/messages", &body).await;
    app.clock.advance(Duration::from_hours(1));
    let again = app.api.post("/v3/messages", &body).await;
    assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
    assert_eq!(
        app.anonymous()
            .get(text(&again.json["message"]["parts"][0], "url"))
            .await
            .status,
        403
    );
}
