//! Sends: validation and its order, chats, idempotency keys, the rate limit and threads.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use haversack_testkit::{
    Api, LINE, RECIPIENT, RIVAL_LINE, SECOND_LINE, TestApp, corpus, each_case_async, text,
};

/// A well-formed id that nothing has.
const UNKNOWN: &str = "01990000-0000-7000-8000-000000000001";

fn text_part(value: &str) -> Value {
    json!({"type": "text", "value": value})
}

/// Returns a body for `POST /v3/chats`.
fn chat(parts: &Value) -> Value {
    json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": parts}})
}

/// Counts the chats.
async fn chats(api: &Api) -> usize {
    api.get("/v3/chats?limit=100").await.expect(200)["chats"]
        .as_array()
        .expect("chats")
        .len()
}

/// Returns invalid bodies of `POST /v3/chats`, each with the error of its first violation.
fn invalid_sends() -> Vec<(Value, (u16, u64))> {
    let message = json!({"parts": [text_part("hi")]});
    vec![
        (json!({"from": 5}), (400, 1003)),
        (
            json!({"from": LINE, "to": RECIPIENT, "message": message}),
            (400, 1003),
        ),
        (
            json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": [5]}}),
            (400, 1003),
        ),
        (json!({"to": [RECIPIENT], "message": message}), (400, 1001)),
        (
            json!({"from": "", "to": ["x"], "message": message}),
            (400, 1001),
        ),
        (
            json!({"from": "x", "to": [], "message": message}),
            (400, 1001),
        ),
        (json!({"from": "x", "to": [RECIPIENT]}), (400, 1001)),
        (
            json!({"from": "12025550100", "to": [RECIPIENT], "message": {"parts": []}}),
            (400, 1002),
        ),
        (
            json!({"from": LINE, "to": ["2025550199"], "message": message}),
            (400, 1002),
        ),
        (
            json!({"from": LINE, "to": [LINE], "message": message}),
            (400, 1005),
        ),
        (
            json!({"from": LINE, "to": [RECIPIENT], "message": {}}),
            (400, 1001),
        ),
        (
            json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": null, "preferred_service": "SMS"}}),
            (400, 1004),
        ),
        (
            json!({"from": LINE, "to": [RECIPIENT], "message": message, "override_optout": "yes"}),
            (400, 1003),
        ),
        (
            json!({"from": RIVAL_LINE, "to": [RECIPIENT], "message": {"parts": []}}),
            (400, 1004),
        ),
        (
            json!({"from": RIVAL_LINE, "to": [RECIPIENT], "message": message}),
            (403, 2006),
        ),
        (
            json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": [text_part("x")], "preferred_service": "Fax"}}),
            (400, 1005),
        ),
        (
            json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": [text_part("x")], "effect": {"name": "boom"}}}),
            (400, 1005),
        ),
        (
            json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": [text_part("x")], "experience": {}}}),
            (403, 2011),
        ),
        (
            json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": [text_part("x")], "idempotency_key": "k".repeat(256)}}),
            (400, 1005),
        ),
    ]
}

#[tokio::test]
async fn invalid_send_returns_code_of_first_violation() {
    let app = TestApp::start().await;
    each_case_async(invalid_sends(), async |(body, expected)| {
        let response = app.api.post("/v3/chats", &body).await;
        assert_eq!(response.error(), expected, "{body} {}", response.message());
    })
    .await;
}

#[tokio::test]
async fn more_than_31_recipients_return_400() {
    let app = TestApp::start().await;
    let message = json!({"parts": [text_part("hi")]});
    let many: Vec<String> = (0..32)
        .map(|n| format!("+120255501{n:02}"))
        .filter(|number| number != LINE)
        .collect();
    let to: Vec<&String> = many.iter().chain(std::iter::once(&many[0])).collect();
    let response = app
        .api
        .post(
            "/v3/chats",
            &json!({"from": LINE, "to": to, "message": message}),
        )
        .await;
    assert_eq!(
        response.status, 201,
        "31 distinct recipients, one of them twice: {response:?}"
    );
    let mut more = many.clone();
    more.push("someone@example.com".to_owned());
    assert_eq!(
        app.api
            .post(
                "/v3/chats",
                &json!({"from": LINE, "to": more, "message": message})
            )
            .await
            .error(),
        (400, 1005)
    );
    assert_eq!(chats(&app.api).await, 1, "a failed send creates no chat");
}

