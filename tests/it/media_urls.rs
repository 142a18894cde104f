//! Media URLs of sends: fetching, storing, and URLs of this server's own files.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Barrier;

use haversack_testkit::origin::{Step, http_response};
use haversack_testkit::{
    LINE, Origin, RECIPIENT, Response, TestApp, corpus, each_case_async, text, until,
};

pub const PHOTO: &[u8] = include_bytes!("data/photo.jpg");

pub fn media(url: &str) -> Value {
    json!({"type": "media", "url": url})
}

/// Sends one URL, and returns the part of the message.
pub async fn part(app: &TestApp, url: &str) -> Value {
    app.api.send_parts(json!([media(url)])).await.expect(201)["chat"]["message"]["parts"][0].clone()
}

pub async fn send(app: &TestApp, url: &str) -> Response {
    app.api.send_parts(json!([media(url)])).await
}

#[tokio::test]
async fn photo_is_fetched_and_stored_on_every_send() {
    let origin = Origin::start();
    origin.file("/a/holiday%20photo.jpg?size=1", "image/jpeg", PHOTO);
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let url = origin.url("/a/holiday%20photo.jpg?size=1#frag");
    let first = part(&app, &url).await;
    assert_eq!(first["filename"], "holiday photo.jpg");
    assert_eq!(first["mime_type"], "image/jpeg");
    assert_eq!(first["size_bytes"], PHOTO.len());
    let file = app.api.get(text(&first, "url")).await;
    assert_eq!((file.status.as_u16(), file.bytes.as_slice()), (200, PHOTO));
    assert_eq!(file.header("content-type"), "image/jpeg");
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{}", text(&first, "id")))
        .await
        .expect(200);
    assert_eq!(attachment["status"], "complete");
    assert_eq!(attachment["content_type"], "image/jpeg");
    assert_eq!(attachment["download_url"], first["url"]);
    assert_eq!(
        (&attachment["width"], &attachment["height"]),
        (&json!(160), &json!(120))
    );

    assert_ne!(
        part(&app, &url).await["id"],
        first["id"],
        "each send creates an attachment"
    );
    assert_eq!(origin.requests().len(), 2);
    let request = origin.requests()[1].to_lowercase();
    let host = format!("host: origin.test:{}\r\n", origin.address.port());
    assert!(
        request.starts_with("get /a/holiday%20photo.jpg?size=1 http/1.1\r\n"),
        "{request}"
    );
    each_case_async(
        [
            &host,
            "accept-encoding: identity\r\n",
            "user-agent: haversack/",
            "accept: */*\r\n",
        ],
        async |header| {
            assert!(request.contains(header), "{request}");
        },
    )
    .await;
    each_case_async(
        ["cookie", "authorization", "referer", "range", "if-"],
        async |header| {
            assert!(!request.contains(&format!("\r\n{header}")), "{request}");
        },
    )
    .await;
}

#[tokio::test]
async fn filename_is_last_path_segment_or_default() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    each_case_async(
        [
            ("/photo", "photo"),
            ("/", "attachment.jpg"),
            ("/?name=x.png", "attachment.jpg"),
            ("/a/", "attachment.jpg"),
            ("/PHOTO.JPEG", "PHOTO.JPEG"),
            ("/%C3%BCber.jpg", "über.jpg"),
            ("/a%2F..%2Fb%00.jpg", "a/../b\0.jpg"),
        ],
        async |(path, name)| {
            origin.file(path, "application/octet-stream", PHOTO);
            let part = part(&app, &origin.url(path)).await;
            assert_eq!(part["filename"], name, "{path}");
            assert_eq!(app.api.get(text(&part, "url")).await.bytes, PHOTO, "{path}");
        },
    )
    .await;
}

