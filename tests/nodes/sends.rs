//! Concurrent sends through two servers.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::two;
use haversack_testkit::{LINE, RECIPIENT, Response, TestApp, text};

fn message(text: &str, key: Option<&str>) -> Value {
    json!({"parts": [{"type": "text", "value": text}], "idempotency_key": key})
}

async fn send(app: &TestApp, to: &str, message: Value) -> Response {
    app.api
        .post(
            "/v3/chats",
            &json!({"from": LINE, "to": [to], "message": message}),
        )
        .await
}

#[tokio::test]
async fn concurrent_starts_on_empty_database_succeed() {
    let url = haversack_testkit::postgres::create_schema()
        .await
        .expect("PostgreSQL")
        .parse()
        .expect("URL");
    for opened in join_all((0..4).map(|_| haversack::db::Db::open(&url))).await {
        opened.expect("database").check().await.expect("it works");
    }
}

#[tokio::test]
async fn concurrent_sends_to_same_recipient_create_one_chat() {
    let apps = two().await;
    for round in 0..10 {
        let to = format!("round{round}@example.com");
        let sent = join_all(
            apps.iter()
                .cycle()
                .take(6)
                .map(|app| send(app, &to, message("x", None))),
        )
        .await;
        let mut chats: Vec<String> = sent
            .into_iter()
            .map(|sent| sent.expect(201)["chat"]["id"].to_string())
            .collect();
        chats.sort();
        chats.dedup();
        assert_eq!(chats.len(), 1, "{chats:?}");
    }
}

#[tokio::test]
async fn concurrent_sends_with_same_idempotency_key_send_once() {
    let apps = two().await;
    for round in 0..10 {
        let to = format!("round{round}@example.com");
        let key = format!("key-{round}");
        let sent = apps.iter().cycle().take(6);
        let sent = join_all(sent.map(|app| send(app, &to, message("x", Some(&key))))).await;
        let first = sent[0].bytes.clone();
        for response in sent {
            assert_eq!(response.status, 201);
            assert_eq!(
                response.bytes, first,
                "all concurrent sends get the same response"
            );
        }
        let chat: Value = serde_json::from_slice(&first).expect("JSON");
        let url = format!("/v3/chats/{}/messages", text(&chat["chat"], "id"));
        let messages = apps[1].api.get(&url).await.expect(200);
        assert_eq!(messages["messages"].as_array().expect("messages").len(), 1);
    }
}

#[tokio::test]
async fn rate_limit_counts_sends_of_all_servers() {
    let apps = two().await;
    // Creates the chat first, so that the servers contend for the rate limit only.
    send(&apps[0], RECIPIENT, message("first", None))
        .await
        .expect(201);
    let sent = join_all(
        apps.iter()
            .cycle()
            .take(60)
            .map(|app| send(app, RECIPIENT, message("x", None))),
    )
    .await;
    let (passed, refused): (Vec<_>, Vec<_>) =
        sent.iter().partition(|response| response.status == 201);
    assert_eq!((passed.len(), refused.len()), (29, 31));
    assert!(
        refused
            .iter()
            .all(|response| response.error() == (429, 1007))
    );
}

#[tokio::test]
async fn groups_with_shared_recipients_do_not_deadlock() {
    let apps = two().await;
    let people: Vec<String> = (0..8).map(|n| format!("p{n}@example.com")).collect();
    let sends = (0..40_usize).map(|n| {
        let mut to: Vec<&String> = people.iter().collect();
        to.rotate_left(n % 8);
        to.truncate(2 + n % 6);
        let body = json!({"from": LINE, "to": to, "message": message("x", None)});
        let app = &apps[n % 2];
        async move { app.api.post("/v3/chats", &body).await }
    });
    for response in join_all(sends).await {
        assert!(
            matches!(response.status.as_u16(), 201 | 429),
            "{response:?}"
        );
    }
}

#[tokio::test]
async fn pending_quota_is_exceeded_by_one_sixteenth_per_server_at_most() {
    assert!(
        std::env::var("HAVERSACK_TEST_DATABASE_URL").is_ok(),
        "see tests/cluster/with-postgres.sh"
    );
    let first = TestApp::with(|settings| settings.attachments.max_pending_attachments = 64).await;
    let second = first
        .start_peer(std::sync::Arc::new(haversack::delivery::Loopback))
        .await;
    let body = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": 1});
    let mut made = 0;
    for n in 0..200 {
        let app = if n % 2 == 0 { &first } else { &second };
        made += u64::from(app.api.post("/v3/attachments", &body).await.status == 200);
    }
    assert!((64..=64 + 2 * 64 / 16).contains(&made), "{made}");
}
