//! Media by URL: what a send fetches, stores and answers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Barrier;

use haversack_testkit::origin::{Step, response};
use haversack_testkit::{LINE, Origin, RECIPIENT, RIVAL_LINE, Response, TestApp, corpus, on_disk};

const PHOTO: &[u8] = include_bytes!("data/photo.jpg");

fn media(url: &str) -> Value {
    json!({"type": "media", "url": url})
}

/// Sends one URL; the part that came of it.
async fn part(app: &TestApp, url: &str) -> Value {
    app.api.send_parts(json!([media(url)])).await.expect(201)["chat"]["message"]["parts"][0].clone()
}

async fn send(app: &TestApp, url: &str) -> Response {
    app.api.send_parts(json!([media(url)])).await
}

fn text<'a>(part: &'a Value, field: &str) -> &'a str {
    part[field].as_str().expect("text")
}

#[tokio::test]
async fn a_photo_is_fetched_on_every_send() {
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
        "a new attachment each time"
    );
    assert_eq!(origin.requests().len(), 2);
    let request = origin.requests()[1].to_lowercase();
    let host = format!("host: origin.test:{}\r\n", origin.address.port());
    assert!(
        request.starts_with("get /a/holiday%20photo.jpg?size=1 http/1.1\r\n"),
        "{request}"
    );
    for header in [
        &host,
        "accept-encoding: identity\r\n",
        "user-agent: haversack/",
        "accept: */*\r\n",
    ] {
        assert!(request.contains(header), "{request}");
    }
    for header in ["cookie", "authorization", "referer", "range", "if-"] {
        assert!(!request.contains(&format!("\r\n{header}")), "{request}");
    }
}

#[tokio::test]
async fn the_name_is_the_last_segment_or_made_up() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    for (path, name) in [
        ("/photo", "photo"),
        ("/", "attachment.jpg"),
        ("/?name=x.png", "attachment.jpg"),
        ("/a/", "attachment.jpg"),
        ("/PHOTO.JPEG", "PHOTO.JPEG"),
        ("/%C3%BCber.jpg", "über.jpg"),
        ("/a%2F..%2Fb%00.jpg", "a/../b\0.jpg"),
    ] {
        origin.file(path, "application/octet-stream", PHOTO);
        let part = part(&app, &origin.url(path)).await;
        assert_eq!(part["filename"], name, "{path}");
        assert_eq!(app.api.get(text(&part, "url")).await.bytes, PHOTO, "{path}");
    }
}

