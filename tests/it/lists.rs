//! Lists of chats and messages, page by page.

use std::collections::HashSet;

use serde_json::{Value, json};

use haversack_testkit::raw::RawConnection;
use haversack_testkit::{
    Api, LINE, RECIPIENT, RIVAL_LINE, SECOND_LINE, TestApp, each_case_async, text, until,
};

fn ids(items: &Value) -> Vec<String> {
    items
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| text(item, "id").to_owned())
        .collect()
}

/// Fetches a page, and returns its ids and the next cursor.
async fn page(
    api: &Api,
    path: &str,
    key: &str,
    cursor: Option<&str>,
) -> (Vec<String>, Option<String>) {
    let joint = if path.contains('?') { '&' } else { '?' };
    let cursor = cursor.map_or(String::new(), |cursor| format!("{joint}cursor={cursor}"));
    let response = api.get(&format!("{path}{cursor}")).await.expect(200);
    (
        ids(&response[key]),
        response["next_cursor"].as_str().map(str::to_owned),
    )
}

#[tokio::test]
async fn chat_pages_are_stable_while_messages_arrive() {
    let app = TestApp::start().await;
    let mut chats = Vec::new();
    for n in 0..9 {
        let chat = app.api.send_text(&[&format!("+1202555011{n}")], "x").await;
        chats.push(text(&chat, "id").to_owned());
    }
    chats.reverse();
    let again = async |chat: &str| {
        let body = json!({"message": {"parts": [{"type": "text", "value": "again"}]}});
        app.api
            .post(&format!("/v3/chats/{chat}/messages"), &body)
            .await
            .expect(202);
    };
    let path = "/v3/chats?limit=3";
    let (mut seen, mut next) = page(&app.api, path, "chats", None).await;
    assert_eq!(seen, chats[..3]);
    // New messages in a chat already listed, in two not listed yet, and in a new one.
    for chat in [&chats[1], &chats[4], &chats[8]] {
        again(chat).await;
    }
    app.api.send_text(&["new@example.com"], "x").await;
    while let Some(cursor) = next {
        let (more, after) = page(&app.api, path, "chats", Some(&cursor)).await;
        seen.extend(more);
        next = after;
        again(&chats[7]).await;
    }
    assert_eq!(
        seen, chats,
        "each chat once, in the order of the first page"
    );
    let (now, _) = page(&app.api, path, "chats", None).await;
    assert_eq!(now[0], chats[7], "a new list has the new order");
}

