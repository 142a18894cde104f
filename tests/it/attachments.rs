//! `/v3/attachments`, and the checks in front of it: API keys, routes and request bodies.

use std::time::Duration;

use serde_json::{Value, json};

use haversack_testkit::{TestApp, corpus, each_case_async, on_disk, text};

/// A well-formed id that no attachment has.
const UNKNOWN: &str = "01990000-0000-7000-8000-000000000001";

#[tokio::test]
async fn missing_or_unknown_key_returns_401_for_every_path() {
    let app = TestApp::start().await;
    each_case_async(
        [
            "/v3/attachments",
            "/api/partner/v3/attachments",
            "/v3/nowhere",
            "/v3/nowhere/deeper",
            "/v3",
            "/v3/",
            "/api/partner/nowhere",
            "/api/partner/v3/nowhere",
            "/api/partner",
            "/api/partner/",
        ],
        async |path| {
            assert_eq!(
                app.anonymous().get(path).await.error(),
                (401, 2004),
                "{path}"
            );
            let unknown = app.anonymous().with_key("no-such-key-0123456789");
            assert_eq!(unknown.get(path).await.error(), (401, 2004), "{path}");
        },
    )
    .await;
    each_case_async(
        [
            "acme-key-0123456789",
            "Basic acme-key-0123456789",
            "Bearer",
            "Bearer  ",
        ],
        async |header| {
            let response = app
                .anonymous()
                .get_with("/v3/phone_numbers", &[("authorization", header)])
                .await;
            assert_eq!(response.error(), (401, 2004), "{header}");
        },
    )
    .await;
}

#[tokio::test]
async fn path_outside_of_the_api_returns_404_without_key() {
    let app = TestApp::start().await;
    each_case_async(
        [
            "/",
            "/nowhere",
            "/v3nowhere",
            "/v4/chats",
            "/api",
            "/api/partners",
        ],
        async |path| {
            assert_eq!(app.anonymous().get(path).await.error(), (404, 2001));
        },
    )
    .await;
}

