//! Files that are delivered in another form than they were uploaded in: TIFF as JPEG, CAF as M4A where ffmpeg is there.

use serde_json::{Value, json};

use crate::support::{Origin, TestApp, corpus, files};

/// Whether the program that CAF needs is on this machine; the tests hold with it and without.
async fn has_ffmpeg(app: &TestApp) -> bool {
    let ready = app.api.get("/readyz").await;
    assert!(ready.text().starts_with("ready\nffmpeg: "), "{}", ready.text());
    !ready.text().contains("ffmpeg: none")
}

async fn part(app: &TestApp, part: Value) -> Value {
    app.api.send_parts(json!([part])).await.expect(201)["chat"]["message"]["parts"][0].clone()
}

fn text<'a>(part: &'a Value, field: &str) -> &'a str {
    part[field].as_str().expect("text")
}

#[tokio::test]
async fn tiff_is_delivered_as_jpeg() {
    let app = TestApp::start().await;
    for file in ["scan-be.tif", "scan-le.tiff", "bigtiff.tif", "multipage.tif", "tiny-be.tif", "tiny-scan.tif"] {
        let bytes = corpus(file);
        let uploaded = app.api.upload(file, "image/tiff", &bytes).await;
        let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
        let name = format!("{}.jpg", file.split('.').next().expect("a stem"));
        assert_eq!((text(&sent, "filename"), text(&sent, "mime_type")), (name.as_str(), "image/jpeg"), "{file}");
        let delivered = app.api.get(text(&sent, "url")).await;
        assert_eq!((delivered.status.as_u16(), delivered.header("content-type")), (200, "image/jpeg"), "{file}");
        assert_eq!(sent["size_bytes"], delivered.bytes.len(), "{file}");
        assert!(delivered.bytes.starts_with(b"\xff\xd8\xff") && delivered.bytes.ends_with(b"\xff\xd9"), "{file}");
        let measures = haversack::media::measure(std::io::Cursor::new(delivered.bytes), jpeg());
        assert!(measures.width.is_some(), "{file}");

        // What was uploaded is still there, and still what it was.
        let attachment = app.api.get(&format!("/v3/attachments/{}", uploaded.id)).await.expect(200);
        assert_eq!((text(&attachment, "content_type"), text(&attachment, "filename")), ("image/tiff", file));
        assert_eq!(attachment["size_bytes"], bytes.len());
        assert_eq!((&attachment["width"], &attachment["height"]), (&json!(measures.width), &json!(measures.height)));
        let original = app.api.get(text(&attachment, "download_url")).await;
        assert_eq!((original.header("content-type"), &original.bytes), ("image/tiff", &bytes), "{file}");
    }
}

fn jpeg() -> &'static haversack::media::MediaType {
    haversack::media::of_extension("jpg").expect("JPEG is a type")
}

#[tokio::test]
async fn a_file_is_converted_once() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let uploaded = app.api.upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff")).await;
    let body = json!({"type": "media", "attachment_id": uploaded.id});
    let sends = futures_util::future::join_all((0..5).map(|_| part(&app, body.clone()))).await;
    assert!(sends.iter().all(|sent| sent == &sends[0]), "{sends:?}");
    assert_eq!(files(&app).len(), 2, "as it was uploaded, and as it is delivered");
    // Both are named by URL, and both are this attachment.
    for url in [&uploaded.url, text(&sends[0], "url")] {
        assert_eq!(part(&app, json!({"type": "media", "url": url})).await, sends[0]);
    }
    let other = uploaded.url.replace("scan.tiff", "scan.png");
    assert_eq!(app.api.get(&other).await.status, 404);
    let refused = app.api.send_parts(json!([{"type": "media", "url": other}])).await;
    assert_eq!(refused.error(), (404, 2003));
    assert_eq!(app.api.delete(&format!("/v3/attachments/{}", uploaded.id)).await.status, 204);
    assert!(files(&app).is_empty(), "both go");
    for url in [&uploaded.url, text(&sends[0], "url")] {
        assert_eq!(app.api.get(url).await.status, 404);
    }
}

