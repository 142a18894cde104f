//! Length of error responses: however long the invalid input is, the error quotes little of it.

use serde_json::{Value, json};

use haversack_testkit::{LINE, RECIPIENT, Response, TestApp, each_case_async, text};

/// Largest body of an error response, in bytes.
const MAX_BODY: usize = 2048;

/// A request body with its description and path.
type Case = (&'static str, String, Value);

/// Returns bodies of `POST /v3/attachments` with a long text in each field.
fn create_bodies(long: &str) -> Vec<Case> {
    let create = |name: &str, value: Value| {
        let mut body = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": 5});
        body[name] = value;
        body
    };
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
            create("size_bytes", json!({(long): long})),
        ),
    ]
}

/// Returns bodies of `POST /v3/chats` and `POST /v3/messages` with a long text in each field but
/// the message.
fn chat_bodies(long: &str) -> Vec<Case> {
    let text = json!([{"type": "text", "value": "x"}]);
    let chats = |name: &str, value: Value| {
        let mut body = json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": text}});
        body[name] = value;
        body
    };
    vec![
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
            chats("override_optout", json!({(long): long})),
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
    ]
}

/// Returns bodies of messages and voice memos in a chat with a long text in each field but the
/// parts.
fn message_bodies(long: &str, chat: &str) -> Vec<Case> {
    let send = format!("/v3/chats/{chat}/messages");
    let memo = format!("/v3/chats/{chat}/voicememo");
    let text = json!([{"type": "text", "value": "x"}]);
    let message = |message: Value| json!({"message": message});
    vec![
        (
            "parts, no list",
            send.clone(),
            message(json!({"parts": long})),
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

/// Returns bodies of messages in a chat with a long text in each field of a part.
fn part_bodies(long: &str, chat: &str) -> Vec<Case> {
    [media_and_link_parts(long), text_parts(long)]
        .concat()
        .into_iter()
        .map(|(what, part)| {
            let path = format!("/v3/chats/{chat}/messages");
            (what, path, json!({"message": {"parts": [part]}}))
        })
        .collect()
}

fn media_and_link_parts(long: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("part, no object", json!(long)),
        ("part type", json!({"type": long})),
        ("value", json!({"type": "text", "value": long})),
        ("link", json!({"type": "link", "value": long})),
        (
            "link, http",
            json!({"type": "link", "value": format!("http://{long}/")}),
        ),
        ("url", json!({"type": "media", "url": long})),
        (
            "url, https",
            json!({"type": "media", "url": format!("https://example.com/{long}")}),
        ),
        (
            "url, of bounded length",
            json!({"type": "media", "url": format!("https://example.invalid/{}.exe", "a".repeat(2000))}),
        ),
        (
            "attachment_id",
            json!({"type": "media", "attachment_id": long}),
        ),
    ]
}

fn text_parts(long: &str) -> Vec<(&'static str, Value)> {
    let with = |name: &str, value: Value| json!({"type": "text", "value": "x", (name): value});
    vec![
        ("sticker flag", with("sticker", json!(long))),
        (
            "decorations, no list",
            with("text_decorations", json!(long)),
        ),
        (
            "decoration range",
            with(
                "text_decorations",
                json!([{"range": long, "style": "bold"}]),
            ),
        ),
        (
            "decoration range, number",
            with(
                "text_decorations",
                json!([{"range": [0, long], "style": "bold"}]),
            ),
        ),
        (
            "decoration style",
            with(
                "text_decorations",
                json!([{"range": [0, 1], "style": long}]),
            ),
        ),
        (
            "decoration animation",
            with(
                "text_decorations",
                json!([{"range": [0, 1], "animation": long}]),
            ),
        ),
        ("mention", with("mention", json!(long))),
        (
            "mention_range",
            json!({"type": "text", "value": "x", "mention": "a", "mention_range": long}),
        ),
        (
            "sticker url",
            with("inline_stickers", json!([{"range": [0, 1], "url": long}])),
        ),
        (
            "sticker id",
            with(
                "inline_stickers",
                json!([{"range": [0, 1], "attachment_id": long}]),
            ),
        ),
        (
            "sticker range",
            with(
                "inline_stickers",
                json!([{"range": long, "attachment_id": "x"}]),
            ),
        ),
    ]
}

/// Asserts that a response is an error of bounded length.
fn check(response: &Response) {
    let (status, size) = (response.status, response.bytes.len());
    let start: String = response.text().chars().take(200).collect();
    assert!(
        status.is_client_error() || status.is_server_error(),
        "{status}: {start}"
    );
    assert!(size <= MAX_BODY, "{status} with {size} bytes: {start}");
}

/// Posts each body with a long text of control characters and of emoji.
async fn check_bodies(bodies: impl Fn(&str, &str) -> Vec<Case>) {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "hello").await;
    for character in ["\u{7f}", "🎂"] {
        let cases = bodies(&character.repeat(100_000), text(&chat, "id"));
        each_case_async(cases, async |(_, path, body)| {
            check(&app.api.post(&path, &body).await);
        })
        .await;
    }
}

#[tokio::test]
async fn error_about_field_of_attachment_is_short() {
    check_bodies(|long, _| create_bodies(long)).await;
}

#[tokio::test]
async fn error_about_field_of_chat_is_short() {
    check_bodies(|long, _| chat_bodies(long)).await;
}

#[tokio::test]
async fn error_about_field_of_message_is_short() {
    check_bodies(message_bodies).await;
}

#[tokio::test]
async fn error_about_field_of_part_is_short() {
    check_bodies(part_bodies).await;
}

#[tokio::test]
async fn error_about_malformed_json_is_short() {
    let app = TestApp::start().await;
    for character in ["\u{7f}", "🎂"] {
        let text = character.repeat(100_000);
        let cases = [
            ("no JSON", text.clone()),
            ("no object", format!("\"{text}\"")),
            ("error after a long key", format!("{{\"{text}\": [1, ")),
            (
                "error within a long key",
                format!("{{\"message\": {{\"{text}\": {{\"{text}\": nul"),
            ),
            (
                "long number",
                format!("{{\"size_bytes\": {}.5}}", "1".repeat(100_000)),
            ),
            ("long tail", format!("{{}} {text}")),
        ];
        each_case_async(cases, async |(_, body)| {
            check(&app.api.post_raw("/v3/attachments", &body).await);
        })
        .await;
    }
}

#[tokio::test]
async fn error_about_path_or_query_is_short() {
    let app = TestApp::start().await;
    for text in ["%7F".repeat(3000), "%F0%9F%8E%82".repeat(700)] {
        let cases = [
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
        ];
        each_case_async(cases, async |(method, path)| {
            check(&app.api.request(method, &path, &[], None).await);
        })
        .await;
    }
}

#[tokio::test]
async fn error_about_method_is_short() {
    let app = TestApp::start().await;
    let method = "X".repeat(12_000);
    check(&app.api.request(&method, "/v3/chats", &[], None).await);
}

#[tokio::test]
async fn error_about_authorization_header_is_short() {
    let app = TestApp::start().await;
    let long = "x".repeat(12_000);
    let cases = [
        ("key", format!("Bearer {long}")),
        ("scheme", format!("{long} x")),
    ];
    each_case_async(cases, async |(_, value)| {
        let header = [("authorization", value.as_str())];
        check(&app.anonymous().get_with("/v3/chats", &header).await);
    })
    .await;
}

#[tokio::test]
async fn error_about_content_type_of_upload_is_short() {
    let app = TestApp::start().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let (url, long) = (text(&created, "upload_url"), "x".repeat(12_000));
    let header = [("content-type", long.as_str())];
    let body = Some(b"hello".to_vec());
    check(&app.anonymous().request("PUT", url, &header, body).await);
}

#[tokio::test]
async fn error_about_idempotency_key_header_is_short() {
    let app = TestApp::start().await;
    let long = "x".repeat(12_000);
    let header = [("idempotency-key", long.as_str())];
    let body = json!({"to": [RECIPIENT], "message": {"parts": [{"type": "text", "value": "x"}]}});
    let body = Some(body.to_string().into_bytes());
    check(&app.api.request("POST", "/v3/messages", &header, body).await);
}

#[tokio::test]
async fn reason_of_rejected_upload_is_short() {
    let app = TestApp::start().await;
    let name = format!("{}.pdf", "\u{7f}".repeat(251));
    let created = app.api.create(&name, "application/pdf", 5).await;
    assert_eq!(app.api.put(&created, b"hello").await.status, 200);
    let id = text(&created, "attachment_id");
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{id}"))
        .await
        .expect(200);
    let reason = text(&attachment, "failure_reason");
    assert!(reason.len() < 500, "{reason}");
    let refused = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": id}]))
        .await;
    assert!(refused.bytes.len() <= MAX_BODY, "{}", refused.text());
}