#[tokio::test]
async fn invalid_parts_return_documented_code() {
    let app = TestApp::start().await;
    let media = |id: &str| json!({"type": "media", "attachment_id": id});
    let pending = app.api.create("a.txt", "text/plain", 5).await;
    let rival = app.rival.upload("a.txt", "text/plain", b"hello").await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let external: Vec<Value> = (0..41)
        .map(|n| json!({"type": "media", "url": format!("https://a.example/{n}")}))
        .collect();
    each_case_async([
        (json!([]), (400, 1004)),
        (json!([{}]), (400, 1004)),
        (json!([{"type": "hologram"}]), (400, 1004)),
        (json!([{"type": "text"}]), (400, 1004)),
        (json!([text_part("")]), (400, 1004)),
        (json!([text_part(&"x".repeat(10_001))]), (400, 1004)),
        (json!([text_part("a"), text_part("b")]), (400, 1004)),
        (json!(vec![media(&file.id); 101]), (400, 1004)),
        (
            json!([{"type": "link", "value": "https://a.example"}, media(&file.id)]),
            (400, 1004),
        ),
        (
            json!([{"type": "link", "value": "ftp://a.example"}]),
            (400, 1004),
        ),
        (json!([{"type": "media"}]), (400, 1004)),
        (
            json!([{"type": "media", "url": "https://a.example/x", "attachment_id": file.id}]),
            (400, 1004),
        ),
        (json!(external), (400, 1004)),
        (
            json!([{"type": "text", "value": "hi", "mention_range": [0, 1]}]),
            (400, 1004),
        ),
        (
            json!([{"type": "text", "value": "hi", "text_decorations": [{"range": [0, 3], "style": "bold"}]}]),
            (400, 1004),
        ),
        (
            json!([{"type": "link", "value": "https://a.example"}]),
            (400, 1005),
        ),
        (json!([text_part("see www.example.com")]), (400, 1005)),
        (
            json!([{"type": "media", "url": "http://a.example/x"}]),
            (400, 1005),
        ),
        (json!([{"type": "media", "url": "nonsense"}]), (400, 1005)),
        (json!([media("nonsense")]), (400, 1005)),
        (
            json!([{"type": "media", "url": "https://a.example:22/x"}]),
            (500, 5002),
        ),
        (json!([{"type": "imessage_app"}]), (403, 2011)),
        (
            json!([{"type": "text", "value": "Juan", "mention": RECIPIENT}]),
            (409, 2023),
        ),
        (json!([media(UNKNOWN)]), (404, 2003)),
        (json!([media(&rival.id)]), (404, 2003)),
        (json!([media(text(&pending, "attachment_id"))]), (404, 2007)),
        (json!([media(UNKNOWN), text_part("")]), (400, 1004)),
    ], async |(parts, expected)| {
        let response = app.api.send_parts(parts.clone()).await;
        assert_eq!(response.error(), expected, "{parts} {}", response.message());
    })
    .await;
    assert_eq!(chats(&app.api).await, 0);
}

#[tokio::test]
async fn parts_are_returned_in_order_with_all_fields() {
    let app = TestApp::start().await;
    let media = |id: &str| json!({"type": "media", "attachment_id": id});
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let response = app
        .api
        .send_parts(json!([
            text_part("a"),
            media(&file.id),
            text_part(" "),
            media(&file.id)
        ]))
        .await
        .expect(201);
    let parts = &response["chat"]["message"]["parts"];
    assert_eq!(
        parts[0],
        json!({"type": "text", "value": "a", "text_decorations": null, "inline_stickers": null,
        "mention": null, "mention_range": null, "mentions": null, "reactions": null})
    );
    assert_eq!(
        parts[1],
        json!({"type": "media", "id": file.id, "url": file.url, "filename": "a.txt",
        "mime_type": "text/plain", "size_bytes": 5, "reactions": null})
    );
    assert_eq!(parts[3], parts[1]);
}

