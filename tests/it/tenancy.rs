//! Tenancy: an id of another partner gets the same response as one that does not exist, byte for
//! byte.

use serde_json::{Value, json};

use haversack_testkit::{
    Api, LINE, RECIPIENT, RIVAL_LINE, Response, TestApp, each_case, source_files, text,
};

const UNKNOWN: &str = "01900000-0000-7000-8000-000000000000";

/// Returns everything that distinguishes a response, without its trace id, date and the requested
/// id.
fn observable(response: &Response, id: &str) -> (u16, String, Vec<(String, String)>) {
    let mut body = response.json.clone();
    if let Some(trace) = body.get_mut("trace_id") {
        *trace = Value::Null;
    }
    let body = if body.is_null() {
        response.text().to_owned()
    } else {
        body.to_string()
    };
    let ignored = ["x-trace-id", "date"];
    let headers = response
        .headers
        .iter()
        .filter(|(name, _)| !ignored.contains(&name.as_str()));
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()));
    (
        response.status.as_u16(),
        body.replace(id, "ID"),
        headers.collect(),
    )
}

/// Makes every call that names an attachment, a chat or a message.
async fn calls(api: &Api, own_chat: &str, kind: &str, id: &str) -> Vec<(String, Response)> {
    let text = json!({"message": {"parts": [{"type": "text", "value": "x"}]}});
    let sticker = json!([{"range": [0, 1], "attachment_id": id}]);
    let of_attachment = [
        ("GET", format!("/v3/attachments/{id}"), None),
        ("DELETE", format!("/v3/attachments/{id}"), None),
        (
            "POST",
            format!("/v3/chats/{own_chat}/messages"),
            Some(json!({"message": {"parts": [{"type": "media", "attachment_id": id}]}})),
        ),
        (
            "POST",
            format!("/v3/chats/{own_chat}/messages"),
            Some(
                json!({"message": {"parts": [{"type": "text", "value": "x", "inline_stickers": sticker}]}}),
            ),
        ),
        (
            "POST",
            format!("/v3/chats/{own_chat}/voicememo"),
            Some(json!({"attachment_id": id})),
        ),
        (
            "POST",
            "/v3/chats".to_owned(),
            Some(
                json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": [{"type": "media", "attachment_id": id}]}}),
            ),
        ),
        (
            "POST",
            "/v3/messages".to_owned(),
            Some(
                json!({"to": [RECIPIENT], "message": {"parts": [{"type": "media", "attachment_id": id}]}}),
            ),
        ),
    ];
    let of_chat = [
        ("GET", format!("/v3/chats/{id}"), None),
        ("GET", format!("/v3/chats/{id}/messages"), None),
        (
            "POST",
            format!("/v3/chats/{id}/messages"),
            Some(text.clone()),
        ),
        ("POST", format!("/v3/chats/{id}/read"), None),
        ("POST", format!("/v3/chats/{id}/typing"), None),
        ("DELETE", format!("/v3/chats/{id}/typing"), None),
        (
            "POST",
            format!("/v3/chats/{id}/voicememo"),
            Some(json!({"attachment_id": UNKNOWN})),
        ),
    ];
    let of_message = [
        ("GET", format!("/v3/messages/{id}"), None),
        ("DELETE", format!("/v3/messages/{id}"), None),
        ("GET", format!("/v3/messages/{id}/thread"), None),
        (
            "POST",
            format!("/v3/chats/{own_chat}/messages"),
            Some(
                json!({"message": {"parts": text["message"]["parts"], "reply_to": {"message_id": id}}}),
            ),
        ),
    ];
    let calls: Vec<_> = match kind {
        "attachment" => of_attachment.into(),
        "chat" => of_chat.into(),
        _ => of_message.into(),
    };
    let mut responses = Vec::new();
    for (method, path, body) in calls {
        let body = body.map(|body| body.to_string().into_bytes());
        responses.push((
            format!("{method} {}", path.replace(id, "ID")),
            api.request(method, &path, &[], body).await,
        ));
    }
    responses
}

