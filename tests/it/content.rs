//! Detection of media types by content: uploads of every sample file, and rejected uploads.

use serde_json::{Value, json};

use haversack_testkit::{TestApp, corpus, each_case_async, text};

/// Creates an attachment and uploads bytes that may be rejected later.
async fn put(app: &TestApp, filename: &str, content_type: &str, bytes: &[u8]) -> Value {
    let created = app.api.create(filename, content_type, bytes.len()).await;
    let put = app.api.put(&created, bytes).await;
    assert_eq!(
        put.status, 200,
        "{filename}: a bucket accepts it too: {put:?}"
    );
    assert!(put.header("etag").len() == 34, "{put:?}");
    created
}

async fn attachment(app: &TestApp, created: &Value) -> Value {
    let id = text(created, "attachment_id");
    app.api
        .get(&format!("/v3/attachments/{id}"))
        .await
        .expect(200)
}

#[tokio::test]
async fn sample_files_are_detected_by_their_bytes() {
    let app = TestApp::with(|settings| settings.send.rate_limit_messages = 10_000).await;
    let manifest = String::from_utf8(corpus("manifest.tsv")).expect("UTF-8");
    let (mut rejected, mut detections) = (0, 0);
    let lines = manifest.lines().filter(|line| !line.starts_with('#'));
    each_case_async(lines, async |line| {
        let [file, expected, _, note] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let accepted: Vec<&str> = std::iter::once(expected)
            .chain(
                note.split("; ")
                    .filter_map(|note| note.strip_prefix("alt=")),
            )
            .collect();
        let bytes = corpus(file);
        if bytes.is_empty() {
            return;
        }
        let extension = file
            .rsplit_once('.')
            .and_then(|(_, extension)| haversack::media::by_extension(extension));
        let declared = match (expected, extension) {
            ("reject", Some(media_type)) => media_type.name,
            ("reject", None) => "text/plain",
            (expected, _) => expected,
        };
        let body = json!({"filename": file, "content_type": declared, "size_bytes": bytes.len()});
        let created = app.api.post("/v3/attachments", &body).await;
        let detected = if created.status == 400 {
            assert_eq!(created.error(), (400, 5004), "{file}");
            "reject".to_owned()
        } else {
            let created = created.expect(200);
            assert_eq!(app.api.put(&created, &bytes).await.status, 200, "{file}");
            let uploaded = attachment(&app, &created).await;
            if uploaded["status"] == "complete" {
                let url = text(&uploaded, "download_url");
                app.api.get(url).await.header("content-type").to_owned()
            } else {
                let part = json!({"type": "media", "attachment_id": created["attachment_id"]});
                assert_eq!(
                    app.api.send_parts(json!([part])).await.error(),
                    (400, 5004),
                    "{file}"
                );
                "reject".to_owned()
            }
        };
        assert!(
            accepted.contains(&detected.as_str()),
            "{file}: {detected}, not {accepted:?}"
        );
        if detected == "reject" {
            rejected += 1;
        } else {
            detections += 1;
        }
    })
    .await;
    assert!(rejected > 80 && detections > 200, "{rejected} {detections}");
}

#[tokio::test]
async fn rejected_upload_is_discarded_and_reports_its_reason() {
    let app = TestApp::on_disk().await;
    let created = put(&app, "report.pdf", "application/pdf", &corpus("setup.exe")).await;
    let attachment = attachment(&app, &created).await;
    assert_eq!(attachment["status"], "failed");
    assert_eq!(attachment["content_type"], "application/pdf");
    assert_eq!(attachment.get("download_url"), None);
    let reason = attachment["failure_reason"]
        .as_str()
        .expect("a reason")
        .to_owned();
    assert!(reason.contains("Windows program"), "{reason}");
    let part = json!({"type": "media", "attachment_id": created["attachment_id"]});
    let refused = app.api.send_parts(json!([part])).await;
    assert_eq!(refused.error(), (400, 5004));
    assert!(refused.message().contains(&reason), "{}", refused.message());
    let sticker = json!({"type": "text", "value": "x",
        "inline_stickers": [{"range": [0, 1], "attachment_id": created["attachment_id"]}]});
    assert_eq!(
        app.api.send_parts(json!([sticker])).await.error(),
        (400, 5004)
    );
    let url = text(&created, "download_url");
    assert_eq!(app.api.get(url).await.status, 404);
    let by_url = app
        .api
        .send_parts(json!([{"type": "media", "url": url}]))
        .await;
    assert_eq!(by_url.error(), (400, 5004));
    assert!(app.stored_files().await.is_empty());

    // The first complete body counts, even if it is rejected.
    assert_eq!(
        app.api.put(&created, &corpus("setup.exe")).await.status,
        200
    );
    let size = corpus("setup.exe").len();
    let other = app.api.put(&created, &vec![b'x'; size]).await;
    assert_eq!(other.status, 409);
    assert!(
        other.text().contains("<Code>OperationAborted</Code>"),
        "{}",
        other.text()
    );
    let id = text(&created, "attachment_id");
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{id}"))
            .await
            .status,
        204
    );
}