#[tokio::test]
async fn text_decorations_stickers_and_mentions_are_returned() {
    let app = TestApp::start().await;
    let file = app
        .api
        .upload("a.png", "image/png", &corpus("tiny.png"))
        .await;
    let part = json!({"type": "text", "value": "Hi 🥤",
        "text_decorations": [{"range": [0, 2], "style": "bold"}],
        "inline_stickers": [{"range": [3, 5], "url": file.url}]});
    let sent = app.api.send_parts(json!([part])).await.expect(201);
    let stored = &sent["chat"]["message"]["parts"][0];
    assert_eq!(
        stored["text_decorations"],
        json!([{"range": [0, 2], "style": "bold"}])
    );
    assert_eq!(
        stored["inline_stickers"],
        json!([{"range": [3, 5], "id": file.id}])
    );
    let rival = app
        .rival
        .upload("a.png", "image/png", &corpus("tiny.png"))
        .await;
    let part = json!({"type": "text", "value": "x", "inline_stickers": [{"range": [0, 1], "url": rival.url}]});
    assert_eq!(app.api.send_parts(json!([part])).await.error(), (404, 2003));

    let mention =
        json!({"type": "text", "value": "Hey Juan", "mention": RECIPIENT, "mention_range": [4, 8]});
    let group = json!({"from": LINE, "to": [RECIPIENT, "ann@example.com"], "message": {"parts": [mention]}});
    let sent = app.api.post("/v3/chats", &group).await.expect(201);
    let stored = &sent["chat"]["message"]["parts"][0];
    assert_eq!(
        stored["mentions"],
        json!([{"handle": RECIPIENT, "is_me": false, "range": [4, 8]}])
    );
    assert_eq!(sent["chat"]["is_group"], true);
    assert_eq!(
        sent["chat"]["display_name"],
        "+12025550199, ann@example.com"
    );
}

#[tokio::test]
async fn effect_is_kept_for_imessage_only() {
    let app = TestApp::start().await;
    let send = async |effect: Value, service: Value| {
        let message =
            json!({"parts": [text_part("x")], "effect": effect, "preferred_service": service});
        app.api
            .post(
                "/v3/chats",
                &json!({"from": LINE, "to": [RECIPIENT], "message": message}),
            )
            .await
    };
    let slam = json!({"type": "bubble", "name": "slam"});
    each_case_async(
        [
            (slam.clone(), json!(null), slam.clone()),
            (json!({"name": "slam"}), json!("iMessage"), slam.clone()),
            (slam.clone(), json!("SMS"), json!(null)),
            (json!({"bubble_effect": "slam"}), json!(null), json!(null)),
        ],
        async |(effect, service, stored)| {
            let response = send(effect.clone(), service).await.expect(201);
            assert_eq!(response["chat"]["message"]["effect"], stored, "{effect}");
        },
    )
    .await;
    let invalid = [
        json!({"type": "sound"}),
        json!({"type": "bubble"}),
        json!({"type": "screen", "name": "slam"}),
    ];
    each_case_async(invalid, async |effect| {
        assert_eq!(send(effect, json!(null)).await.error(), (400, 1005));
    })
    .await;
}