#[tokio::test]
async fn message_pages_are_newest_first_without_repeats() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "0").await;
    let path = format!("/v3/chats/{}/messages", text(&chat, "id"));
    let send = async |text: String| {
        let body = json!({"message": {"parts": [{"type": "text", "value": text}]}});
        app.api.post(&path, &body).await.expect(202)["message"]["id"]
            .as_str()
            .expect("id")
            .to_owned()
    };
    let mut order = vec![text(&chat["message"], "id").to_owned()];
    for n in 1..7 {
        order.push(send(n.to_string()).await);
    }
    order.reverse();
    let listing = format!("{path}?limit=3");
    let (mut seen, mut next) = page(&app.api, &listing, "messages", None).await;
    assert_eq!(
        app.api
            .delete(&format!("/v3/messages/{}", order[4]))
            .await
            .status,
        204
    );
    while let Some(cursor) = next {
        send("newer".to_owned()).await;
        let (more, after) = page(&app.api, &listing, "messages", Some(&cursor)).await;
        seen.extend(more);
        next = after;
    }
    order.remove(4);
    assert_eq!(seen, order);
    let all = app.api.get(&path).await.expect(200);
    assert_eq!(all["next_cursor"], json!(null));
    let message = app.api.message_with_status(&seen[0], "delivered").await;
    assert_eq!(message["chat_id"], chat["id"]);
    assert_eq!(
        (
            &message["is_from_me"],
            &message["from"],
            &message["is_delivered"]
        ),
        (&json!(true), &json!(LINE), &json!(true))
    );
    each_case_async(
        ["read_at", "effect", "reply_to", "preferred_service"],
        async |key| {
            assert!(
                message.as_object().expect("object").contains_key(key),
                "{key}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn chat_filters_return_matching_chats() {
    let app = TestApp::start().await;
    let one = app.api.send_text(&[RECIPIENT], "x").await["id"].clone();
    let group = app
        .api
        .send_text(&[RECIPIENT, "1ann+x@example.com"], "x")
        .await["id"]
        .clone();
    let second = json!({"from": SECOND_LINE, "to": [RECIPIENT], "message": {"parts": [{"type": "text", "value": "x"}]}});
    let second = app.api.post("/v3/chats", &second).await.expect(201)["chat"]["id"].clone();
    let set = |ids: &[&Value]| {
        ids.iter()
            .map(|id| id.as_str().expect("id").to_owned())
            .collect::<HashSet<_>>()
    };
    each_case_async(
        [
            ("", set(&[&one, &group, &second])),
            ("?from=%2B12025550100", set(&[&one, &group])),
            ("?from=+12025550101", set(&[&second])),
            ("?from=12025550101", set(&[&second])),
            ("?to=1ann%2Bx@example.com", set(&[&group])),
            ("?to=1ann+x@example.com", set(&[&group])),
            ("?to=%2B12025550199&from=12025550100", set(&[&one, &group])),
            ("?to=%2B12025550198", set(&[])),
        ],
        async |(query, expected)| {
            let found = app.api.get(&format!("/v3/chats{query}")).await.expect(200);
            assert_eq!(
                ids(&found["chats"]).into_iter().collect::<HashSet<_>>(),
                expected,
                "{query}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn invalid_chat_filter_returns_documented_code() {
    let app = TestApp::start().await;
    each_case_async(
        [
            (
                format!("?from={}", RIVAL_LINE.trim_start_matches('+')),
                (403, 2006),
            ),
            ("?from=x".to_owned(), (400, 1002)),
            ("?to=x".to_owned(), (400, 1002)),
            ("?limit=0".to_owned(), (400, 1005)),
            ("?limit=101".to_owned(), (400, 1005)),
            ("?limit=x".to_owned(), (400, 1005)),
            ("?cursor=x".to_owned(), (400, 1005)),
        ],
        async |(query, expected)| {
            assert_eq!(
                app.api.get(&format!("/v3/chats{query}")).await.error(),
                expected,
                "{query}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn chats_of_another_partner_are_not_listed() {
    let app = TestApp::start().await;
    app.api.send_text(&[RECIPIENT], "x").await;
    assert_eq!(
        ids(&app.rival.get("/v3/chats").await.expect(200)["chats"]).len(),
        0
    );
}

#[tokio::test]
async fn chat_and_message_of_another_partner_return_404() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "x").await;
    let (id, message) = (text(&chat, "id"), text(&chat["message"], "id"));
    each_case_async(
        [
            ("GET", format!("/v3/chats/{id}"), 2001),
            ("GET", format!("/v3/chats/{id}/messages"), 2001),
            ("POST", format!("/v3/chats/{id}/read"), 2001),
            ("POST", format!("/v3/chats/{id}/typing"), 2001),
            ("DELETE", format!("/v3/chats/{id}/typing"), 2001),
            ("GET", format!("/v3/messages/{message}"), 2002),
            ("GET", format!("/v3/messages/{message}/thread"), 2002),
            ("DELETE", format!("/v3/messages/{message}"), 2002),
        ],
        async |(method, path, code)| {
            assert_eq!(
                app.rival.request(method, &path, &[], None).await.error(),
                (404, code),
                "{method} {path}"
            );
            let nonsense = path.replace(id, "x").replace(message, "x");
            assert_eq!(
                app.api.request(method, &nonsense, &[], None).await.error(),
                (400, 1005),
                "{nonsense}"
            );
            let own = app.api.request(method, &path, &[], None).await;
            assert!(own.status.is_success(), "{method} {path}");
        },
    )
    .await;
    assert_eq!(
        app.api
            .get(&format!("/v3/messages/{message}"))
            .await
            .error(),
        (404, 2002),
        "deleted by the last case"
    );
    assert_eq!(
        app.api
            .get(&format!("/v3/chats/{id}/messages"))
            .await
            .expect(200)["messages"],
        json!([])
    );
}

#[tokio::test]
async fn chat_has_documented_fields() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "x").await;
    let got = app
        .api
        .get(&format!("/v3/chats/{}", text(&chat, "id")))
        .await
        .expect(200);
    assert_eq!(got["handles"], chat["handles"]);
    assert_eq!(got["handles"].as_array().expect("handles").len(), 2);
    assert_eq!(got["handles"][0]["is_me"], true);
    assert_eq!(got["health_status"]["status"], "HEALTHY");
    assert_eq!(
        (
            &got["is_archived"],
            &got["group_chat_icon"],
            &got["is_group"]
        ),
        (&json!(false), &json!(null), &json!(false))
    );
    assert_eq!(chat["message"]["delivery_status"], "pending");
    assert_eq!(chat["message"]["from_handle"], got["handles"][0]);
}

#[tokio::test]
async fn phone_numbers_have_documented_fields() {
    let app = TestApp::start().await;
    let numbers = app.api.get("/v3/phone_numbers").await.expect(200);
    assert_eq!(numbers["phone_numbers"][0]["phone_number"], LINE);
    assert_eq!(
        numbers["phone_numbers"][1]["reputation"]["status"],
        "HEALTHY"
    );
    let older = app
        .api
        .get("/api/partner/v3/phonenumbers")
        .await
        .expect(200);
    assert_eq!(older["phone_numbers"][1]["phone_number"], SECOND_LINE);
    assert_eq!(
        older["phone_numbers"][0]["capabilities"],
        json!({"mms": true, "sms": true, "voice": false})
    );
}

/// Returns parts with this number of texts of 40 kB each.
async fn large_parts(app: &TestApp, texts: usize) -> Value {
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let text = json!({"type": "text", "value": "\u{1d11e}".repeat(10_000)});
    let media = json!({"type": "media", "attachment_id": file.id});
    Value::from(
        (0..texts)
            .flat_map(|_| [text.clone(), media.clone()])
            .collect::<Vec<_>>(),
    )
}

#[tokio::test]
async fn page_of_large_messages_is_at_most_1_mib_and_complete() {
    let app = TestApp::start().await;
    // Three messages of 280 kB fit into 1 MiB.
    let parts = large_parts(&app, 7).await;
    let first = app.api.send_parts(parts.clone()).await.expect(201)["chat"].clone();
    let path = format!("/v3/chats/{}/messages", text(&first, "id"));
    let root = text(&first["message"], "id").to_owned();
    let mut sent = vec![root.clone()];
    for _ in 1..8 {
        let body = json!({"message": {"parts": parts, "reply_to": {"message_id": root}}});
        let response = app.api.post(&path, &body).await.expect(202);
        sent.push(text(&response["message"], "id").to_owned());
    }
    let newest_first: Vec<_> = sent.iter().rev().cloned().collect();
    let thread = format!("/v3/messages/{root}/thread");
    for (listing, expected) in [
        (format!("{path}?limit=100"), &newest_first),
        (format!("{thread}?limit=100"), &sent),
        (format!("{thread}?limit=100&order=desc"), &newest_first),
    ] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let response = app.api.get(&format!("{listing}{cursor}")).await;
            assert!(
                response.bytes.len() <= 1024 * 1024,
                "{} bytes",
                response.bytes.len()
            );
            let response = response.expect(200);
            seen.extend(ids(&response["messages"]));
            pages += 1;
            let Some(next) = response["next_cursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((&seen, pages), (expected, 3), "{listing}");
    }
    let (two, next) = page(&app.api, &format!("{path}?limit=2"), "messages", None).await;
    assert_eq!((two.len(), next.is_some()), (2, true), "the limit applies");
}

#[tokio::test]
async fn message_above_1_mib_is_a_page_of_its_own() {
    let app = TestApp::start().await;
    let parts = large_parts(&app, 40).await;
    let chat = app.api.send_parts(parts.clone()).await.expect(201)["chat"].clone();
    let path = format!("/v3/chats/{}/messages", text(&chat, "id"));
    let second = app
        .api
        .post(&path, &json!({"message": {"parts": parts}}))
        .await
        .expect(202);
    let (seen, next) = page(&app.api, &path, "messages", None).await;
    assert_eq!(seen, [text(&second["message"], "id")]);
    let (seen, next) = page(&app.api, &path, "messages", next.as_deref()).await;
    assert_eq!(
        (seen, next),
        (vec![text(&chat["message"], "id").to_owned()], None)
    );
}

#[tokio::test]
async fn page_of_large_chats_is_at_most_1_mib_and_complete() {
    let app = TestApp::start().await;
    let mut created = Vec::new();
    for chat in 0..46 {
        let to: Vec<_> = (0..31)
            .map(|n| format!("{}{chat:02}{n:02}@e.example", "x".repeat(240)))
            .collect();
        let chat = app
            .api
            .send_text(&to.iter().map(String::as_str).collect::<Vec<_>>(), "x")
            .await;
        created.push(text(&chat, "id").to_owned());
    }
    created.reverse();
    let whole = app.api.get("/v3/chats?limit=100").await;
    assert!(
        whole.bytes.len() <= 1024 * 1024,
        "{} bytes",
        whole.bytes.len()
    );
    let (mut seen, mut next) = page(&app.api, "/v3/chats?limit=100", "chats", None).await;
    assert!(next.is_some(), "{} of 46", seen.len());
    while let Some(cursor) = next {
        let (more, after) = page(&app.api, "/v3/chats?limit=100", "chats", Some(&cursor)).await;
        seen.extend(more);
        next = after;
    }
    assert_eq!(seen, created);
}

#[tokio::test]
async fn large_response_is_spooled_to_a_file_until_read() {
    let app = TestApp::start().await;
    let parts = large_parts(&app, 50).await;
    let body = json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": parts, "idempotency_key": "k"}});
    let sent = app.api.post("/v3/chats", &body).await;
    assert!(sent.bytes.len() > 2_000_000, "the largest message");
    assert_eq!(sent.header("content-length"), sent.bytes.len().to_string());
    assert_eq!(app.budget_peak("temporary_bytes"), sent.bytes.len() as u64);
    let stored = app.api.post("/v3/chats", &body).await;
    assert!(stored.bytes == sent.bytes, "the stored response");
    let id = text(&sent.json["chat"]["message"], "id").to_owned();
    // The message no longer changes after delivery.
    app.api.message_with_status(&id, "delivered").await;
    let read = app.api.get(&format!("/v3/messages/{id}")).await;
    assert_eq!(read.json["parts"], sent.json["chat"]["message"]["parts"]);
    until(async || (app.budget_used("temporary_bytes") == 0).then_some(())).await;

    let head = "Host: x\r\nAuthorization: Bearer acme-key-0123456789\r\n\r\n";
    let mut unread = Vec::new();
    for count in 1..=3 {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(format!("GET /v3/messages/{id} HTTP/1.1\r\n{head}"))
            .await;
        raw.read_until("\r\n\r\n").await;
        assert_eq!(
            app.budget_used("temporary_bytes"),
            count * read.bytes.len() as u64
        );
        unread.push(raw);
    }
    drop(unread);
    until(async || (app.budget_used("temporary_bytes") == 0).then_some(())).await;
    let left = std::fs::read_dir(app.folder.path())
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name());
    assert!(
        left.into_iter()
            .all(|name| !name.to_string_lossy().starts_with(".tmp")),
        "no temporary file remains"
    );
}