#[tokio::test]
async fn authorization_scheme_is_case_insensitive() {
    let app = TestApp::start().await;
    let lower = [("authorization", "bearer acme-key-0123456789")];
    assert_eq!(
        app.anonymous()
            .get_with("/v3/phone_numbers", &lower)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn unknown_route_returns_404_and_unknown_method_405() {
    let app = TestApp::start().await;
    each_case_async(
        ["/v3/nowhere", "/api/partner/v3/nowhere", "/nowhere", "/v3"],
        async |path| {
            assert_eq!(app.api.get(path).await.error(), (404, 2001), "{path}");
        },
    )
    .await;
    for path in ["/v3/attachments", "/api/partner/v3/attachments"] {
        let response = app.api.get(path).await;
        assert_eq!(response.error(), (405, 1005), "{path}");
        assert_eq!(response.header("allow"), "POST");
    }
}

#[tokio::test]
async fn unsupported_endpoint_returns_403() {
    let app = TestApp::start().await;
    each_case_async(
        [
            ("POST", "/v3/messages/x/reactions"),
            ("GET", "/v3/webhook-subscriptions"),
            ("PUT", "/v3/chats/x"),
            ("PATCH", "/api/partner/v3/messages/x"),
            ("DELETE", "/v3/blocked_handles"),
        ],
        async |(method, path)| {
            assert_eq!(
                app.api.request(method, path, &[], None).await.error(),
                (403, 2011),
                "{method} {path}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn every_response_has_a_fresh_trace_id() {
    let app = TestApp::start().await;
    let own = [
        (
            "traceparent",
            "00-11111111111111111111111111111111-1111111111111111-01",
        ),
        ("x-trace-id", "mine"),
    ];
    let mut seen = std::collections::HashSet::new();
    each_case_async(
        [
            "/v3/phone_numbers",
            "/v3/phone_numbers",
            "/v3/nowhere",
            "/healthz",
            "/nowhere",
        ],
        async |path| {
            let response = app.api.get_with(path, &own).await;
            let id = response.header("x-trace-id").to_owned();
            assert!(
                id.len() == 32 && id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')),
                "{id}"
            );
            assert!(
                !id.contains("1111111111111111"),
                "the client's own id is ignored"
            );
            assert!(seen.insert(id), "{path}");
        },
    )
    .await;
}

#[tokio::test]
async fn invalid_create_request_returns_documented_code() {
    let app = TestApp::start().await;
    let good = json!({"filename": "a.jpg", "content_type": "image/jpeg", "size_bytes": 5});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body.to_string()
    };
    each_case_async(
        [
            (String::new(), (400, 1003)),
            ("{".to_owned(), (400, 1003)),
            ("[]".to_owned(), (400, 1003)),
            ("null".to_owned(), (400, 1003)),
            ("{} x".to_owned(), (400, 1003)),
            ("{\"filename\": \"\\ud800\"}".to_owned(), (400, 1003)),
            (with("filename", json!(5)), (400, 1003)),
            (with("size_bytes", json!("5")), (400, 1003)),
            (with("size_bytes", json!(1.5)), (400, 1003)),
            ("{}".to_owned(), (400, 1001)),
            (with("filename", json!(null)), (400, 1001)),
            (with("filename", json!("")), (400, 1001)),
            (with("content_type", json!("")), (400, 1001)),
            (with("size_bytes", json!(null)), (400, 1001)),
            (with("filename", json!("x".repeat(256))), (400, 1005)),
            (with("size_bytes", json!(0)), (400, 1005)),
            (with("size_bytes", json!(-1)), (400, 1005)),
            (with("size_bytes", json!(104_857_601)), (400, 5005)),
            (
                good.to_string()
                    .replace(":5}", ":99999999999999999999999999}"),
                (400, 5005),
            ),
            (
                with("content_type", json!("application/octet-stream")),
                (400, 5004),
            ),
            (with("content_type", json!("image/jpeg; x=1")), (400, 5004)),
            (with("filename", json!("setup.EXE")), (400, 5004)),
        ],
        async |(body, expected)| {
            let response = app.api.post_raw("/v3/attachments", &body).await;
            assert_eq!(response.error(), expected, "{body} {}", response.message());
        },
    )
    .await;
}

#[tokio::test]
async fn create_request_ignores_missing_content_type_and_unknown_fields() {
    let app = TestApp::start().await;
    let mut body = json!({"filename": "a.jpg", "content_type": "image/jpeg", "size_bytes": 5});
    let no_type = app
        .api
        .request(
            "POST",
            "/v3/attachments",
            &[],
            Some(body.to_string().into()),
        )
        .await;
    assert_eq!(
        no_type.status, 200,
        "a body that parses needs no Content-Type"
    );
    body["colour"] = json!("red");
    assert_eq!(app.api.post("/v3/attachments", &body).await.status, 200);
}

#[tokio::test]
async fn json_body_above_limit_returns_400() {
    let app = TestApp::with(|settings| settings.json.max_bytes = 1024).await;
    let body = json!({"filename": "x".repeat(1024)});
    let response = app.api.post("/v3/attachments", &body).await;
    assert_eq!(response.error(), (400, 1003));
    assert!(
        response.message().contains("1024 bytes"),
        "{}",
        response.message()
    );
}

#[tokio::test]
async fn created_attachment_has_upload_url_headers_and_download_url() {
    let app = TestApp::start().await;
    let created = app.api.create("Füße/../x.jpg", "image/jpg", 238).await;
    let id = text(&created, "attachment_id");
    assert_eq!(created["http_method"], "PUT");
    assert_eq!(created["expires_at"], "2026-01-15T10:45:00.000Z");
    assert_eq!(
        created["required_headers"],
        json!({"Content-Type": "image/jpg", "Content-Length": "238"})
    );
    let download = text(&created, "download_url");
    assert!(
        download.starts_with(&app.url("/attachments/partners/")),
        "{download}"
    );
    assert!(
        download.ends_with(&format!("/{id}/F%C3%BC%C3%9Fe_.._x.jpg")),
        "{download}"
    );

    let attachment = app
        .api
        .get(&format!("/v3/attachments/{id}"))
        .await
        .expect(200);
    assert_eq!(
        attachment,
        json!({"id": id, "filename": "Füße/../x.jpg", "content_type": "image/jpeg", "size_bytes": 238,
               "status": "pending", "created_at": "2026-01-15T10:30:00.000Z"})
    );
    app.api.put(&created, &corpus("tiny.jpg")).await.expect(200);
    let attachment = app
        .api
        .get(&format!("/api/partner/v3/attachments/{id}"))
        .await
        .expect(200);
    assert_eq!(attachment["status"], "complete");
    assert_eq!(attachment["download_url"], created["download_url"]);
    assert_eq!(app.api.get(download).await.bytes, corpus("tiny.jpg"));
}

#[tokio::test]
async fn attachment_of_another_partner_returns_404() {
    let app = TestApp::start().await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let foreign = app.rival.get(&format!("/v3/attachments/{}", file.id)).await;
    let unknown = app.rival.get(&format!("/v3/attachments/{UNKNOWN}")).await;
    assert_eq!(foreign.error(), (404, 2003));
    assert_eq!(foreign.json["error"], unknown.json["error"]);
    assert_eq!(
        app.rival
            .delete(&format!("/v3/attachments/{}", file.id))
            .await
            .error(),
        (404, 2003)
    );
    assert_eq!(app.api.get(&file.url).await.bytes, b"hello");
}

#[tokio::test]
async fn malformed_attachment_id_returns_400() {
    let app = TestApp::start().await;
    for method in ["GET", "DELETE"] {
        let response = app
            .api
            .request(method, "/v3/attachments/not-a-uuid", &[], None)
            .await;
        assert_eq!(response.error(), (400, 1005));
    }
}

#[tokio::test]
async fn deleted_attachment_is_gone_from_files_messages_and_sends() {
    let app = TestApp::on_disk().await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await
        .expect(201);
    let message = text(&sent["chat"]["message"], "id").to_owned();
    assert_eq!(
        app.api.get(&file.url).await.status,
        200,
        "puts the file into the cache of open files"
    );

    let path = format!("/v3/attachments/{}", file.id);
    let deleted = app.api.delete(&path).await;
    assert_eq!((deleted.status.as_u16(), deleted.bytes.len()), (204, 0));
    assert_eq!(app.api.get(&file.url).await.status, 404);
    assert_eq!(app.api.get(&path).await.error(), (404, 2003));
    assert_eq!(app.api.delete(&path).await.error(), (404, 2003));
    let part = &app
        .api
        .get(&format!("/v3/messages/{message}"))
        .await
        .expect(200)["parts"][0];
    assert_eq!(
        part,
        &json!({"type": "media", "id": "", "url": "", "filename": "", "mime_type": "", "size_bytes": 0,
                "reactions": null})
    );
    let again = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await;
    assert_eq!(again.error(), (404, 2003));
}

#[tokio::test]
async fn upload_to_deleted_attachment_returns_404_and_stores_nothing() {
    let app = TestApp::on_disk().await;
    let pending = app.api.create("b.txt", "text/plain", 5).await;
    let path = format!("/v3/attachments/{}", text(&pending, "attachment_id"));
    assert_eq!(app.api.delete(&path).await.status, 204);
    let put = app.api.put(&pending, b"hello").await;
    assert_eq!(put.status, 404);
    assert!(
        put.text().contains("<Code>NoSuchKey</Code>"),
        "{}",
        put.text()
    );
    let blobs = app.folder.path().join("blobs");
    let left = std::fs::read_dir(blobs)
        .expect("blobs")
        .flat_map(|d| std::fs::read_dir(d.expect("d").path()).expect("d"));
    assert_eq!(left.count(), 0, "no file remains");
}

#[tokio::test]
async fn attachment_with_closed_upload_window_is_failed() {
    let app = TestApp::start().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let id = text(&created, "attachment_id");
    app.clock.advance(Duration::from_mins(15));
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{id}"))
        .await
        .expect(200);
    assert_eq!(attachment["status"], "failed");
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": id}]))
        .await;
    assert_eq!(sent.error(), (404, 2003));
}

#[tokio::test]
async fn pending_attachments_above_quota_return_429_per_partner() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.attachments.max_pending_attachments = 3;
    })
    .await;
    let body = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": 5});
    let mut created = Vec::new();
    for _ in 0..3 {
        created.push(app.api.post("/v3/attachments", &body).await.expect(200));
    }
    let refused = app.api.post("/v3/attachments", &body).await;
    assert_eq!(refused.error(), (429, 1007));
    let wait = refused.json["error"]["retry_after"]
        .as_u64()
        .expect("seconds");
    assert_eq!(refused.header("retry-after"), wait.to_string());
    assert_eq!(
        app.rival.post("/v3/attachments", &body).await.status,
        200,
        "the quota of another partner is its own"
    );

    app.api.put(&created[0], b"hello").await.expect(200);
    assert_eq!(
        app.api.post("/v3/attachments", &body).await.status,
        200,
        "a completed upload frees a slot"
    );
    assert_eq!(
        app.api.post("/v3/attachments", &body).await.error(),
        (429, 1007)
    );
    app.clock.advance(Duration::from_mins(15));
    assert_eq!(
        app.api.post("/v3/attachments", &body).await.status,
        200,
        "a closed window frees a slot"
    );
}

#[tokio::test]
async fn concurrent_creates_never_exceed_pending_quota() {
    let app = TestApp::with(|settings| settings.attachments.max_pending_attachments = 50).await;
    let body = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": 5});
    let path = "/v3/attachments";
    let responses =
        futures_util::future::join_all((0..200).map(|_| app.api.post(path, &body))).await;
    assert_eq!(
        responses
            .iter()
            .filter(|response| response.status == 200)
            .count(),
        50
    );
    assert_eq!(
        responses
            .iter()
            .filter(|response| response.status == 429)
            .count(),
        150
    );
}