#[tokio::test]
async fn same_recipients_in_any_order_are_one_chat() {
    let app = TestApp::start().await;
    let first = app
        .api
        .send_text(&[RECIPIENT, "Ann@Example.com"], "one")
        .await;
    let again = app
        .api
        .send_text(
            &["ann@example.com", RECIPIENT, RECIPIENT],
            "see https://a.example",
        )
        .await;
    assert_eq!(
        first["id"], again["id"],
        "a URL is allowed in an existing chat"
    );
    assert_ne!(first["message"]["id"], again["message"]["id"]);
    assert_eq!(first["handles"], again["handles"]);
    let other = app.api.send_text(&[RECIPIENT], "one").await;
    assert_ne!(first["id"], other["id"]);
    let body =
        json!({"from": SECOND_LINE, "to": [RECIPIENT], "message": {"parts": [text_part("x")]}});
    assert_ne!(
        app.api.post("/v3/chats", &body).await.expect(201)["chat"]["id"],
        other["id"]
    );

    let id = text(&other, "id");
    let link = json!({"message": {"parts": [{"type": "link", "value": "https://a.example"}]}});
    assert_eq!(
        app.api
            .post(&format!("/v3/chats/{id}/messages"), &link)
            .await
            .status,
        202
    );
    for (path, expected) in [
        (format!("/v3/chats/{UNKNOWN}/messages"), (404, 2001)),
        ("/v3/chats/nonsense/messages".to_owned(), (400, 1005)),
    ] {
        assert_eq!(app.api.post(&path, &link).await.error(), expected);
    }
    assert_eq!(
        app.rival
            .post(&format!("/v3/chats/{id}/messages"), &link)
            .await
            .error(),
        (404, 2001)
    );
}

#[tokio::test]
async fn concurrent_sends_create_one_chat() {
    let app = TestApp::start().await;
    let (body, path) = (chat(&json!([text_part("hi")])), "/v3/chats");
    let responses = join_all((0..20).map(|_| app.api.post(path, &body))).await;
    let first = &responses[0].json["chat"]["id"];
    assert!(
        responses
            .iter()
            .all(|response| response.status == 201 && response.json["chat"]["id"] == *first)
    );
    assert_eq!(chats(&app.api).await, 1);
}

#[tokio::test]
async fn message_without_from_uses_active_or_best_line() {
    let app = TestApp::start().await;
    let body = |exclude: Value| json!({"to": [RECIPIENT], "message": {"parts": [text_part("www.example.com")]}, "exclude_from": exclude});
    let new = app
        .api
        .post("/v3/messages", &body(json!(null)))
        .await
        .expect(202);
    assert_eq!(new["from"], LINE);
    assert_eq!(new["created_new_chat"], true);
    assert_eq!(
        new["from_selection"],
        json!({"reason": "new_best_number", "reused_existing_chat": false})
    );
    let reused = app
        .api
        .post("/v3/messages", &body(json!([SECOND_LINE])))
        .await
        .expect(202);
    assert_eq!(reused["chat_id"], new["chat_id"]);
    assert_eq!(
        reused["from_selection"],
        json!({"reason": "reused_active_chat", "reused_existing_chat": true})
    );
    let other = app
        .api
        .post("/v3/messages", &body(json!([LINE])))
        .await
        .expect(202);
    assert_eq!(
        (other["from"].as_str(), other["previous_chat_id"].as_str()),
        (Some(SECOND_LINE), new["chat_id"].as_str())
    );
    assert_eq!(other["from_selection"]["reason"], "failover_flagged");
    let latest = app
        .api
        .post("/v3/messages", &body(json!([])))
        .await
        .expect(202);
    assert_eq!(
        latest["chat_id"], other["chat_id"],
        "the most recently active chat"
    );
    assert_eq!(
        app.api
            .post("/v3/messages", &body(json!([LINE, SECOND_LINE])))
            .await
            .error(),
        (400, 1005)
    );
    assert_eq!(
        app.api
            .post("/v3/messages", &body(json!(["x"])))
            .await
            .error(),
        (400, 1002)
    );
    assert_eq!(
        app.api
            .post("/v3/messages", &json!({"message": {}}))
            .await
            .error(),
        (400, 1001)
    );
}

