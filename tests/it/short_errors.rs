//! Errors quote little of what they are about, whatever it is.

use serde_json::{Value, json};

use haversack_testkit::{Api, LINE, RECIPIENT, Response, TestApp};

/// No error is larger than this, headers aside.
const MOST: usize = 2048;

/// A body with the text in each place that holds a text, and where another type belongs.
fn bodies(long: &str, chat: &str) -> Vec<(&'static str, String, Value)> {
    let send = format!("/v3/chats/{chat}/messages");
    let memo = format!("/v3/chats/{chat}/voicememo");
    let text = json!([{"type": "text", "value": "x"}]);
    let message = |message: Value| json!({"message": message});
    let part = |part: Value| json!({"message": {"parts": [part]}});
    let with = |name: &str, value: Value| json!({"type": "text", "value": "x", (name): value});
    let chats = |name: &str, value: Value| {
        let mut body = json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": text}});
        body[name] = value;
        body
    };
    let create = |name: &str, value: Value| {
        let mut body = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": 5});
        body[name] = value;
        body
    };
    let object = |value: &str| json!({(value): value});
    vec![
        (
            "filename",
            "/v3/attachments".into(),
            create("filename", json!(long)),
        ),
        (
            "filename, refused",
            "/v3/attachments".into(),
            create("filename", json!(format!("{long}.exe"))),
        ),
        (
            "content_type",
            "/v3/attachments".into(),
            create("content_type", json!(long)),
        ),
        (
            "size_bytes",
            "/v3/attachments".into(),
            create("size_bytes", json!(long)),
        ),
        (
            "size_bytes, object",
            "/v3/attachments".into(),
            create("size_bytes", object(long)),
        ),
        ("from", "/v3/chats".into(), chats("from", json!(long))),
        ("to", "/v3/chats".into(), chats("to", json!([long]))),
        (
            "to, address",
            "/v3/chats".into(),
            chats("to", json!([format!("{long}@example.com")])),
        ),
        ("to, no list", "/v3/chats".into(), chats("to", json!(long))),
        (
            "message, no object",
            "/v3/chats".into(),
            chats("message", json!(long)),
        ),
        (
            "override_optout",
            "/v3/chats".into(),
            chats("override_optout", json!(long)),
        ),
        (
            "override_optout, key",
            "/v3/chats".into(),
            chats("override_optout", object(long)),
        ),
        (
            "exclude_from",
            "/v3/messages".into(),
            json!({"to": [RECIPIENT], "exclude_from": [long], "message": {"parts": text}}),
        ),
        (
            "exclude_from, no list",
            "/v3/messages".into(),
            json!({"to": [RECIPIENT], "exclude_from": long, "message": {"parts": text}}),
        ),
        (
            "parts, no list",
            send.clone(),
            message(json!({"parts": long})),
        ),
        ("part, no object", send.clone(), part(json!(long))),
        ("part type", send.clone(), part(json!({"type": long}))),
        (
            "value",
            send.clone(),
            part(json!({"type": "text", "value": long})),
        ),
        (
            "link",
            send.clone(),
            part(json!({"type": "link", "value": long})),
        ),
        (
            "link, http",
            send.clone(),
            part(json!({"type": "link", "value": format!("http://{long}/")})),
        ),
        (
            "url",
            send.clone(),
            part(json!({"type": "media", "url": long})),
        ),
        (
            "url, https",
            send.clone(),
            part(json!({"type": "media", "url": format!("https://example.com/{long}")})),
        ),
        (
            "url, of bounded length",
            send.clone(),
            part(
                json!({"type": "media", "url": format!("https://example.invalid/{}.exe", "a".repeat(2000))}),
            ),
        ),
        (
            "attachment_id",
            send.clone(),
            part(json!({"type": "media", "attachment_id": long})),
        ),
        (
            "sticker flag",
            send.clone(),
            part(with("sticker", json!(long))),
        ),
        (
            "decorations, no list",
            send.clone(),
            part(with("text_decorations", json!(long))),
        ),
        (
            "decoration range",
            send.clone(),
            part(with(
                "text_decorations",
                json!([{"range": long, "style": "bold"}]),
            )),
        ),
        (
            "decoration range, number",
            send.clone(),
            part(with(
                "text_decorations",
                json!([{"range": [0, long], "style": "bold"}]),
            )),
        ),
        (
            "decoration style",
            send.clone(),
            part(with(
                "text_decorations",
                json!([{"range": [0, 1], "style": long}]),
            )),
        ),
        (
            "decoration animation",
            send.clone(),
            part(with(
                "text_decorations",
                json!([{"range": [0, 1], "animation": long}]),
            )),
        ),
        ("mention", send.clone(), part(with("mention", json!(long)))),
        (
            "mention_range",
            send.clone(),
            part(json!({"type": "text", "value": "x", "mention": "a", "mention_range": long})),
        ),
        (
            "sticker url",
            send.clone(),
            part(with(
                "inline_stickers",
                json!([{"range": [0, 1], "url": long}]),
            )),
        ),
        (
            "sticker id",
            send.clone(),
            part(with(
                "inline_stickers",
                json!([{"range": [0, 1], "attachment_id": long}]),
            )),
        ),
        (
            "sticker range",
            send.clone(),
            part(with(
                "inline_stickers",
                json!([{"range": long, "attachment_id": "x"}]),
            )),
        ),
        (
            "effect type",
            send.clone(),
            message(json!({"parts": text, "effect": {"type": long, "name": "x"}})),
        ),
        (
            "effect name",
            send.clone(),
            message(json!({"parts": text, "effect": {"type": "screen", "name": long}})),
        ),
        (
            "effect, no object",
            send.clone(),
            message(json!({"parts": text, "effect": long})),
        ),
        (
            "reply_to id",
            send.clone(),
            message(json!({"parts": text, "reply_to": {"message_id": long}})),
        ),
        (
            "reply_to index",
            send.clone(),
            message(json!({"parts": text, "reply_to": {"message_id": "x", "part_index": long}})),
        ),
        (
            "preferred_service",
            send.clone(),
            message(json!({"parts": text, "preferred_service": long})),
        ),
        (
            "idempotency_key",
            send.clone(),
            message(json!({"parts": text, "idempotency_key": long})),
        ),
        (
            "voice_memo_url",
            memo.clone(),
            json!({"voice_memo_url": long}),
        ),
        (
            "voice_memo_url, https",
            memo.clone(),
            json!({"voice_memo_url": format!("https://{long}/")}),
        ),
        (
            "voice memo attachment_id",
            memo,
            json!({"attachment_id": long}),
        ),
    ]
}

