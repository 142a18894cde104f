//! Delivery from the outbox through the gateway: states, timestamps, retries, order and receipts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use haversack::delivery::{
    Accepted, Gateway, GatewayError, Loopback, OutgoingMessage, OutgoingPart, Receipts,
};
use haversack::domain::message::MessageService;
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use haversack_testkit::{LINE, RECIPIENT, TestApp, text, until, within};

/// A gateway that records each message, then waits for the test to supply the result.
#[derive(Debug)]
struct Scripted {
    responses: AsyncMutex<mpsc::UnboundedReceiver<Result<Accepted, GatewayError>>>,
    got: Mutex<Vec<String>>,
    receipts: Mutex<Option<Receipts>>,
}

impl Scripted {
    fn new() -> (
        Arc<Self>,
        mpsc::UnboundedSender<Result<Accepted, GatewayError>>,
    ) {
        let (sender, responses) = mpsc::unbounded_channel();
        (
            Arc::new(Self {
                responses: AsyncMutex::new(responses),
                got: Mutex::default(),
                receipts: Mutex::default(),
            }),
            sender,
        )
    }
}

#[async_trait]
impl Gateway for Scripted {
    fn start(&self, receipts: Receipts) {
        *self.receipts.lock().expect("lock") = Some(receipts);
    }

    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        let mut got = vec![format!("{} -> {}", message.from, message.to.join(","))];
        for part in &message.parts {
            got.push(match part {
                OutgoingPart::Text(part) => format!("text {:?}", part.value),
                OutgoingPart::Link(url) => format!("link {url}"),
                OutgoingPart::Media(content) => {
                    let stream = content.stream().await.expect("store").expect("file");
                    let bytes: Vec<bytes::Bytes> = stream.try_collect().await.expect("bytes");
                    let bytes = String::from_utf8(bytes.concat()).expect("text");
                    format!(
                        "{} {} {} {bytes:?}",
                        content.filename, content.media_type, content.size_bytes
                    )
                }
            });
        }
        self.got.lock().expect("lock").push(got.join(" | "));
        self.responses
            .lock()
            .await
            .recv()
            .await
            .expect("a result from the test")
    }
}

#[tokio::test]
async fn message_passes_every_state_with_timestamps() {
    let (gateway, responses) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let parts =
        json!([{"type": "text", "value": "Hi"}, {"type": "media", "attachment_id": file.id}]);
    let body = json!({"from": LINE, "to": [RECIPIENT, "ann@example.com"],
        "message": {"parts": parts, "preferred_service": "RCS"}});
    let sent = app.api.post("/v3/chats", &body).await.expect(201);
    assert_eq!(sent["chat"]["message"]["delivery_status"], "pending");
    let id = text(&sent["chat"]["message"], "id");

    let queued = app.api.message_with_status(id, "queued").await;
    assert_eq!(
        (&queued["sent_at"], &queued["service"]),
        (&json!(null), &json!(null))
    );
    app.clock.advance(Duration::from_secs(5));
    responses
        .send(Ok(Accepted::Sent(MessageService::Rcs)))
        .expect("gateway");
    let sent = app.api.message_with_status(id, "sent").await;
    assert_eq!(sent["sent_at"], "2026-01-15T10:30:05.000Z");
    assert_eq!(
        (&sent["delivered_at"], &sent["service"]),
        (&json!(null), &json!("RCS"))
    );
    assert_eq!(sent["updated_at"], "2026-01-15T10:30:05.000Z");
    assert_eq!(
        *gateway.got.lock().expect("lock"),
        [
            "+12025550100 -> +12025550199,ann@example.com | text \"Hi\" | a.txt text/plain 5 \"hello\""
        ]
    );

    let next = app.api.send_text(&[RECIPIENT], "x").await;
    responses
        .send(Ok(Accepted::Delivered(MessageService::IMessage)))
        .expect("gateway");
    let delivered = app
        .api
        .message_with_status(text(&next["message"], "id"), "delivered")
        .await;
    assert_eq!(delivered["delivered_at"], "2026-01-15T10:30:05.000Z");
    assert_eq!(delivered["service"], "iMessage");
}

