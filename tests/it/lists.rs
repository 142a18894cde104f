//! Reading chats and messages, page by page.

use std::collections::HashSet;

use serde_json::{Value, json};

use haversack_testkit::raw::RawConnection;
use haversack_testkit::{Api, LINE, RECIPIENT, RIVAL_LINE, SECOND_LINE, TestApp, until};

fn ids(items: &Value) -> Vec<String> {
    items
        .as_array()
        .expect("a list")
        .iter()
        .map(|item| item["id"].as_str().expect("id").to_owned())
        .collect()
}

async fn page(
    api: &Api,
    path: &str,
    key: &str,
    cursor: Option<&str>,
) -> (Vec<String>, Option<String>) {
    let joint = if path.contains('?') { '&' } else { '?' };
    let cursor = cursor.map_or(String::new(), |cursor| format!("{joint}cursor={cursor}"));
    let answer = api.get(&format!("{path}{cursor}")).await.expect(200);
    (
        ids(&answer[key]),
        answer["next_cursor"].as_str().map(str::to_owned),
    )
}

#[tokio::test]
async fn chats_stay_right_while_messages_arrive_between_pages() {
    let app = TestApp::start().await;
    let mut chats = Vec::new();
    for n in 0..9 {
        let chat = app.api.send_text(&[&format!("+1202555011{n}")], "x").await;
        chats.push(chat["id"].as_str().expect("id").to_owned());
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
    // One that was seen, two that are still to come, and a new one.
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
    assert_eq!(seen, chats, "each once, in the order of the first page");
    let (now, _) = page(&app.api, path, "chats", None).await;
    assert_eq!(now[0], chats[7], "a new listing has the new order");
}

#[tokio::test]
async fn messages_come_newest_first_and_none_twice() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "0").await;
    let path = format!("/v3/chats/{}/messages", chat["id"].as_str().expect("id"));
    let send = async |text: String| {
        let body = json!({"message": {"parts": [{"type": "text", "value": text}]}});
        app.api.post(&path, &body).await.expect(202)["message"]["id"]
            .as_str()
            .expect("id")
            .to_owned()
    };
    let mut order = vec![chat["message"]["id"].as_str().expect("id").to_owned()];
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
    for key in ["read_at", "effect", "reply_to", "preferred_service"] {
        assert!(
            message.as_object().expect("object").contains_key(key),
            "{key}"
        );
    }
}

#[tokio::test]
async fn chats_can_be_filtered() {
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
    for (query, expected) in [
        ("", set(&[&one, &group, &second])),
        ("?from=%2B12025550100", set(&[&one, &group])),
        ("?from=+12025550101", set(&[&second])),
        ("?from=12025550101", set(&[&second])),
        ("?to=1ann%2Bx@example.com", set(&[&group])),
        ("?to=1ann+x@example.com", set(&[&group])),
        ("?to=%2B12025550199&from=12025550100", set(&[&one, &group])),
        ("?to=%2B12025550198", set(&[])),
    ] {
        let found = app.api.get(&format!("/v3/chats{query}")).await.expect(200);
        assert_eq!(
            ids(&found["chats"]).into_iter().collect::<HashSet<_>>(),
            expected,
            "{query}"
        );
    }
    for (query, expected) in [
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
    ] {
        assert_eq!(
            app.api.get(&format!("/v3/chats{query}")).await.error(),
            expected,
            "{query}"
        );
    }
    assert_eq!(
        ids(&app.rival.get("/v3/chats").await.expect(200)["chats"]).len(),
        0
    );
}