#[tokio::test]
async fn fetched_file_that_does_not_match_its_extension_returns_400() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    each_case_async(
        [
            ("/a.jpg", "text/html", "photo.jpg", Ok("image/jpeg")),
            ("/a", "text/plain", "photo.jpg", Ok("image/jpeg")),
            ("/a.jpg", "image/jpeg", "screenshot.png", Err(5006)),
            ("/a.pdf", "image/jpeg", "photo.jpg", Err(5006)),
            ("/a.docx", "application/zip", "archive.zip", Err(5006)),
            (
                "/a.zip",
                "application/zip",
                "word.docx",
                Ok("application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
            ),
            ("/a.mov", "video/mp4", "clip.mp4", Ok("video/mp4")),
            (
                "/a.mp4",
                "video/mp4",
                "recording-isom.m4a",
                Ok("audio/x-m4a"),
            ),
            ("/a.txt", "text/plain", "data.json", Ok("text/plain")),
            ("/a.jpg", "image/jpeg", "page.html", Err(5006)),
            ("/a.jpg", "image/jpeg", "setup.exe", Err(5004)),
            ("/a.wav", "audio/wav", "music.flac", Err(5004)),
            ("/a.jpg", "image/jpeg", "photo.avif", Err(5004)),
            ("/a.jpg", "image/jpeg", "truncated-header.jpg", Err(5004)),
            ("/a.jpg", "image/jpeg", "junk.bin", Err(5004)),
            ("/a.txt", "text/plain", "empty.txt", Err(5004)),
            ("/a.exe", "image/jpeg", "photo.jpg", Err(5004)),
        ],
        async |(path, content_type, file, expected)| {
            origin.file(path, content_type, &corpus(file));
            let response = send(&app, &origin.url(path)).await;
            match expected {
                Ok(mime_type) => {
                    assert_eq!(
                        response.expect(201)["chat"]["message"]["parts"][0]["mime_type"],
                        mime_type,
                        "{path} {file}"
                    );
                }
                Err(code) => assert_eq!(
                    response.error(),
                    (400, code),
                    "{path} {file}: {}",
                    response.message()
                ),
            }
        },
    )
    .await;
}

#[tokio::test]
async fn invalid_send_fetches_nothing() {
    let origin = Origin::start();
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    let app = TestApp::with_origin(&origin, |settings| settings.send.rate_limit_messages = 1).await;
    let photo = media(&origin.url("/a.jpg"));
    let unknown = "01990000-0000-7000-8000-000000000001";
    let body = |from: &str, parts: Value| json!({"from": from, "to": [RECIPIENT], "message": {"parts": parts}});
    each_case_async(
        [
            (
                "/v3/chats".to_owned(),
                body("+12025550000", json!([photo])),
                (403, 2006),
            ),
            (
                format!("/v3/chats/{unknown}/messages"),
                json!({"message": {"parts": [photo]}}),
                (404, 2001),
            ),
            (
                "/v3/chats".to_owned(),
                body(
                    LINE,
                    json!([photo, {"type": "media", "attachment_id": unknown}]),
                ),
                (404, 2003),
            ),
            (
                "/v3/chats".to_owned(),
                body(
                    LINE,
                    json!([photo, {"type": "text", "value": "www.example.com"}]),
                ),
                (400, 1005),
            ),
            (
                "/v3/chats".to_owned(),
                body(LINE, json!([photo, media("http://a.example/")])),
                (400, 1005),
            ),
        ],
        async |(path, body, expected)| {
            assert_eq!(app.api.post(&path, &body).await.error(), expected, "{body}");
        },
    )
    .await;
    app.api.send_text(&[RECIPIENT], "one").await;
    assert_eq!(
        app.api
            .post("/v3/chats", &body(LINE, json!([photo])))
            .await
            .error(),
        (429, 1007)
    );
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn files_of_one_message_are_fetched_concurrently_and_kept_in_order() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let barrier = Arc::new(Barrier::new(5));
    let parts: Vec<Value> = (0..5)
        .map(|n| {
            let path = format!("/{n}.txt");
            let body = http_response(
                "200 OK",
                "content-type: text/plain\ncontent-length: 1",
                n.to_string().as_bytes(),
            );
            // The origin answers only after all five requests have arrived.
            origin.script(
                &path,
                [vec![Step::Wait(Arc::clone(&barrier))], body].concat(),
            );
            media(&origin.url(&path))
        })
        .collect();
    let sent = app.api.send_parts(json!(parts)).await.expect(201);
    let stored = sent["chat"]["message"]["parts"]
        .as_array()
        .expect("parts")
        .clone();
    assert_eq!(stored.len(), 5);
    for (n, part) in stored.iter().enumerate() {
        assert_eq!(part["filename"], format!("{n}.txt"));
        assert_eq!(
            app.api.get(text(part, "url")).await.bytes,
            n.to_string().as_bytes()
        );
    }
}