#[tokio::test]
async fn the_bytes_and_the_extension_must_agree() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    for (path, content_type, file, expected) in [
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
    ] {
        origin.file(path, content_type, &corpus(file));
        let answer = send(&app, &origin.url(path)).await;
        match expected {
            Ok(mime_type) => {
                assert_eq!(
                    answer.expect(201)["chat"]["message"]["parts"][0]["mime_type"],
                    mime_type,
                    "{path} {file}"
                );
            }
            Err(code) => assert_eq!(
                answer.error(),
                (400, code),
                "{path} {file}: {}",
                answer.message()
            ),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_not_fetched() {
    let origin = Origin::start();
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    let app = TestApp::with_origin(&origin, |flags| flags.rate_limit_messages = Some(1)).await;
    let photo = media(&origin.url("/a.jpg"));
    let unknown = "01990000-0000-7000-8000-000000000001";
    let body = |from: &str, parts: Value| json!({"from": from, "to": [RECIPIENT], "message": {"parts": parts}});
    for (path, body, expected) in [
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
    ] {
        assert_eq!(app.api.post(&path, &body).await.error(), expected, "{body}");
    }
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
async fn files_of_one_message_come_side_by_side_and_in_order() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let barrier = Arc::new(Barrier::new(5));
    let parts: Vec<Value> = (0..5)
        .map(|n| {
            let path = format!("/{n}.txt");
            let body = response(
                "200 OK",
                "content-type: text/plain\ncontent-length: 1",
                n.to_string().as_bytes(),
            );
            // Nothing is answered before all five have asked.
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
async fn one_file_that_cannot_be_had_sends_none() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    origin.script("/stalled.jpg", vec![Step::Hang]);
    origin.script("/gone.jpg", response("410 Gone", "content-length: 0", b""));
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
        "without waiting for the one that stalls"
    );
    assert_eq!(
        app.api.get("/v3/chats").await.expect(200)["chats"],
        json!([])
    );
    haversack_testkit::until(async || {
        (app.stored_files().await.is_empty() && origin.open_connections() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn queries_are_not_repeated_in_messages() {
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
async fn our_own_files_are_found_and_not_fetched() {
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
    for (url, expected) in [
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
    ] {
        assert_eq!(send(&app, &url).await.error(), expected, "{url}");
    }
    let many = vec![media(&file.url); 41];
    assert_eq!(
        app.api.send_parts(json!(many)).await.status,
        201,
        "they do not count as external"
    );
}

#[tokio::test]
async fn a_cdn_of_its_own_is_ours_too() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |flags| {
        flags.cdn_url = Some("https://cdn.example.com/files".to_owned());
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

/// An origin of one photo that answers 304 to what it gave as a validator.
fn cached(validator: &'static str, condition: &'static str) -> Origin {
    let origin = Origin::start();
    origin.on("/a.jpg", move |request| {
        if request.contains(&format!("\r\n{condition}\r\n")) {
            return response("304 Not Modified", validator, b"");
        }
        let headers = format!("{validator}\ncontent-length: {}", PHOTO.len());
        response("200 OK", &headers, PHOTO)
    });
    origin
}

#[tokio::test]
async fn an_origin_may_say_that_nothing_has_changed() {
    let modified = (
        "last-modified: Thu, 15 Jan 2026 10:00:00 GMT",
        "if-modified-since: Thu, 15 Jan 2026 10:00:00 GMT",
    );
    for (validator, condition) in [
        ("etag: \"v1\"", "if-none-match: \"v1\""),
        ("etag: W/\"v1\"", "if-none-match: W/\"v1\""),
        modified,
    ] {
        let origin = cached(validator, condition);
        let app = TestApp::with_origin(&origin, on_disk).await;
        let url = origin.url("/a.jpg");
        let (first, second, third) = (
            part(&app, &url).await,
            part(&app, &url).await,
            part(&app, &url).await,
        );
        let asked = origin.requests();
        assert_eq!(
            asked
                .iter()
                .filter(|request| request.contains(condition))
                .count(),
            2,
            "asked every time"
        );
        assert!(
            first["id"] != second["id"] && second["id"] != third["id"],
            "a new attachment all the same"
        );
        assert_eq!(app.stored_files().await.len(), 1, "stored once");
        for part in [&first, &second, &third] {
            assert_eq!(
                (&part["mime_type"], &part["size_bytes"]),
                (&json!("image/jpeg"), &json!(PHOTO.len()))
            );
            assert_eq!(app.api.get(text(part, "url")).await.bytes, PHOTO);
        }
        // The file stays as long as anyone names it.
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
            "and is fetched anew after that"
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
async fn what_has_changed_is_fetched_and_failures_are_not_remembered() {
    let origin = cached("etag: \"v1\"", "if-none-match: \"v1\"");
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let url = origin.url("/a.jpg");
    let first = part(&app, &url).await;
    origin.script("/a.jpg", response("503 Busy", "content-length: 0", b""));
    assert_eq!(send(&app, &url).await.error(), (500, 5002));
    let tiny = corpus("tiny.jpg");
    let headers = format!("etag: \"v2\"\ncontent-length: {}", tiny.len());
    origin.script("/a.jpg", response("200 OK", &headers, &tiny));
    let changed = part(&app, &url).await;
    assert_eq!(app.api.get(text(&changed, "url")).await.bytes, tiny);
    assert_eq!(
        app.api.get(text(&first, "url")).await.bytes,
        PHOTO,
        "what was sent stays what it was"
    );
    part(&app, &url).await;
    assert!(origin.requests()[2].contains("if-none-match: \"v1\""));
    assert!(origin.requests()[3].contains("if-none-match: \"v2\""));
    // An origin that answers 304 to no question.
    origin.script("/b.jpg", response("304 Not Modified", "etag: \"v1\"", b""));
    assert_eq!(send(&app, &origin.url("/b.jpg")).await.error(), (500, 5002));
    // One that gives no validator any more.
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
async fn a_304_counts_only_for_the_version_that_is_there() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, on_disk).await;
    let photo = |etag: &str, bytes: &[u8]| {
        response(
            "200 OK",
            &format!("etag: {etag}\ncontent-length: {}", bytes.len()),
            bytes,
        )
    };
    let url = origin.url("/a.jpg");
    origin.script("/a.jpg", photo("\"1\"", PHOTO));
    part(&app, &url).await;
    // It has another version by now, and says so in a confused way.
    let tiny = corpus("tiny.jpg");
    let changed = photo("\"2\"", &tiny);
    origin.on("/a.jpg", move |request| {
        if request.contains("if-none-match") {
            response("304 Not Modified", "etag: \"2\"", b"")
        } else {
            changed.clone()
        }
    });
    assert_eq!(part(&app, &url).await["size_bytes"], tiny.len());
    // The stored bytes are lost: the file is fetched again.
    for digits in std::fs::read_dir(app.folder.path().join("blobs")).expect("blobs") {
        for file in std::fs::read_dir(digits.expect("entry").path()).expect("folder") {
            std::fs::remove_file(file.expect("entry").path()).expect("remove");
        }
    }
    let whole = part(&app, &url).await;
    assert_eq!(app.api.get(text(&whole, "url")).await.bytes, tiny);
    // What is no validator is not sent back.
    for validator in [
        "etag: *",
        "etag: v1",
        "last-modified: yesterday",
        "last-modified: Thu, 15 Jan 2099 10:00:00 GMT",
    ] {
        let headers = format!("{validator}\ncontent-length: {}", PHOTO.len());
        origin.script("/b.jpg", response("200 OK", &headers, PHOTO));
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
    }
}

#[tokio::test]
async fn validators_are_a_partners_own_and_for_the_url_they_came_from() {
    let origin = cached("etag: \"v1\"", "if-none-match: \"v1\"");
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

    // Through a redirect: only the last URL is asked with them, and only while it is the same.
    origin.script(
        "/r.jpg",
        response("302 Found", "location: /a.jpg\ncontent-length: 0", b""),
    );
    let (first, second) = (
        part(&app, &origin.url("/r.jpg")).await,
        part(&app, &origin.url("/r.jpg")).await,
    );
    let asked = origin.requests();
    let conditional: Vec<&String> = asked
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
        response("302 Found", "location: /c.jpg\ncontent-length: 0", b""),
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
async fn what_was_fetched_is_forgotten_after_a_while() {
    let origin = cached("etag: \"v1\"", "if-none-match: \"v1\"");
    let app =
        TestApp::with_origin(&origin, |flags| flags.fetch_revalidate_seconds = Some(3600)).await;
    part(&app, &origin.url("/a.jpg")).await;
    app.clock.advance(Duration::from_secs(3601));
    app.service.sweep().await.expect("sweep");
    part(&app, &origin.url("/a.jpg")).await;
    assert!(!origin.requests()[1].contains("if-none-match"));
    assert_eq!(app.stored_files().await.len(), 2);
}

#[tokio::test]
async fn one_key_used_at_once_sends_one_file() {
    let origin = Origin::start();
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let body = json!({"from": LINE, "to": [RECIPIENT],
        "message": {"parts": [media(&origin.url("/a.jpg"))], "idempotency_key": "k"}});
    let answers =
        futures_util::future::join_all((0..5).map(|_| app.api.post("/v3/chats", &body))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == 201 && answer.bytes == answers[0].bytes)
    );
    assert_eq!(
        app.stored_files().await.len(),
        1,
        "what the others fetched is gone"
    );
}
