//! Calls and message delivery during a database outage.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, join_all};
use haversack::delivery::{Accepted, Gateway, GatewayError, Loopback, OutgoingMessage};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{Part, alone};
use haversack_testkit::{Response, TestApp, on_disk, text, until, within};

/// A gateway that records a message, signals its arrival, and waits for permission to answer.
#[derive(Debug)]
struct Slow {
    got: Mutex<Vec<String>>,
    has: Semaphore,
    may_answer: Semaphore,
}

#[async_trait]
impl Gateway for Slow {
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        self.got.lock().expect("lock").push(message.id.to_string());
        self.has.add_permits(1);
        self.may_answer
            .acquire()
            .await
            .expect("never closed")
            .forget();
        Loopback.send(message).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcome_during_database_outage_is_recorded_and_not_sent_again() {
    let _alone = alone().await;
    let gateway = Arc::new(Slow {
        got: Mutex::default(),
        has: Semaphore::new(0),
        may_answer: Semaphore::new(0),
    });
    let first = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let second = first.start_peer(gateway.clone()).await;
    let sent = first.api.send_text(&["a@example.com"], "one").await;
    let id = text(&sent["message"], "id").to_owned();
    gateway.has.acquire().await.expect("never closed").forget();

    Part::Postgres.ctl(&["stop"]).await;
    // Enough permits that a second hand-over would be answered as well.
    gateway.may_answer.add_permits(10);
    // Long after the lease has expired, and long enough for both servers to notice the outage.
    first.clock.advance(Duration::from_mins(5));
    tokio::time::sleep(Duration::from_secs(8)).await;
    Part::Postgres.ctl(&["start"]).await;

    let delivered = until(async || {
        let message = second.api.get(&format!("/v3/messages/{id}")).await;
        assert!(matches!(message.status.as_u16(), 200 | 503), "{message:?}");
        (message.json["delivery_status"] == "delivered").then_some(())
    });
    delivered.await;
    // Both workers still deliver.
    for (app, to) in [(&first, "b@example.com"), (&second, "c@example.com")] {
        let sent = app.api.send_text(&[to], "two").await;
        app.api
            .message_with_status(text(&sent["message"], "id"), "delivered")
            .await;
    }
    let got = gateway.got.lock().expect("lock").clone();
    assert_eq!(got.iter().filter(|got| **got == id).count(), 1, "{got:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_outage_returns_503_for_calls_that_need_it() {
    let _alone = alone().await;
    let app = TestApp::start().await;
    let uploaded = app.api.upload("a.txt", "text/plain", b"a file").await;
    let path = format!("/v3/attachments/{}", uploaded.id);
    app.api.get(&path).await.expect(200);
    let seen = app.anonymous().get(&uploaded.url).await;
    assert_eq!(seen.status, 200);
    let awaited = app.api.upload("b.txt", "text/plain", b"another").await;
    let disk = TestApp::with(on_disk).await;
    let announced = disk.api.create("c.txt", "text/plain", 3).await;

    Part::Postgres.ctl(&["stop"]).await;
    let announce = json!({"filename": "d.txt", "content_type": "text/plain", "size_bytes": 1});
    let anonymous = app.anonymous();
    let awaited_path = format!("/v3/attachments/{}", awaited.id);
    let calls: Vec<BoxFuture<'_, Response>> = vec![
        Box::pin(app.api.get(&path)),
        Box::pin(app.api.get(&awaited_path)),
        Box::pin(app.api.post("/v3/attachments", &announce)),
        Box::pin(app.api.delete(&path)),
        Box::pin(
            app.api
                .send_parts(json!([{"type": "text", "value": "Hello"}])),
        ),
        Box::pin(
            app.api
                .send_parts(json!([{"type": "media", "attachment_id": awaited.id}])),
        ),
        Box::pin(anonymous.get(&uploaded.url)),
        Box::pin(anonymous.get(&awaited.url)),
        Box::pin(disk.api.put(&announced, b"abc")),
    ];
    for response in within(join_all(calls)).await {
        assert_eq!(
            (response.status.as_u16(), response.header("retry-after")),
            (503, "1"),
            "{response:?}"
        );
    }
    assert_eq!(within(anonymous.get("/readyz")).await.status, 503);
    Part::Postgres.ctl(&["start"]).await;

    until(async || (anonymous.get("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(disk.api.put(&announced, b"abc").await.status, 200);
    app.api.get(&awaited_path).await.expect(200);
    assert_eq!(
        app.api.delete(&path).await.status,
        204,
        "the failed delete had no effect"
    );
}