#[tokio::test]
async fn retryable_failure_is_retried_and_permanent_one_is_not() {
    let (gateway, responses) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let attempts = async |n: usize| {
        until(async || (gateway.got.lock().expect("lock").len() == n).then_some(())).await;
    };

    let chat = app.api.send_text(&[RECIPIENT], "one").await;
    let first = text(&chat["message"], "id");
    attempts(1).await;
    responses
        .send(Err(GatewayError::Retryable("busy".to_owned())))
        .expect("gateway");
    // A message that waits for its retry does not block later ones of its chat.
    let second = app.api.send_text(&[RECIPIENT], "two").await;
    attempts(2).await;
    responses
        .send(Err(GatewayError::Permanent {
            code: 4005,
            reason: "no such handle".to_owned(),
        }))
        .expect("gateway");
    app.api
        .message_with_status(text(&second["message"], "id"), "failed")
        .await;
    assert_eq!(
        app.api
            .get(&format!("/v3/messages/{first}"))
            .await
            .expect(200)["delivery_status"],
        "queued"
    );

    app.clock.advance(Duration::from_secs(1));
    attempts(3).await;
    responses
        .send(Ok(Accepted::Delivered(MessageService::IMessage)))
        .expect("gateway");
    app.api.message_with_status(first, "delivered").await;
    assert_eq!(gateway.got.lock().expect("lock").len(), 3);
}

#[tokio::test]
async fn messages_of_a_chat_are_sent_in_order_even_if_deleted() {
    let (gateway, responses) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    app.api.send_text(&[RECIPIENT], "0").await;
    until(async || (gateway.got.lock().expect("lock").len() == 1).then_some(())).await;
    let mut ids = Vec::new();
    for n in 1..4 {
        let chat = app.api.send_text(&[RECIPIENT], &n.to_string()).await;
        ids.push(text(&chat["message"], "id").to_owned());
    }
    assert_eq!(
        app.api
            .delete(&format!("/v3/messages/{}", ids[1]))
            .await
            .status,
        204
    );
    for _ in 0..4 {
        responses
            .send(Ok(Accepted::Delivered(MessageService::IMessage)))
            .expect("gateway");
    }
    app.api.message_with_status(&ids[2], "delivered").await;
    let got = gateway.got.lock().expect("lock").clone();
    let texts: Vec<&str> = got
        .iter()
        .map(|text| text.rsplit(' ').next().expect("text"))
        .collect();
    assert_eq!(texts, ["\"0\"", "\"1\"", "\"2\"", "\"3\""]);
}

#[tokio::test]
async fn message_without_remaining_parts_fails() {
    let (gateway, responses) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    app.api.send_text(&[RECIPIENT], "0").await;
    until(async || (gateway.got.lock().expect("lock").len() == 1).then_some(())).await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await
        .expect(201);
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{}", file.id))
            .await
            .status,
        204
    );
    responses
        .send(Ok(Accepted::Delivered(MessageService::IMessage)))
        .expect("gateway");
    app.api
        .message_with_status(text(&sent["chat"]["message"], "id"), "failed")
        .await;
    assert_eq!(
        gateway.got.lock().expect("lock").len(),
        1,
        "the gateway got only the first message"
    );
}

#[tokio::test]
async fn receipt_marks_sent_message_as_delivered_once() {
    let (gateway, responses) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let chat = app.api.send_text(&[RECIPIENT], "one").await;
    let text = text(&chat["message"], "id");
    let id = haversack::id::MessageId::parse(text).expect("id");
    let receipts = gateway
        .receipts
        .lock()
        .expect("lock")
        .clone()
        .expect("started");
    app.api.message_with_status(text, "queued").await;
    assert!(
        !receipts.delivered(id).await.expect("database"),
        "not sent yet"
    );
    responses
        .send(Ok(Accepted::Sent(MessageService::Sms)))
        .expect("gateway");
    app.api.message_with_status(text, "sent").await;
    app.clock.advance(Duration::from_secs(9));
    assert!(receipts.delivered(id).await.expect("database"));
    assert!(
        !receipts.delivered(id).await.expect("database"),
        "a second receipt changes nothing"
    );
    let message = app
        .api
        .get(&format!("/v3/messages/{text}"))
        .await
        .expect(200);
    assert_eq!(message["sent_at"], "2026-01-15T10:30:00.000Z");
    assert_eq!(message["delivered_at"], "2026-01-15T10:30:09.000Z");
}

