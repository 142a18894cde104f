//! From the outbox through the gateway: states, times, retries, what a gateway gets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use haversack::delivery::{
    Accepted, Gateway, GatewayError, Loopback, OutgoingMessage, OutgoingPart, Receipts,
};
use haversack::domain::message::Service;
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use haversack_testkit::{LINE, RECIPIENT, TestApp, until, within};

/// A carrier that takes nothing until the test has said what it answers, and notes what it got.
#[derive(Debug)]
struct Scripted {
    answers: AsyncMutex<mpsc::UnboundedReceiver<Result<Accepted, GatewayError>>>,
    got: Mutex<Vec<String>>,
    receipts: Mutex<Option<Receipts>>,
}

impl Scripted {
    fn new() -> (
        Arc<Self>,
        mpsc::UnboundedSender<Result<Accepted, GatewayError>>,
    ) {
        let (sender, answers) = mpsc::unbounded_channel();
        (
            Arc::new(Self {
                answers: AsyncMutex::new(answers),
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
        self.answers
            .lock()
            .await
            .recv()
            .await
            .expect("the test says what to answer")
    }
}

#[tokio::test]
async fn a_message_passes_every_state_with_its_time() {
    let (gateway, answers) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await;
    let parts =
        json!([{"type": "text", "value": "Hi"}, {"type": "media", "attachment_id": file.id}]);
    let body = json!({"from": LINE, "to": [RECIPIENT, "ann@example.com"],
        "message": {"parts": parts, "preferred_service": "RCS"}});
    let sent = app.api.post("/v3/chats", &body).await.expect(201);
    assert_eq!(sent["chat"]["message"]["delivery_status"], "pending");
    let id = sent["chat"]["message"]["id"].as_str().expect("id");

    let queued = app.api.message_with_status(id, "queued").await;
    assert_eq!(
        (&queued["sent_at"], &queued["service"]),
        (&json!(null), &json!(null))
    );
    app.clock.advance(Duration::from_secs(5));
    answers
        .send(Ok(Accepted::Sent(Service::Rcs)))
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
    answers
        .send(Ok(Accepted::Delivered(Service::IMessage)))
        .expect("gateway");
    let delivered = app
        .api
        .message_with_status(next["message"]["id"].as_str().expect("id"), "delivered")
        .await;
    assert_eq!(delivered["delivered_at"], "2026-01-15T10:30:05.000Z");
    assert_eq!(delivered["service"], "iMessage");
}

#[tokio::test]
async fn what_fails_for_now_is_tried_again_and_what_fails_for_good_is_not() {
    let (gateway, answers) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let attempts = async |n: usize| {
        until(async || (gateway.got.lock().expect("lock").len() == n).then_some(())).await
    };

    let chat = app.api.send_text(&[RECIPIENT], "one").await;
    let first = chat["message"]["id"].as_str().expect("id");
    attempts(1).await;
    answers
        .send(Err(GatewayError::Retryable("busy".to_owned())))
        .expect("gateway");
    // Another message of the same chat is not held up by the one that waits.
    let second = app.api.send_text(&[RECIPIENT], "two").await;
    attempts(2).await;
    answers
        .send(Err(GatewayError::Permanent {
            code: 4005,
            reason: "no such handle".to_owned(),
        }))
        .expect("gateway");
    app.api
        .message_with_status(second["message"]["id"].as_str().expect("id"), "failed")
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
    answers
        .send(Ok(Accepted::Delivered(Service::IMessage)))
        .expect("gateway");
    app.api.message_with_status(first, "delivered").await;
    assert_eq!(gateway.got.lock().expect("lock").len(), 3);
}

#[tokio::test]
async fn the_messages_of_a_chat_go_in_order_and_deleting_one_does_not_call_it_back() {
    let (gateway, answers) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    app.api.send_text(&[RECIPIENT], "0").await;
    until(async || (gateway.got.lock().expect("lock").len() == 1).then_some(())).await;
    let mut ids = Vec::new();
    for n in 1..4 {
        let chat = app.api.send_text(&[RECIPIENT], &n.to_string()).await;
        ids.push(chat["message"]["id"].as_str().expect("id").to_owned());
    }
    assert_eq!(
        app.api
            .delete(&format!("/v3/messages/{}", ids[1]))
            .await
            .status,
        204
    );
    for _ in 0..4 {
        answers
            .send(Ok(Accepted::Delivered(Service::IMessage)))
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
async fn a_message_without_anything_left_of_it_has_failed() {
    let (gateway, answers) = Scripted::new();
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
    answers
        .send(Ok(Accepted::Delivered(Service::IMessage)))
        .expect("gateway");
    app.api
        .message_with_status(
            sent["chat"]["message"]["id"].as_str().expect("id"),
            "failed",
        )
        .await;
    assert_eq!(
        gateway.got.lock().expect("lock").len(),
        1,
        "nothing was handed over"
    );
}

#[tokio::test]
async fn a_carrier_can_report_later_that_a_message_arrived() {
    let (gateway, answers) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let chat = app.api.send_text(&[RECIPIENT], "one").await;
    let text = chat["message"]["id"].as_str().expect("id");
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
    answers
        .send(Ok(Accepted::Sent(Service::Sms)))
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

/// A carrier with a bug.
#[derive(Debug)]
struct Buggy;

#[async_trait]
impl Gateway for Buggy {
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        assert!(
            !message.to.contains(&"bug@example.com".to_owned()),
            "a bug of the carrier"
        );
        Loopback.send(message).await
    }
}

#[tokio::test]
async fn a_carrier_that_panics_on_one_message_delivers_the_others() {
    let app = TestApp::with_gateway(Arc::new(Buggy), |_| {}).await;
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
        // Another message makes the worker look now; by itself it does once a second.
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
async fn a_message_that_was_taken_up_by_a_dead_process_is_delivered_by_the_next() {
    let (gateway, _answers) = Scripted::new();
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let chat = app.api.send_text(&[RECIPIENT], "one").await;
    let id = chat["message"]["id"].as_str().expect("id").to_owned();
    app.api.message_with_status(&id, "queued").await;
    let clock = app.clock.clone();
    // The worker hangs in the gateway for ever; what it claimed is free again when the claim is over.
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

/// Takes a message when it is told to.
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
async fn a_server_that_is_stopped_ends_what_it_is_delivering() {
    let gateway = Arc::new(Slow::default());
    let mut app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let sent = app.api.send_text(&[RECIPIENT], "x").await["message"]["id"].clone();
    app.api
        .message_with_status(sent.as_str().expect("id"), "queued")
        .await;
    let (db, statement) = (app.db.clone(), "SELECT status FROM messages");
    app.begin_shutdown();
    // It does not answer any more, and waits.
    until(async || app.refuses_connections().await.then_some(())).await;
    gateway.0.notify_one();
    assert!(app.shut_down().await);
    let row = sqlx::query(statement)
        .fetch_one(&mut *db.read().await.expect("connection"))
        .await
        .expect("the message");
    assert_eq!(sqlx::Row::get::<String, _>(&row, 0), "delivered");
}