#[tokio::test]
async fn repeated_idempotency_key_returns_stored_response() {
    let app = TestApp::start().await;
    let body = |value: &str| json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": [text_part(value)], "idempotency_key": "k1"}});
    let first = app.api.post("/v3/chats", &body("one")).await;
    assert_eq!(first.status, 201);
    let chat_id = text(&first.json["chat"], "id").to_owned();
    for (path, other) in [
        ("/v3/chats".to_owned(), body("two")),
        (
            "/v3/chats".to_owned(),
            json!({"message": {"idempotency_key": "k1"}}),
        ),
        (
            format!("/v3/chats/{chat_id}/messages"),
            json!({"message": {"parts": [text_part("x")], "idempotency_key": "k1"}}),
        ),
    ] {
        let again = app.api.post(&path, &other).await;
        assert_eq!(
            (again.status, &again.bytes),
            (first.status, &first.bytes),
            "{path}"
        );
    }
    let header = [
        ("idempotency-key", "k1"),
        ("content-type", "application/json"),
    ];
    // An empty key in the body counts as none.
    let by_header =
        json!({"to": [RECIPIENT], "message": {"parts": [text_part("x")], "idempotency_key": ""}})
            .to_string();
    let again = app
        .api
        .request("POST", "/v3/messages", &header, Some(by_header.into()))
        .await;
    assert_eq!(again.bytes, first.bytes);
    let listed = app
        .api
        .get(&format!("/v3/chats/{chat_id}/messages"))
        .await
        .expect(200);
    assert_eq!(listed["messages"].as_array().expect("messages").len(), 1);

    let mut foreign = body("one");
    foreign["from"] = json!(RIVAL_LINE);
    assert_eq!(
        app.rival.post("/v3/chats", &foreign).await.status,
        201,
        "keys are separate per partner"
    );

    let message = text(&first.json["chat"]["message"], "id");
    assert_eq!(
        app.api
            .delete(&format!("/v3/messages/{message}"))
            .await
            .status,
        204
    );
    assert_eq!(
        app.api.post("/v3/chats", &body("one")).await.error(),
        (404, 2002),
        "the message is not sent again"
    );
}

#[tokio::test]
async fn idempotency_key_header_may_be_any_text() {
    let app = TestApp::start().await;
    let body = json!({"to": [RECIPIENT], "message": {"parts": [text_part("x")]}}).to_string();
    let send = async || {
        let header = [
            ("idempotency-key", "clé-鍵"),
            ("content-type", "application/json"),
        ];
        app.api
            .request("POST", "/v3/messages", &header, Some(body.clone().into()))
            .await
    };
    let first = send().await;
    assert_eq!(first.status, 202);
    assert_eq!(send().await.bytes, first.bytes);
}

#[tokio::test]
async fn repeated_idempotency_key_header_returns_400() {
    let app = TestApp::start().await;
    let body = json!({"to": [RECIPIENT], "message": {"parts": [text_part("x")]}}).to_string();
    for other in ["k2", "k1"] {
        let headers = [
            ("idempotency-key", "k1"),
            ("idempotency-key", other),
            ("content-type", "application/json"),
        ];
        let response = app
            .api
            .request("POST", "/v3/messages", &headers, Some(body.clone().into()))
            .await;
        assert_eq!(response.error(), (400, 1005), "{other}");
    }
    assert_eq!(chats(&app.api).await, 0, "no message is sent");
}

#[tokio::test]
async fn list_far_above_its_limit_returns_400() {
    let app = TestApp::start().await;
    let parts = vec![json!({}); 200_000];
    assert_eq!(app.api.send_parts(json!(parts)).await.error(), (400, 1004));
    let decorations = vec![json!({"range": [0, 1], "style": "bold"}); 50_000];
    let part = json!({"type": "text", "value": "x", "text_decorations": decorations});
    assert_eq!(app.api.send_parts(json!([part])).await.error(), (400, 1004));
    assert_eq!(app.api.send_parts(json!("x")).await.error(), (400, 1003));
    let message = json!({"parts": [text_part("x")]});
    for (count, status) in [(1000, 201), (1001, 400), (100_000, 400)] {
        let body = json!({"from": LINE, "to": vec![RECIPIENT; count], "message": message});
        assert_eq!(
            app.api.post("/v3/chats", &body).await.status,
            status,
            "{count} times the same recipient"
        );
    }
    let lines = vec![SECOND_LINE; 1001];
    let body = json!({"to": [RECIPIENT], "message": message, "exclude_from": lines});
    assert_eq!(
        app.api.post("/v3/messages", &body).await.error(),
        (400, 1005)
    );
}