/// A gateway that panics on one recipient.
#[derive(Debug)]
struct Panicking;

#[async_trait]
impl Gateway for Panicking {
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        assert!(
            !message.to.contains(&"bug@example.com".to_owned()),
            "a bug of the gateway"
        );
        Loopback.send(message).await
    }
}

#[tokio::test]
async fn gateway_panic_on_one_message_does_not_stop_others() {
    let app = TestApp::with_gateway(Arc::new(Panicking), |_| {}).await;
    let bad = app.api.send_text(&["bug@example.com"], "x").await["message"]["id"].clone();
    let good = app.api.send_text(&[RECIPIENT], "x").await["message"]["id"].clone();
    app.api
        .message_with_status(good.as_str().expect("id"), "delivered")
        .await;
    app.api
        .message_with_status(bad.as_str().expect("id"), "queued")
        .await;
    let later = app.api.send_text(&[RECIPIENT], "y").await["message"]["id"].clone();
    app.api
        .message_with_status(later.as_str().expect("id"), "delivered")
        .await;
    until(async || {
        // A new message wakes the worker, which else polls once a second.
        app.clock.advance(Duration::from_mins(10));
        app.api.send_text(&[RECIPIENT], "z").await;
        let message = app
            .api
            .get(&format!("/v3/messages/{}", bad.as_str().expect("id")))
            .await
            .expect(200);
        (message["delivery_status"] == "failed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn expired_lease_of_dead_process_is_taken_over() {
    let (gateway, _responses) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let chat = app.api.send_text(&[RECIPIENT], "one").await;
    let id = text(&chat["message"], "id").to_owned();
    app.api.message_with_status(&id, "queued").await;
    let clock = app.clock.clone();
    // The first worker hangs in the gateway; its lease expires after a minute.
    clock.advance(Duration::from_secs(61));
    let worker = haversack::delivery::DeliveryWorker {
        db: haversack::db::Db::open(&app.database_url)
            .await
            .expect("database"),
        blobs: Arc::new(haversack::blob::LocalStore::open(app.folder.path()).expect("store")),
        gateway: Arc::new(haversack::delivery::Loopback),
        clock: clock.clock(),
        metrics: haversack::metrics::Metrics::default(),
        filled: Arc::new(tokio::sync::Notify::new()),
    };
    assert_eq!(within(worker.run_batch()).await.expect("work"), 1);
    app.api.message_with_status(&id, "delivered").await;
}

/// A gateway that accepts a message once the test releases it.
#[derive(Debug, Default)]
struct Slow(tokio::sync::Notify);

#[async_trait]
impl Gateway for Slow {
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        self.0.notified().await;
        Loopback.send(message).await
    }
}

#[tokio::test]
async fn graceful_shutdown_finishes_running_delivery() {
    let gateway = Arc::new(Slow::default());
    let mut app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let sent = app.api.send_text(&[RECIPIENT], "x").await["message"]["id"].clone();
    app.api
        .message_with_status(sent.as_str().expect("id"), "queued")
        .await;
    let (db, statement) = (app.db.clone(), "SELECT status FROM messages");
    app.begin_shutdown();
    // It refuses connections and waits for the gateway.
    until(async || app.refuses_connections().await.then_some(())).await;
    gateway.0.notify_one();
    assert!(app.shut_down().await);
    let row = sqlx::query(statement)
        .fetch_one(&mut *db.read().await.expect("connection"))
        .await
        .expect("the message");
    assert_eq!(sqlx::Row::get::<String, _>(&row, 0), "delivered");
}
