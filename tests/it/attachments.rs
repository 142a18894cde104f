//! `/v3/attachments`, and what comes before it: keys, routes, bodies.

use std::time::Duration;

use serde_json::{Value, json};

use haversack_testkit::{TestApp, corpus, on_disk};

const UNKNOWN: &str = "01990000-0000-7000-8000-000000000001";

#[tokio::test]
async fn a_key_is_asked_for_before_anything_else() {
    let app = TestApp::start().await;
    for path in [
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
    ] {
        assert_eq!(
            app.anonymous().get(path).await.error(),
            (401, 2004),
            "{path}"
        );
        let unknown = app.anonymous().with_key("no-such-key-0123456789");
        assert_eq!(unknown.get(path).await.error(), (401, 2004), "{path}");
    }
    for path in [
        "/",
        "/nowhere",
        "/v3nowhere",
        "/v4/chats",
        "/api",
        "/api/partners",
    ] {
        assert_eq!(
            app.anonymous().get(path).await.error(),
            (404, 2001),
            "{path}"
        );
    }
    for header in [
        "acme-key-0123456789",
        "Basic acme-key-0123456789",
        "Bearer",
        "Bearer  ",
    ] {
        let answer = app
            .anonymous()
            .get_with("/v3/phone_numbers", &[("authorization", header)])
            .await;
        assert_eq!(answer.error(), (401, 2004), "{header}");
    }
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
async fn unknown_routes_and_methods_are_told_apart() {
    let app = TestApp::start().await;
    for path in ["/v3/nowhere", "/api/partner/v3/nowhere", "/nowhere", "/v3"] {
        assert_eq!(app.api.get(path).await.error(), (404, 2001), "{path}");
    }
    for path in ["/v3/attachments", "/api/partner/v3/attachments"] {
        let answer = app.api.get(path).await;
        assert_eq!(answer.error(), (405, 1005), "{path}");
        assert_eq!(answer.header("allow"), "POST");
    }
    for (method, path) in [
        ("POST", "/v3/messages/x/reactions"),
        ("GET", "/v3/webhook-subscriptions"),
        ("PUT", "/v3/chats/x"),
        ("PATCH", "/api/partner/v3/messages/x"),
        ("DELETE", "/v3/blocked_handles"),
    ] {
        assert_eq!(
            app.api.request(method, path, &[], None).await.error(),
            (403, 2011),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn every_answer_has_a_fresh_trace_id() {
    let app = TestApp::start().await;
    let own = [
        (
            "traceparent",
            "00-11111111111111111111111111111111-1111111111111111-01",
        ),
        ("x-trace-id", "mine"),
    ];
    let mut seen = std::collections::HashSet::new();
    for path in [
        "/v3/phone_numbers",
        "/v3/phone_numbers",
        "/v3/nowhere",
        "/healthz",
        "/nowhere",
    ] {
        let answer = app.api.get_with(path, &own).await;
        let id = answer.header("x-trace-id").to_owned();
        assert!(
            id.len() == 32 && id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')),
            "{id}"
        );
        assert!(
            !id.contains("1111111111111111"),
            "the client's own id is ignored"
        );
        assert!(seen.insert(id), "{path}");
    }
}

#[tokio::test]
async fn what_is_announced_wrongly_is_refused_with_its_code() {
    let app = TestApp::start().await;
    let good = json!({"filename": "a.jpg", "content_type": "image/jpeg", "size_bytes": 5});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body.to_string()
    };
    for (body, expected) in [
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
    ] {
        let answer = app.api.post_raw("/v3/attachments", &body).await;
        assert_eq!(answer.error(), expected, "{body} {}", answer.message());
    }
    let no_type = app
        .api
        .request(
            "POST",
            "/v3/attachments",
            &[],
            Some(good.to_string().into()),
        )
        .await;
    assert_eq!(
        no_type.status, 200,
        "a body that parses needs no Content-Type"
    );
    let unknown_field = with("colour", json!("red"));
    assert_eq!(
        app.api
            .post_raw("/v3/attachments", &unknown_field)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let app = TestApp::with(|flags| flags.max_json_bytes = Some(1024)).await;
    let body = json!({"filename": "x".repeat(1024)});
    let answer = app.api.post("/v3/attachments", &body).await;
    assert_eq!(answer.error(), (400, 1003));
    assert!(
        answer.message().contains("1024 bytes"),
        "{}",
        answer.message()
    );
}

#[tokio::test]
async fn an_announced_attachment_says_all_that_the_upload_needs() {
    let app = TestApp::start().await;
    let created = app.api.create("Füße/../x.jpg", "image/jpg", 238).await;
    let id = created["attachment_id"].as_str().expect("id");
    assert_eq!(created["http_method"], "PUT");
    assert_eq!(created["expires_at"], "2026-01-15T10:45:00.000Z");
    assert_eq!(
        created["required_headers"],
        json!({"Content-Type": "image/jpg", "Content-Length": "238"})
    );
    let download = created["download_url"].as_str().expect("URL");
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
async fn another_partners_attachment_is_as_unknown_as_any() {
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
    for method in ["GET", "DELETE"] {
        let answer = app
            .api
            .request(method, "/v3/attachments/not-a-uuid", &[], None)
            .await;
        assert_eq!(answer.error(), (400, 1005));
    }
}

#[tokio::test]
async fn deleting_takes_bytes_metadata_and_uploads_with_it() {
    let app = TestApp::on_disk().await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await
        .expect(201);
    let message = sent["chat"]["message"]["id"]
        .as_str()
        .expect("id")
        .to_owned();
    assert_eq!(
        app.api.get(&file.url).await.status,
        200,
        "and now it is in the cache of open files"
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

    let pending = app.api.create("b.txt", "text/plain", 5).await;
    let path = format!(
        "/v3/attachments/{}",
        pending["attachment_id"].as_str().expect("id")
    );
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
    assert_eq!(left.count(), 0, "no file is left");
}

#[tokio::test]
async fn an_attachment_whose_window_closed_has_failed() {
    let app = TestApp::start().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let id = created["attachment_id"].as_str().expect("id");
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
async fn attachments_that_wait_are_capped_for_each_partner() {
    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.max_pending_attachments = Some(3);
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
        "another partner has its own"
    );

    app.api.put(&created[0], b"hello").await.expect(200);
    assert_eq!(
        app.api.post("/v3/attachments", &body).await.status,
        200,
        "an upload frees a place"
    );
    assert_eq!(
        app.api.post("/v3/attachments", &body).await.error(),
        (429, 1007)
    );
    app.clock.advance(Duration::from_mins(15));
    assert_eq!(
        app.api.post("/v3/attachments", &body).await.status,
        200,
        "so does a window that closes"
    );
}

#[tokio::test]
async fn two_hundred_at_once_never_pass_the_cap() {
    let app = TestApp::with(|flags| flags.max_pending_attachments = Some(50)).await;
    let body = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": 5});
    let path = "/v3/attachments";
    let answers = futures_util::future::join_all((0..200).map(|_| app.api.post(path, &body))).await;
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 200).count(),
        50
    );
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 429).count(),
        150
    );
}