#[tokio::test]
async fn concurrent_sends_with_same_key_send_once() {
    let app = TestApp::start().await;
    let body = json!({"from": LINE, "to": [RECIPIENT], "message": {"parts": [text_part("x")], "idempotency_key": "k"}});
    let path = "/v3/chats";
    let responses = join_all((0..20).map(|_| app.api.post(path, &body))).await;
    assert!(
        responses
            .iter()
            .all(|response| response.status == 201 && response.bytes == responses[0].bytes)
    );
}

#[tokio::test]
async fn failed_send_does_not_use_up_its_key() {
    let app = TestApp::start().await;
    let body = |id: &str| {
        json!({"from": LINE, "to": [RECIPIENT],
        "message": {"parts": [{"type": "media", "attachment_id": id}], "idempotency_key": "k"}})
    };
    assert_eq!(
        app.api.post("/v3/chats", &body(UNKNOWN)).await.error(),
        (404, 2003)
    );
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    assert_eq!(app.api.post("/v3/chats", &body(&file.id)).await.status, 201);
}

#[tokio::test]
async fn thirty_first_message_in_a_minute_returns_429() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "0").await;
    let path = format!("/v3/chats/{}/messages", text(&chat, "id"));
    for n in 1..30 {
        if n == 15 {
            app.clock.advance(Duration::from_secs(20));
        }
        let refused = app
            .api
            .send_parts(json!([{"type": "media", "attachment_id": UNKNOWN}]))
            .await;
        assert_eq!(refused.error(), (404, 2003), "a failed send does not count");
        let body =
            json!({"message": {"parts": [text_part("x")], "idempotency_key": format!("k{n}")}});
        assert_eq!(app.api.post(&path, &body).await.status, 202, "{n}");
    }
    let body = json!({"message": {"parts": [text_part("x")]}});
    let refused = app.api.post(&path, &body).await;
    assert_eq!(refused.error(), (429, 1007));
    assert_eq!(
        (
            refused.json["error"]["retry_after"].as_u64(),
            refused.header("retry-after")
        ),
        (Some(40), "40")
    );
    let replay = json!({"message": {"parts": [text_part("x")], "idempotency_key": "k7"}});
    assert_eq!(
        app.api.post(&path, &replay).await.status,
        202,
        "a stored response does not count"
    );
    let group = json!({"from": LINE, "to": [RECIPIENT, "ann@example.com"], "message": {"parts": [text_part("x")]}});
    assert_eq!(
        app.api.post("/v3/chats", &group).await.error(),
        (429, 1007),
        "each recipient of a group counts"
    );
    let second =
        json!({"from": SECOND_LINE, "to": [RECIPIENT], "message": {"parts": [text_part("x")]}});
    assert_eq!(
        app.api.post("/v3/chats", &second).await.status,
        201,
        "the limit is per line"
    );

    app.clock.advance(Duration::from_millis(39_999));
    assert_eq!(app.api.post(&path, &body).await.error(), (429, 1007));
    app.clock.advance(Duration::from_millis(1));
    assert_eq!(
        app.api.post(&path, &body).await.status,
        202,
        "the window slides"
    );
}