#[tokio::test]
async fn id_of_another_partner_gets_response_of_unknown_id() {
    let app = TestApp::start().await;
    let own = app.api.send_text(&[RECIPIENT], "hello").await;
    let own_chat = text(&own, "id");
    let file = app.rival.upload("a.txt", "text/plain", b"hello").await;
    let body = json!({"from": RIVAL_LINE, "to": [RECIPIENT], "message": {"parts": [{"type": "text", "value": "x"}]}});
    let theirs = app.rival.post("/v3/chats", &body).await.expect(201)["chat"].clone();
    let message = text(&theirs["message"], "id");
    let mut unlike = Vec::new();
    for (kind, foreign) in [
        ("attachment", file.id.as_str()),
        ("chat", text(&theirs, "id")),
        ("message", message),
    ] {
        let foreign_responses = calls(&app.api, own_chat, kind, foreign).await;
        let unknown_responses = calls(&app.api, own_chat, kind, UNKNOWN).await;
        for ((call, theirs), (_, unknown)) in foreign_responses.iter().zip(&unknown_responses) {
            assert!(theirs.status.is_client_error(), "{call}: {theirs:?}");
            if observable(theirs, foreign) != observable(unknown, UNKNOWN) {
                unlike.push(format!(
                    "{call}: {:?}\n  unlike {:?}",
                    observable(theirs, foreign),
                    observable(unknown, UNKNOWN)
                ));
            }
        }
    }
    // A URL of another partner's file, a file in another partner's folder, and another partner's
    // line.
    let at = |id: &str| file.url.replace(&file.id, id);
    let send = async |id: &str| {
        app.api
            .send_parts(json!([{"type": "media", "url": at(id)}]))
            .await
    };
    let wrong_folder = async |id: &str| {
        let partner = file.url.split('/').nth(5).expect("partner");
        app.anonymous()
            .get(&file.url.replace(partner, UNKNOWN).replace(&file.id, id))
            .await
    };
    for (call, theirs, unknown) in [
        ("media url", send(&file.id).await, send(UNKNOWN).await),
        (
            "file of another folder",
            wrong_folder(&file.id).await,
            wrong_folder(UNKNOWN).await,
        ),
    ] {
        if observable(&theirs, &file.id) != observable(&unknown, UNKNOWN) {
            unlike.push(format!("{call}: {theirs:?}\n  unlike {unknown:?}"));
        }
    }
    let list = async |line: &str| {
        app.api
            .get(&format!("/v3/chats?from={}", line.replace('+', "%2B")))
            .await
    };
    let (theirs, unknown) = (list(RIVAL_LINE).await, list("+12025550177").await);
    assert_eq!(
        observable(&theirs, RIVAL_LINE),
        observable(&unknown, "+12025550177")
    );
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}

/// A comparison of owners after the query would take measurably longer for existing rows of other
/// partners.
#[test]
fn owner_is_compared_in_the_sql_statement() {
    let mut statements = 0;
    each_case(source_files(), |(file, text)| {
        // `file` is the partner's own part of a URL, which needs no query.
        let compared = text
            .lines()
            .find(|line| line.contains("partner_id ==") && !line.contains("file.partner_id"));
        assert_eq!(compared, None);
        let by_id = text
            .split('"')
            .filter(|text| text.starts_with("SELECT * FROM ") && text.contains("WHERE id = $1"));
        for statement in by_id.filter(|_| file.starts_with("db/")) {
            let is_scoped = statement.contains("partner_id = $2")
                // Ids from a signed URL, the outbox or `haversack gc` need no owner.
                || statement.ends_with("FROM attachments WHERE id = $1")
                || statement.contains("status IN ('pending', 'queued')");
            assert!(is_scoped, "{statement}");
            statements += 1;
        }
    });
    assert!(statements >= 5, "only {statements} statements found");
}