fn check(what: &str, answer: &Response, long: &mut Vec<String>) {
    let size = answer.bytes.len();
    if !(answer.status.is_client_error() || answer.status.is_server_error()) || size > MOST {
        let start: String = answer.text().chars().take(200).collect();
        long.push(format!(
            "{what}: {} with {size} bytes: {start}",
            answer.status
        ));
    }
}

#[tokio::test]
async fn error_about_any_field_is_short() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "hello").await["id"]
        .as_str()
        .expect("id")
        .to_owned();
    let mut long = Vec::new();
    for (of, text) in [
        ("U+007F", "\u{7f}".repeat(100_000)),
        ("emoji", "🎂".repeat(100_000)),
    ] {
        for (what, path, body) in bodies(&text, &chat) {
            check(
                &format!("{what} of {of}"),
                &app.api.post(&path, &body).await,
                &mut long,
            );
        }
        for (what, body) in [
            ("no JSON", text.clone()),
            ("no object", format!("\"{text}\"")),
            ("bad after a long key", format!("{{\"{text}\": [1, ")),
            (
                "bad within a long key",
                format!("{{\"message\": {{\"{text}\": {{\"{text}\": nul"),
            ),
            (
                "a long number",
                format!("{{\"size_bytes\": {}.5}}", "1".repeat(100_000)),
            ),
            ("a long tail", format!("{{}} {text}")),
        ] {
            check(
                &format!("{what} of {of}"),
                &app.api.post_raw("/v3/attachments", &body).await,
                &mut long,
            );
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[tokio::test]
async fn error_about_path_query_or_header_is_short() {
    let app = TestApp::start().await;
    let mut long = Vec::new();
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let upload = created["upload_url"].as_str().expect("URL").to_owned();
    for (of, text) in [
        ("U+007F", "%7F".repeat(3000)),
        ("emoji", "%F0%9F%8E%82".repeat(700)),
    ] {
        for (method, path) in [
            ("GET", format!("/v3/{text}")),
            ("GET", format!("/v3/attachments/{text}")),
            ("GET", format!("/v3/chats/{text}")),
            ("GET", format!("/v3/messages/{text}")),
            ("GET", format!("/v3/experiences/{text}")),
            ("GET", format!("/v3/payments/handles/{text}/connection")),
            ("GET", format!("/v3/chats?limit={text}")),
            ("GET", format!("/v3/chats?cursor={text}")),
            ("GET", format!("/v3/chats?from={text}")),
            ("GET", format!("/v3/chats?to={text}")),
            ("GET", format!("/v3/chats?to={text}%40example.com")),
            ("GET", format!("/{text}")),
            ("GET", format!("/attachments/{text}")),
            ("GET", format!("/attachments/partners/{text}/{text}/x")),
            ("PUT", format!("/uploads/{text}")),
        ] {
            let start: String = path.chars().take(40).collect();
            let answer = app.api.request(method, &path, &[], None).await;
            check(&format!("{method} {start} of {of}"), &answer, &mut long);
        }
    }
    let text = "x".repeat(12_000);
    for (what, method, url, headers) in [
        (
            "method",
            text.to_uppercase(),
            "/v3/chats".to_owned(),
            vec![],
        ),
        (
            "key",
            "GET".to_owned(),
            "/v3/chats".to_owned(),
            vec![("authorization", format!("Bearer {text}"))],
        ),
        (
            "scheme",
            "GET".to_owned(),
            "/v3/chats".to_owned(),
            vec![("authorization", format!("{text} x"))],
        ),
        (
            "Content-Type of an upload",
            "PUT".to_owned(),
            upload.clone(),
            vec![("content-type", text.clone())],
        ),
    ] {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let body = (method == "PUT").then(|| b"hello".to_vec());
        let anonymous = app.anonymous();
        let api: &Api = if what == "method" {
            &app.api
        } else {
            &anonymous
        };
        check(
            what,
            &api.request(&method, &url, &headers, body).await,
            &mut long,
        );
    }
    let header = [("idempotency-key", text.as_str())];
    let body = json!({"to": [RECIPIENT], "message": {"parts": [{"type": "text", "value": "x"}]}})
        .to_string();
    check(
        "Idempotency-Key",
        &app.api
            .request("POST", "/v3/messages", &header, Some(body.into_bytes()))
            .await,
        &mut long,
    );
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[tokio::test]
async fn reason_of_a_refused_upload_is_short() {
    let app = TestApp::start().await;
    let name = format!("{}.pdf", "\u{7f}".repeat(251));
    let created = app.api.create(&name, "application/pdf", 5).await;
    assert_eq!(app.api.put(&created, b"hello").await.status, 200);
    let id = created["attachment_id"].as_str().expect("id");
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{id}"))
        .await
        .expect(200);
    let reason = attachment["failure_reason"].as_str().expect("a reason");
    assert!(reason.len() < 500, "{reason}");
    let refused = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": id}]))
        .await;
    assert!(refused.bytes.len() < MOST, "{}", refused.text());
}