#[tokio::test]
async fn replies_form_a_thread() {
    let app = TestApp::start().await;
    let chat = app.api.send_text(&[RECIPIENT], "root").await;
    let path = format!("/v3/chats/{}/messages", text(&chat, "id"));
    let reply = async |to: &str, index: Value| {
        let reply_to = json!({"message_id": to, "part_index": index});
        app.api
            .post(
                &path,
                &json!({"message": {"parts": [text_part("re")], "reply_to": reply_to}}),
            )
            .await
    };
    let root = text(&chat["message"], "id").to_owned();
    let first = reply(&root, json!(null)).await.expect(202);
    assert_eq!(
        first["message"]["reply_to"],
        json!({"message_id": root, "part_index": 0})
    );
    let first = text(&first["message"], "id").to_owned();
    reply(&first, json!(0)).await.expect(202);
    assert_eq!(reply(UNKNOWN, json!(0)).await.error(), (404, 2002));
    assert_eq!(reply("x", json!(0)).await.error(), (400, 1005));
    assert_eq!(reply(&root, json!(1)).await.error(), (400, 1005));
    assert_eq!(reply(&root, json!(-1)).await.error(), (400, 1005));
    let other = app.api.send_text(&["ann@example.com"], "x").await;
    assert_eq!(
        reply(text(&other["message"], "id"), json!(0)).await.error(),
        (404, 2002)
    );
    let new = json!({"from": LINE, "to": ["bob@example.com"],
        "message": {"parts": [text_part("x")], "reply_to": {"message_id": root}}});
    assert_eq!(app.api.post("/v3/chats", &new).await.error(), (400, 1005));

    let thread = |query: &str| format!("/v3/messages/{first}/thread{query}");
    let all = app.api.get(&thread("")).await.expect(200);
    let ids = |page: &Value| -> Vec<String> {
        page["messages"]
            .as_array()
            .expect("m")
            .iter()
            .map(|m| text(m, "id").to_owned())
            .collect()
    };
    let ordered = ids(&all);
    assert_eq!(ordered.len(), 3);
    assert_eq!((&ordered[0], &ordered[1]), (&root, &first));
    let mut reversed = ids(&app.api.get(&thread("?order=desc")).await.expect(200));
    reversed.reverse();
    assert_eq!(reversed, ordered);
    let page = app.api.get(&thread("?limit=2")).await.expect(200);
    let rest = format!(
        "?limit=2&cursor={}",
        page["next_cursor"].as_str().expect("cursor")
    );
    let rest = app.api.get(&thread(&rest)).await.expect(200);
    assert_eq!([ids(&page), ids(&rest)].concat(), ordered);
    assert_eq!(rest["next_cursor"], json!(null));
    assert_eq!(app.api.get(&thread("?order=up")).await.error(), (400, 1005));
    let alone = text(&other["message"], "id");
    let alone = app
        .api
        .get(&format!("/v3/messages/{alone}/thread"))
        .await
        .expect(200);
    assert_eq!(alone["messages"].as_array().expect("messages").len(), 1);
}

#[tokio::test]
async fn every_character_is_returned_unchanged() {
    let app = TestApp::start().await;
    // Contains U+0000, its escape in the database, and the escape of that escape.
    let odd = "\u{F0000}0 \u{F0000}1 \u{F0000} \0 \u{FFFF} \u{1F392}";
    let message = json!({"parts": [{"type": "text", "value": odd}], "idempotency_key": odd});
    let body = json!({"from": LINE, "to": [RECIPIENT], "message": message});
    let first = app.api.post("/v3/chats", &body).await;
    let sent = first.json["chat"]["message"].clone();
    assert_eq!(
        (first.status.as_u16(), &sent["parts"][0]["value"]),
        (201, &json!(odd))
    );
    assert_eq!(
        app.api.post("/v3/chats", &body).await.bytes,
        first.bytes,
        "the stored response"
    );
    let delivered = app
        .api
        .message_with_status(text(&sent, "id"), "delivered")
        .await;
    assert_eq!(delivered["parts"][0]["value"], odd);
}

#[tokio::test]
async fn group_of_longest_addresses_is_one_chat() {
    let app = TestApp::start().await;
    // Random, because PostgreSQL compresses index entries before it checks their size.
    let random = || uuid::Uuid::new_v4().simple().to_string();
    let to: Vec<String> = (0..31)
        .map(|_| format!("{}{}@{}.{}.com", random(), random(), random(), random()))
        .collect();
    let mut chats = Vec::new();
    for _ in 0..2 {
        let body =
            json!({"from": LINE, "to": to, "message": {"parts": [{"type": "text", "value": "x"}]}});
        chats.push(app.api.post("/v3/chats", &body).await.expect(201)["chat"]["id"].clone());
    }
    assert_eq!(chats[0], chats[1]);
}