#[tokio::test]
async fn what_is_anothers_is_unknown() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "x").await;
    let (id, message) = (
        chat["id"].as_str().expect("id"),
        chat["message"]["id"].as_str().expect("id"),
    );
    for (method, path, code) in [
        ("GET", format!("/v3/chats/{id}"), 2001),
        ("GET", format!("/v3/chats/{id}/messages"), 2001),
        ("POST", format!("/v3/chats/{id}/read"), 2001),
        ("POST", format!("/v3/chats/{id}/typing"), 2001),
        ("DELETE", format!("/v3/chats/{id}/typing"), 2001),
        ("GET", format!("/v3/messages/{message}"), 2002),
        ("GET", format!("/v3/messages/{message}/thread"), 2002),
        ("DELETE", format!("/v3/messages/{message}"), 2002),
    ] {
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
    }
    assert_eq!(
        app.api
            .get(&format!("/v3/messages/{message}"))
            .await
            .error(),
        (404, 2002),
        "deleted just now"
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
async fn chats_and_numbers_look_as_clients_expect() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "x").await;
    let got = app
        .api
        .get(&format!("/v3/chats/{}", chat["id"].as_str().expect("id")))
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

/// Parts of about `texts` times 40 kB.
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
async fn page_of_large_messages_is_bounded_and_paging_misses_none() {
    let app = TestApp::start().await;
    // 280 kB each: three fit into 1 MiB.
    let parts = large_parts(&app, 7).await;
    let first = app.api.send_parts(parts.clone()).await.expect(201)["chat"].clone();
    let path = format!("/v3/chats/{}/messages", first["id"].as_str().expect("id"));
    let root = first["message"]["id"].as_str().expect("id").to_owned();
    let mut sent = vec![root.clone()];
    for _ in 1..8 {
        let body = json!({"message": {"parts": parts, "reply_to": {"message_id": root}}});
        let answer = app.api.post(&path, &body).await.expect(202);
        sent.push(answer["message"]["id"].as_str().expect("id").to_owned());
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
            let answer = app.api.get(&format!("{listing}{cursor}")).await;
            assert!(
                answer.bytes.len() <= 1024 * 1024,
                "{} bytes",
                answer.bytes.len()
            );
            let answer = answer.expect(200);
            seen.extend(ids(&answer["messages"]));
            pages += 1;
            let Some(next) = answer["next_cursor"].as_str() else {
                break;
            };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((&seen, pages), (expected, 3), "{listing}");
    }
    let (two, next) = page(&app.api, &format!("{path}?limit=2"), "messages", None).await;
    assert_eq!(
        (two.len(), next.is_some()),
        (2, true),
        "the limit still counts"
    );
}

#[tokio::test]
async fn page_has_a_message_that_is_larger_than_a_page() {
    let app = TestApp::start().await;
    let parts = large_parts(&app, 40).await;
    let chat = app.api.send_parts(parts.clone()).await.expect(201)["chat"].clone();
    let path = format!("/v3/chats/{}/messages", chat["id"].as_str().expect("id"));
    let second = app
        .api
        .post(&path, &json!({"message": {"parts": parts}}))
        .await
        .expect(202);
    let (seen, next) = page(&app.api, &path, "messages", None).await;
    assert_eq!(seen, [second["message"]["id"].as_str().expect("id")]);
    let (seen, next) = page(&app.api, &path, "messages", next.as_deref()).await;
    assert_eq!(
        (seen, next),
        (
            vec![chat["message"]["id"].as_str().expect("id").to_owned()],
            None
        )
    );
}

#[tokio::test]
async fn page_of_large_chats_is_bounded_and_paging_misses_none() {
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
        created.push(chat["id"].as_str().expect("id").to_owned());
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
async fn large_answer_is_in_a_file_until_it_was_read() {
    let app = TestApp::start().await;
    let parts = large_parts(&app, 50).await;
    let body = json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": parts, "idempotency_key": "k"}});
    let sent = app.api.post("/v3/chats", &body).await;
    assert!(sent.bytes.len() > 2_000_000, "the largest message");
    assert_eq!(sent.header("content-length"), sent.bytes.len().to_string());
    assert_eq!(app.budget_peak("temporary_bytes"), sent.bytes.len() as u64);
    let kept = app.api.post("/v3/chats", &body).await;
    assert!(kept.bytes == sent.bytes, "the answer that was kept");
    let id = sent.json["chat"]["message"]["id"]
        .as_str()
        .expect("id")
        .to_owned();
    // It does not change any more.
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
        "no name is left"
    );
}
