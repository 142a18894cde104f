//! Revalidation of fetched files: validators (RFC 9110 section 8.8), 304, and blobs shared by
//! attachments.

use std::time::Duration;

use serde_json::json;

use haversack_testkit::origin::http_response;
use haversack_testkit::{
    Origin, RECIPIENT, RIVAL_LINE, TestApp, corpus, each_case_async, on_disk, text,
};

use crate::media_urls::{PHOTO, media, part, send};

/// Starts an origin of one photo with a validator, which answers 304 to this condition.
fn origin_with(validator: &'static str, condition: &'static str) -> Origin {
    let origin = Origin::start();
    origin.on("/a.jpg", move |request| {
        if request.contains(&format!("\r\n{condition}\r\n")) {
            return http_response("304 Not Modified", validator, b"");
        }
        let headers = format!("{validator}\ncontent-length: {}", PHOTO.len());
        http_response("200 OK", &headers, PHOTO)
    });
    origin
}

#[tokio::test]
async fn blob_is_shared_after_304() {
    let modified = (
        "last-modified: Thu, 15 Jan 2026 10:00:00 GMT",
        "if-modified-since: Thu, 15 Jan 2026 10:00:00 GMT",
    );
    for (validator, condition) in [
        ("etag: \"v1\"", "if-none-match: \"v1\""),
        ("etag: W/\"v1\"", "if-none-match: W/\"v1\""),
        modified,
    ] {
        let origin = origin_with(validator, condition);
        let app = TestApp::with_origin(&origin, on_disk).await;
        let url = origin.url("/a.jpg");
        let (first, second, third) = (
            part(&app, &url).await,
            part(&app, &url).await,
            part(&app, &url).await,
        );
        let requests = origin.requests();
        assert_eq!(
            requests
                .iter()
                .filter(|request| request.contains(condition))
                .count(),
            2,
            "each later send revalidates"
        );
        assert!(
            first["id"] != second["id"] && second["id"] != third["id"],
            "each send creates an attachment"
        );
        assert_eq!(app.stored_files().await.len(), 1, "stored once");
        for part in [&first, &second, &third] {
            assert_eq!(
                (&part["mime_type"], &part["size_bytes"]),
                (&json!("image/jpeg"), &json!(PHOTO.len()))
            );
            assert_eq!(app.api.get(text(part, "url")).await.bytes, PHOTO);
        }
        // The blob remains while an attachment refers to it.
        for (part, others) in [(&first, vec![&second, &third]), (&third, vec![&second])] {
            assert_eq!(
                app.api
                    .delete(&format!("/v3/attachments/{}", text(part, "id")))
                    .await
                    .status,
                204
            );
            assert_eq!(app.api.get(text(part, "url")).await.status, 404);
            for other in others {
                assert_eq!(app.api.get(text(other, "url")).await.bytes, PHOTO);
            }
        }
        assert_eq!(
            app.api
                .delete(&format!("/v3/attachments/{}", text(&second, "id")))
                .await
                .status,
            204
        );
        assert!(app.stored_files().await.is_empty());
        assert_eq!(
            part(&app, &url).await["size_bytes"],
            PHOTO.len(),
            "the file is fetched anew"
        );
        assert!(
            !origin
                .requests()
                .last()
                .expect("request")
                .contains(condition)
        );
    }
}

#[tokio::test]
async fn changed_file_is_fetched_anew() {
    let origin = origin_with("etag: \"v1\"", "if-none-match: \"v1\"");
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let url = origin.url("/a.jpg");
    let first = part(&app, &url).await;
    origin.script(
        "/a.jpg",
        http_response("503 Busy", "content-length: 0", b""),
    );
    assert_eq!(send(&app, &url).await.error(), (500, 5002));
    let tiny = corpus("tiny.jpg");
    let headers = format!("etag: \"v2\"\ncontent-length: {}", tiny.len());
    origin.script("/a.jpg", http_response("200 OK", &headers, &tiny));
    let changed = part(&app, &url).await;
    assert_eq!(app.api.get(text(&changed, "url")).await.bytes, tiny);
    assert_eq!(
        app.api.get(text(&first, "url")).await.bytes,
        PHOTO,
        "files already sent do not change"
    );
    part(&app, &url).await;
    assert!(origin.requests()[2].contains("if-none-match: \"v1\""));
    assert!(origin.requests()[3].contains("if-none-match: \"v2\""));
}

#[tokio::test]
async fn response_304_to_unconditional_request_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.script(
        "/b.jpg",
        http_response("304 Not Modified", "etag: \"v1\"", b""),
    );
    assert_eq!(send(&app, &origin.url("/b.jpg")).await.error(), (500, 5002));
}

#[tokio::test]
async fn file_without_validator_is_fetched_unconditionally() {
    let origin = origin_with("etag: \"v1\"", "if-none-match: \"v1\"");
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let url = origin.url("/a.jpg");
    part(&app, &url).await;
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    part(&app, &url).await;
    part(&app, &url).await;
    assert!(
        !origin
            .requests()
            .last()
            .expect("request")
            .contains("if-none-match")
    );
}