#[tokio::test]
async fn one_failed_fetch_fails_the_send() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    origin.script("/stalled.jpg", vec![Step::Hang]);
    origin.script(
        "/gone.jpg",
        http_response("410 Gone", "content-length: 0", b""),
    );
    let urls = ["/a.jpg", "/stalled.jpg", "/gone.jpg"].map(|path| media(&origin.url(path)));
    let refused = app.api.send_parts(json!(urls)).await;
    assert_eq!(refused.error(), (500, 5002));
    let expected = format!(
        "could not fetch {}: the host answered 410",
        origin.url("/gone.jpg")
    );
    assert_eq!(
        refused.message(),
        expected,
        "the stalled fetch is not awaited"
    );
    assert_eq!(
        app.api.get("/v3/chats").await.expect(200)["chats"],
        json!([])
    );
    until(async || {
        (app.stored_files().await.is_empty() && origin.open_connections() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn error_message_omits_query_of_url() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let refused = send(&app, &origin.url("/a.jpg?signature=secret")).await;
    assert_eq!(refused.error(), (500, 5002));
    assert!(
        refused
            .message()
            .contains("/a.jpg?...: the host answered 404"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn url_of_own_file_is_resolved_without_fetch() {
    let app = TestApp::start().await;
    let file = app.api.upload("a b.jpg", "image/jpeg", PHOTO).await;
    let rival = app.rival.upload("a b.jpg", "image/jpeg", PHOTO).await;
    let pending = app.api.create("a b.jpg", "image/jpeg", 5).await;
    let encoded = file
        .url
        .replace("attachments", "%61ttachments")
        .replace("/partners", "/x/../partners");
    for url in [file.url.clone(), file.url.clone() + "?x=1", encoded] {
        let part = part(&app, &url).await;
        assert_eq!(part["id"], file.id, "{url}");
        assert_eq!(part["url"], file.url);
    }
    let deleted = app.api.upload("a b.jpg", "image/jpeg", PHOTO).await;
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{}", deleted.id))
            .await
            .status,
        204
    );
    let partner = |url: &str| url.split('/').nth(5).expect("partner").to_owned();
    each_case_async(
        [
            (rival.url.clone(), (404, 2003)),
            (
                file.url.replace(&partner(&file.url), &partner(&rival.url)),
                (404, 2003),
            ),
            (file.url.replace("a%20b.jpg", "b.jpg"), (404, 2003)),
            (file.url.replace(&file.id, &rival.id), (404, 2003)),
            (deleted.url, (404, 2003)),
            (app.url("/attachments/partners/x"), (404, 2003)),
            (app.url("/healthz"), (404, 2003)),
            (text(&pending, "download_url").to_owned(), (404, 2007)),
        ],
        async |(url, expected)| {
            assert_eq!(send(&app, &url).await.error(), expected, "{url}");
        },
    )
    .await;
    let many = vec![media(&file.url); 41];
    assert_eq!(
        app.api.send_parts(json!(many)).await.status,
        201,
        "the limit of media URLs does not apply to own files"
    );
}

#[tokio::test]
async fn url_on_cdn_host_is_resolved_without_fetch() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |settings| {
        settings.urls.cdn_url = Some("https://cdn.example.com/files".parse().expect("URL"));
    })
    .await;
    let file = app.api.upload("a.jpg", "image/jpeg", PHOTO).await;
    assert!(
        file.url
            .starts_with("https://cdn.example.com/files/attachments/"),
        "{}",
        file.url
    );
    assert_eq!(
        part(
            &app,
            &file.url.replace("cdn.example.com", "CDN.Example.com:443")
        )
        .await["id"],
        file.id
    );
    assert_eq!(
        send(&app, "https://cdn.example.com/files/none.jpg")
            .await
            .error(),
        (404, 2003)
    );
    let http = send(&app, &file.url.replace("https:", "http:")).await;
    assert_eq!(http.error(), (400, 1005));
    assert!(origin.dns.queries().is_empty());
}

#[tokio::test]
async fn concurrent_sends_with_same_key_store_one_file() {
    let origin = Origin::start();
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let body = json!({"from": LINE, "to": [RECIPIENT],
        "message": {"parts": [media(&origin.url("/a.jpg"))], "idempotency_key": "k"}});
    let responses =
        futures_util::future::join_all((0..5).map(|_| app.api.post("/v3/chats", &body))).await;
    assert!(
        responses
            .iter()
            .all(|response| response.status == 201 && response.bytes == responses[0].bytes)
    );
    assert_eq!(
        app.stored_files().await.len(),
        1,
        "the files of the other sends are discarded"
    );
}
