//! Operations: health, readiness, metrics, the `OpenAPI` document, and the sweeper.

use std::time::Duration;

use haversack_testkit::{TestApp, each_case_async, on_disk, text};

#[tokio::test]
async fn health_readiness_and_metrics_need_no_api_key() {
    let app = TestApp::on_disk().await;
    assert_eq!(app.anonymous().get("/healthz").await.text(), "alive\n");
    assert!(
        app.anonymous()
            .get("/readyz")
            .await
            .text()
            .starts_with("ready\nffmpeg: ")
    );
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    app.anonymous().get(&file.url).await;
    app.api.get("/v3/nowhere").await;
    let metrics = app.anonymous().get("/metrics").await;
    each_case_async([
        "haversack_uploads_total{outcome=\"stored\"} 1",
        "haversack_uploaded_bytes_total 5",
        "haversack_downloaded_bytes_total 5",
        "haversack_http_requests_total{route=\"/v3/attachments\",method=\"POST\",status=\"200\"} 1",
        "haversack_http_requests_total{route=\"unmatched\",method=\"GET\",status=\"404\"} 1",
        "haversack_http_request_duration_seconds_count 6",
    ], async |line| {
        assert!(
            metrics.text().lines().any(|found| found == line),
            "{line} in {}",
            metrics.text()
        );
    })
    .await;
    assert!(!metrics.text().contains(&file.id), "labels contain no ids");
}

#[tokio::test]
async fn unwritable_store_is_not_ready_and_recovers() {
    let app = TestApp::on_disk().await;
    std::fs::remove_dir_all(app.folder.path().join("unfinished-uploads")).expect("remove");
    assert_eq!(app.anonymous().get("/readyz").await.status, 503);
    assert_eq!(app.anonymous().get("/healthz").await.status, 200);
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let put = app.api.put(&created, b"hello").await;
    assert_eq!(put.status, 500);
    assert!(put.text().contains("<Code>InternalError</Code>"));
    assert!(
        !put.text().contains("unfinished"),
        "no path in the message: {}",
        put.text()
    );
    std::fs::create_dir(app.folder.path().join("unfinished-uploads")).expect("create");
    assert_eq!(
        app.api.put(&created, b"hello").await.status,
        200,
        "the upload URL works again"
    );
}

#[tokio::test]
async fn download_of_missing_or_truncated_blob_returns_500() {
    let app = TestApp::on_disk().await;
    let path = |id: &str| {
        app.folder
            .path()
            .join("blobs")
            .join(&id[id.len() - 2..])
            .join(id)
    };
    let lost = app.api.upload("a.txt", "text/plain", b"hello").await;
    std::fs::remove_file(path(&lost.id)).expect("remove");
    let cut = app.api.upload("a.txt", "text/plain", b"hello").await;
    std::fs::write(path(&cut.id), b"hel").expect("cut");
    for file in [lost, cut] {
        let response = app.anonymous().get(&file.url).await;
        assert_eq!(
            (response.status.as_u16(), response.header("cache-control")),
            (500, "no-store")
        );
    }
}

#[tokio::test]
async fn unknown_methods_share_one_metric_label() {
    let app = TestApp::start().await;
    for method in ["BREW", "PROPFIND"] {
        app.anonymous().request(method, "/healthz", &[], None).await;
    }
    let metrics = app.anonymous().get("/metrics").await;
    assert!(
        metrics
            .text()
            .contains("method=\"other\",status=\"405\"} 2"),
        "{}",
        metrics.text()
    );
    assert!(!metrics.text().contains("BREW"));
}

#[tokio::test]
async fn served_openapi_document_equals_committed_one() {
    let app = TestApp::start().await;
    let served = app.anonymous().get("/openapi.json").await;
    let committed = include_str!("../../docs/reference/openapi.json");
    let fresh = haversack::http::api::openapi();
    assert_eq!(served.text(), fresh);
    assert!(
        committed.trim_end() == fresh,
        "docs/reference/openapi.json is out of date: run `cargo run -- openapi > docs/reference/openapi.json`"
    );
    for path in [
        "/v3/attachments",
        "/v3/chats/{chat_id}/messages",
        "/v3/messages/{message_id}/thread",
    ] {
        assert!(served.json["paths"][path].is_object(), "{path}");
    }
}

#[tokio::test]
async fn attachment_without_upload_fails_and_is_deleted_after_retention() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.retention.failed_attachments = Duration::from_hours(1);
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let path = format!("/v3/attachments/{}", text(&created, "attachment_id"));
    let background = app.background.clone();
    // A blob without its row: the state after a crash between rename and commit.
    let id = text(&created, "attachment_id");
    let orphan = app.folder.path().join("blobs").join(&id[id.len() - 2..]);
    std::fs::create_dir_all(&orphan).expect("folder");
    std::fs::write(orphan.join(id), b"hello").expect("orphan");

    app.clock.advance(Duration::from_mins(16));
    background.sweep().await.expect("sweep");
    assert!(
        orphan.join(id).exists(),
        "an upload that began in time may be running"
    );
    app.clock.advance(Duration::from_hours(1));
    background.sweep().await.expect("sweep");
    assert!(!orphan.join(id).exists());
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "failed");
    app.clock.advance(Duration::from_secs(3601));
    background.sweep().await.expect("sweep");
    assert_eq!(app.api.get(&path).await.error(), (404, 2003));
    let kept = app.api.upload("a.txt", "text/plain", b"hello").await;
    app.clock.advance(Duration::from_secs(1_000_000));
    background.sweep().await.expect("sweep");
    assert_eq!(
        app.anonymous().get(&kept.url).await.bytes,
        b"hello",
        "uploaded files stay"
    );
}
