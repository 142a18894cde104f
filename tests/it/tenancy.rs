//! Another partner's id is answered as one that does not exist, to the letter.

use serde_json::{Value, json};

use haversack_testkit::{Api, LINE, RECIPIENT, RIVAL_LINE, Response, TestApp};

const UNKNOWN: &str = "01900000-0000-7000-8000-000000000000";

/// All that tells one answer from another, but for the trace id and the id that was asked for.
fn told(answer: &Response, id: &str) -> (u16, String, Vec<(String, String)>) {
    let mut body = answer.json.clone();
    if let Some(trace) = body.get_mut("trace_id") {
        *trace = Value::Null;
    }
    let body = if body.is_null() {
        answer.text().to_owned()
    } else {
        body.to_string()
    };
    let unlike = ["x-trace-id", "date"];
    let headers = answer
        .headers
        .iter()
        .filter(|(name, _)| !unlike.contains(&name.as_str()));
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()));
    (
        answer.status.as_u16(),
        body.replace(id, "ID"),
        headers.collect(),
    )
}

/// Every call that names an attachment, a chat or a message.
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
    let mut answers = Vec::new();
    for (method, path, body) in calls {
        let body = body.map(|body| body.to_string().into_bytes());
        answers.push((
            format!("{method} {}", path.replace(id, "ID")),
            api.request(method, &path, &[], body).await,
        ));
    }
    answers
}

#[tokio::test]
async fn foreign_id_is_answered_as_an_unknown_one_to_the_letter() {
    let app = TestApp::start().await;
    let own = app.api.send_text(&[RECIPIENT], "hello").await;
    let own_chat = own["id"].as_str().expect("id");
    let file = app.rival.upload("a.txt", "text/plain", b"hello").await;
    let body = json!({"from": RIVAL_LINE, "to": [RECIPIENT], "message": {"parts": [{"type": "text", "value": "x"}]}});
    let theirs = app.rival.post("/v3/chats", &body).await.expect(201)["chat"].clone();
    let message = theirs["message"]["id"].as_str().expect("id");
    let mut unlike = Vec::new();
    for (kind, foreign) in [
        ("attachment", file.id.as_str()),
        ("chat", theirs["id"].as_str().expect("id")),
        ("message", message),
    ] {
        let foreign_answers = calls(&app.api, own_chat, kind, foreign).await;
        let unknown_answers = calls(&app.api, own_chat, kind, UNKNOWN).await;
        for ((call, theirs), (_, unknown)) in foreign_answers.iter().zip(&unknown_answers) {
            assert!(theirs.status.is_client_error(), "{call}: {theirs:?}");
            if told(theirs, foreign) != told(unknown, UNKNOWN) {
                unlike.push(format!(
                    "{call}: {:?}\n  unlike {:?}",
                    told(theirs, foreign),
                    told(unknown, UNKNOWN)
                ));
            }
        }
    }
    // A file under another partner's folder, and a line of another.
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
        if told(&theirs, &file.id) != told(&unknown, UNKNOWN) {
            unlike.push(format!("{call}: {theirs:?}\n  unlike {unknown:?}"));
        }
    }
    let list = async |line: &str| {
        app.api
            .get(&format!("/v3/chats?from={}", line.replace('+', "%2B")))
            .await
    };
    let (theirs, nobodys) = (list(RIVAL_LINE).await, list("+12025550177").await);
    assert_eq!(told(&theirs, RIVAL_LINE), told(&nobodys, "+12025550177"));
    assert!(unlike.is_empty(), "{}", unlike.join("\n"));
}

/// What takes another's row and then compares owners takes longer when there is such a row.
#[test]
fn owners_are_compared_in_the_statement_and_not_after_it() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/service");
    let mut compared = Vec::new();
    for file in std::fs::read_dir(folder).expect("folder") {
        let path = file.expect("entry").path();
        for (at, line) in std::fs::read_to_string(&path)
            .expect("source")
            .lines()
            .enumerate()
        {
            // A URL's own partner is compared before anything is looked up, and after it with what was found by owner.
            let is_of_url = line.contains("file.partner_id");
            if line.contains("partner_id ==") && !is_of_url {
                compared.push(format!("{}:{}: {}", path.display(), at + 1, line.trim()));
            }
        }
    }
    assert!(compared.is_empty(), "{}", compared.join("\n"));

    let tables = ["attachments.rs", "chats.rs", "messages.rs"];
    for table in tables {
        let source = std::fs::read_to_string(format!("{folder}/../db/{table}")).expect("source");
        for statement in source
            .split('"')
            .filter(|text| text.starts_with("SELECT * FROM ") && text.contains("WHERE id = $1"))
        {
            let is_ours = statement.contains("partner_id = $2")
                // By those who were given the id by us: the URL's signature, the outbox, `haversack gc`.
                || statement.ends_with("FROM attachments WHERE id = $1")
                || statement.contains("status IN ('pending', 'queued')");
            assert!(is_ours, "{table}: {statement}");
        }
    }
}