#[tokio::test]
async fn response_304_with_other_etag_is_fetched_anew() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, on_disk).await;
    let photo = |etag: &str, bytes: &[u8]| {
        http_response(
            "200 OK",
            &format!("etag: {etag}\ncontent-length: {}", bytes.len()),
            bytes,
        )
    };
    let url = origin.url("/a.jpg");
    origin.script("/a.jpg", photo("\"1\"", PHOTO));
    part(&app, &url).await;
    // The origin has another version, and wrongly answers 304 with its entity tag.
    let tiny = corpus("tiny.jpg");
    let changed = photo("\"2\"", &tiny);
    origin.on("/a.jpg", move |request| {
        if request.contains("if-none-match") {
            http_response("304 Not Modified", "etag: \"2\"", b"")
        } else {
            changed.clone()
        }
    });
    assert_eq!(part(&app, &url).await["size_bytes"], tiny.len());
}

#[tokio::test]
async fn file_with_lost_blob_is_fetched_anew() {
    let origin = origin_with("etag: \"v1\"", "if-none-match: \"v1\"");
    let app = TestApp::with_origin(&origin, on_disk).await;
    let url = origin.url("/a.jpg");
    part(&app, &url).await;
    for digits in std::fs::read_dir(app.folder.path().join("blobs")).expect("blobs") {
        for file in std::fs::read_dir(digits.expect("entry").path()).expect("folder") {
            std::fs::remove_file(file.expect("entry").path()).expect("remove");
        }
    }
    let whole = part(&app, &url).await;
    assert_eq!(app.api.get(text(&whole, "url")).await.bytes, PHOTO);
}

#[tokio::test]
async fn invalid_validator_is_not_sent_back() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    each_case_async(
        [
            "etag: *",
            "etag: v1",
            "last-modified: yesterday",
            "last-modified: Thu, 15 Jan 2099 10:00:00 GMT",
        ],
        async |validator| {
            let headers = format!("{validator}\ncontent-length: {}", PHOTO.len());
            origin.script("/b.jpg", http_response("200 OK", &headers, PHOTO));
            part(&app, &origin.url("/b.jpg")).await;
            part(&app, &origin.url("/b.jpg")).await;
            assert!(
                !origin
                    .requests()
                    .last()
                    .expect("request")
                    .contains("\r\nif-"),
                "{validator}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn validators_are_separate_per_partner_and_url() {
    let origin = origin_with("etag: \"v1\"", "if-none-match: \"v1\"");
    let app = TestApp::with_origin(&origin, |_| {}).await;
    part(&app, &origin.url("/a.jpg")).await;
    let body = json!({"from": RIVAL_LINE, "to": [RECIPIENT], "message": {"parts": [media(&origin.url("/a.jpg"))]}});
    app.rival.post("/v3/chats", &body).await.expect(201);
    origin.file("/a.jpg?x", "image/jpeg", PHOTO);
    part(&app, &origin.url("/a.jpg?x")).await;
    assert!(
        !origin
            .requests()
            .iter()
            .any(|request| request.contains("if-none-match"))
    );
}

#[tokio::test]
async fn validators_apply_to_final_url_of_a_redirect() {
    let origin = origin_with("etag: \"v1\"", "if-none-match: \"v1\"");
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.script(
        "/r.jpg",
        http_response("302 Found", "location: /a.jpg\ncontent-length: 0", b""),
    );
    let (first, second) = (
        part(&app, &origin.url("/r.jpg")).await,
        part(&app, &origin.url("/r.jpg")).await,
    );
    let requests = origin.requests();
    let conditional: Vec<&String> = requests
        .iter()
        .filter(|request| request.contains("if-none-match"))
        .collect();
    assert!(
        conditional.len() == 1 && conditional[0].starts_with("GET /a.jpg "),
        "{conditional:?}"
    );
    assert_eq!(
        (&first["filename"], &second["filename"]),
        (&json!("r.jpg"), &json!("r.jpg"))
    );
    origin.file("/c.jpg", "image/jpeg", PHOTO);
    origin.script(
        "/r.jpg",
        http_response("302 Found", "location: /c.jpg\ncontent-length: 0", b""),
    );
    part(&app, &origin.url("/r.jpg")).await;
    assert!(
        !origin
            .requests()
            .last()
            .expect("request")
            .contains("if-none-match")
    );
}

#[tokio::test]
async fn validators_expire_after_the_configured_time() {
    let origin = origin_with("etag: \"v1\"", "if-none-match: \"v1\"");
    let app = TestApp::with_origin(&origin, |settings| {
        settings.retention.fetch_revalidate = Duration::from_hours(1);
    })
    .await;
    part(&app, &origin.url("/a.jpg")).await;
    app.clock.advance(Duration::from_secs(3601));
    app.background.sweep().await.expect("sweep");
    part(&app, &origin.url("/a.jpg")).await;
    assert!(!origin.requests()[1].contains("if-none-match"));
    assert_eq!(app.stored_files().await.len(), 2);
}