#[tokio::test]
async fn rejected_attachment_is_deleted_after_24_hours() {
    let app = TestApp::on_disk().await;
    let created = put(&app, "a.pdf", "application/pdf", b"no PDF").await;
    let path = format!("/v3/attachments/{}", text(&created, "attachment_id"));
    app.clock.advance(std::time::Duration::from_hours(24));
    app.background.sweep().await.expect("sweep");
    assert_eq!(app.api.get(&path).await.status, 200);
    app.clock.advance(std::time::Duration::from_millis(1));
    app.background.sweep().await.expect("sweep");
    assert_eq!(app.api.get(&path).await.error(), (404, 2003));
}

#[tokio::test]
async fn detected_type_replaces_declared_type_of_same_family() {
    let app = TestApp::start().await;
    each_case_async(
        [
            ("a.png", "image/png", "photo.jpg", "image/jpeg"),
            ("a.mp4", "video/mp4", "clip.mov", "video/quicktime"),
            ("a.m4a", "audio/mp4", "tagged.mp3", "audio/mpeg"),
            ("a.mp4", "video/mp4", "recording-isom.m4a", "audio/x-m4a"),
            (
                "a.zip",
                "application/zip",
                "book.epub",
                "application/epub+zip",
            ),
            ("noname", "image/gif", "photo.jpg", "image/jpeg"),
        ],
        async |(filename, declared, file, delivered)| {
            let created = put(&app, filename, declared, &corpus(file)).await;
            let attachment = attachment(&app, &created).await;
            assert_eq!(
                (&attachment["status"], &attachment["content_type"]),
                (&json!("complete"), &json!(declared)),
                "{file}"
            );
            let part = json!({"type": "media", "attachment_id": created["attachment_id"]});
            let sent = app.api.send_parts(json!([part])).await.expect(201);
            assert_eq!(
                sent["chat"]["message"]["parts"][0]["mime_type"], delivered,
                "{file}"
            );
            let url = text(&created, "download_url");
            assert_eq!(
                app.api.get(url).await.header("content-type"),
                delivered,
                "{file}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn dimensions_and_duration_are_reported_by_type() {
    let app = TestApp::start().await;
    each_case_async(
        [
            ("photo.jpg", "image/jpeg", true, None),
            ("screenshot.png", "image/png", true, None),
            ("voice.m4a", "audio/x-m4a", false, Some(2_500)),
            ("voice.amr", "audio/amr", false, Some(2_500)),
            ("song-vbr-noxing.mp3", "audio/mpeg", false, Some(2_500)),
            ("clip.mp4", "video/mp4", false, Some(1_500)),
            ("notes.txt", "text/plain", false, None),
        ],
        async |(file, declared, dimensions, duration)| {
            let created = put(&app, file, declared, &corpus(file)).await;
            let attachment = attachment(&app, &created).await;
            assert_eq!(
                attachment["width"].is_u64() && attachment["height"].is_u64(),
                dimensions,
                "{attachment}"
            );
            match duration {
                None => assert_eq!(attachment.get("duration_ms"), None, "{attachment}"),
                Some(expected) => {
                    let found = attachment["duration_ms"]
                        .as_i64()
                        .unwrap_or_else(|| panic!("{attachment}"));
                    assert!((found - expected).abs() <= 100, "{file}: {found}");
                }
            }
        },
    )
    .await;
}

#[test]
fn documentation_lists_every_type() {
    let documented = include_str!("../../docs/reference/media-types.md");
    for media_type in haversack::media::TYPES {
        assert!(
            documented.contains(&media_type.row()),
            "docs/reference/media-types.md must have: {}",
            media_type.row()
        );
    }
}