#[tokio::test]
async fn what_is_fetched_is_converted_and_shared_when_it_has_not_changed() {
    let origin = Origin::start();
    let bytes = corpus("scan-be.tif");
    origin.on("/scan.tif", move |request| {
        if request.contains("if-none-match: \"v1\"") {
            return crate::support::origin::answer("304 Not Modified", "etag: \"v1\"", b"");
        }
        let headers = format!("etag: \"v1\"\ncontent-length: {}", bytes.len());
        crate::support::origin::answer("200 OK", &headers, &bytes)
    });
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let url = json!({"type": "media", "url": origin.url("/scan.tif")});
    let (first, second) = (part(&app, url.clone()).await, part(&app, url.clone()).await);
    assert_ne!(first["id"], second["id"]);
    for sent in [&first, &second] {
        assert_eq!((text(sent, "filename"), text(sent, "mime_type")), ("scan.jpg", "image/jpeg"));
    }
    assert_eq!(files(&app).len(), 2);
    assert_eq!(app.api.delete(&format!("/v3/attachments/{}", text(&first, "id"))).await.status, 204);
    assert_eq!(app.api.get(text(&second, "url")).await.status, 200);
    assert_eq!(app.api.delete(&format!("/v3/attachments/{}", text(&second, "id"))).await.status, 204);
    assert!(files(&app).is_empty());
}

#[tokio::test]
async fn what_cannot_be_converted_is_delivered_as_it_is() {
    let app = TestApp::start().await;
    // 40,000 by 40,000 pixels, of which the file has none.
    let mut bomb = b"II*\0\x08\0\0\0\x08\0".to_vec();
    for (tag, kind, value) in [
        (256_u16, 4_u16, 40_000_u32),
        (257, 4, 40_000),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (278, 4, 40_000),
        (279, 4, 1_600_000_000),
    ] {
        bomb.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bomb.extend([1_u32.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bomb.extend([0; 4]);
    let uploaded = app.api.upload("bomb.tiff", "image/tiff", &bomb).await;
    let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
    assert_eq!((text(&sent, "filename"), text(&sent, "mime_type")), ("bomb.tiff", "image/tiff"));
    assert_eq!(app.api.get(text(&sent, "url")).await.bytes, bomb);
}

const CAFS: [&str; 7] = [
    "voice-pcm.caf",
    "voice-pcm-be.caf",
    "voice-ima4.caf",
    "voice-alac.caf",
    "voice-aac.caf",
    "voice-opus.caf",
    "voice-pcm-open-ended.caf",
];

#[tokio::test]
async fn caf_is_delivered_as_m4a_where_there_is_ffmpeg() {
    let app = TestApp::start().await;
    let converts = has_ffmpeg(&app).await;
    for file in CAFS {
        let uploaded = app.api.upload(file, "audio/x-caf", &corpus(file)).await;
        let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
        let delivered = app.api.get(text(&sent, "url")).await;
        assert_eq!(delivered.header("content-type"), text(&sent, "mime_type"), "{file}");
        if converts {
            assert_eq!(text(&sent, "filename"), file.replace(".caf", ".m4a"));
            assert_eq!(text(&sent, "mime_type"), "audio/mp4", "{file}");
            let m4a = haversack::media::of_extension("m4a").expect("M4A is a type");
            let found = haversack::media::identify(std::io::Cursor::new(&delivered.bytes)).expect("bytes");
            assert!(format!("{found:?}").contains("audio/x-m4a"), "{file}: {found:?}");
            let measures = haversack::media::measure(std::io::Cursor::new(delivered.bytes), m4a);
            let duration = measures.duration_ms.expect("a duration");
            assert!(duration.abs_diff(2510) <= 60, "{file}: {duration}");
            let attachment = app.api.get(&format!("/v3/attachments/{}", uploaded.id)).await.expect(200);
            assert_eq!(attachment["waveform"].as_array().map(Vec::len), Some(64), "{file}");
        } else {
            assert_eq!((text(&sent, "filename"), text(&sent, "mime_type")), (file, "audio/x-caf"));
        }
    }
}

#[tokio::test]
async fn without_ffmpeg_caf_stays_caf() {
    let app = TestApp::with(|flags| flags.ffmpeg = Some("none".to_owned())).await;
    assert!(!has_ffmpeg(&app).await);
    let uploaded = app.api.upload("a.caf", "audio/x-caf", &corpus("voice-pcm.caf")).await;
    let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
    assert_eq!((text(&sent, "filename"), text(&sent, "mime_type")), ("a.caf", "audio/x-caf"));
    assert_eq!(app.api.get(text(&sent, "url")).await.bytes, corpus("voice-pcm.caf"));
}

#[tokio::test]
async fn a_program_that_is_no_ffmpeg_is_not_used() {
    let app = TestApp::with(|flags| flags.ffmpeg = Some("/bin/true".to_owned())).await;
    assert!(!has_ffmpeg(&app).await);
}
