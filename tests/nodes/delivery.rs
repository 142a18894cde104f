//! One outbox, several delivery workers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use haversack::delivery::{
    Accepted, Gateway, GatewayError, Loopback, OutgoingMessage, OutgoingPart,
};
use tokio::sync::Notify;

use crate::two_with;
use haversack_testkit::{TestApp, text, until, within};

/// A gateway that records texts by recipient.
#[derive(Debug, Default)]
struct Recorder(Mutex<HashMap<String, Vec<String>>>);

#[async_trait]
impl Gateway for Recorder {
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        let [OutgoingPart::Text(text)] = message.parts.as_slice() else {
            panic!("a text")
        };
        // Lets other tasks interleave.
        tokio::task::yield_now().await;
        self.0
            .lock()
            .expect("lock")
            .entry(message.to[0].clone())
            .or_default()
            .push(text.value.clone());
        Loopback.send(message).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_sent_once_and_in_order_per_chat() {
    let recorder = Arc::new(Recorder::default());
    let apps: [TestApp; 2] = two_with(|| recorder.clone()).await;
    let people: Vec<String> = (0..10).map(|n| format!("p{n}@example.com")).collect();
    let mut last = Vec::new();
    for n in 0..20 {
        last.clear();
        for (index, person) in people.iter().enumerate() {
            let sent = apps[(n + index) % 2]
                .api
                .send_text(&[person], &n.to_string())
                .await;
            last.push(text(&sent["message"], "id").to_owned());
        }
    }
    for id in &last {
        apps[0].api.message_with_status(id, "delivered").await;
    }
    let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let sent = recorder.0.lock().expect("lock").clone();
    for person in &people {
        assert_eq!(sent[person], expected, "{person}");
    }
}

/// A gateway that never answers.
#[derive(Debug)]
struct Hangs;

#[async_trait]
impl Gateway for Hangs {
    async fn send(&self, _: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn expired_lease_of_dead_server_is_taken_over() {
    let first = TestApp::with_gateway(Arc::new(Hangs), |_| {}).await;
    let sent = first.api.send_text(&["a@example.com"], "one").await;
    let id = text(&sent["message"], "id").to_owned();
    first.api.message_with_status(&id, "queued").await;
    let second = first.start_peer(Arc::new(Loopback)).await;
    let later = second.api.send_text(&["a@example.com"], "two").await["message"]["id"].clone();
    // A message behind the leased one waits; another chat is not blocked.
    let other = second.api.send_text(&["b@example.com"], "x").await["message"]["id"].clone();
    second
        .api
        .message_with_status(other.as_str().expect("id"), "delivered")
        .await;
    second
        .api
        .message_with_status(later.as_str().expect("id"), "pending")
        .await;
    until(async || {
        second.clock.advance(std::time::Duration::from_secs(61));
        // A new message wakes the worker immediately; otherwise it polls once a second.
        second.api.send_text(&["c@example.com"], "wake up").await;
        let message = second
            .api
            .get(&format!("/v3/messages/{id}"))
            .await
            .expect(200);
        (message["delivery_status"] == "delivered").then_some(())
    })
    .await;
    second
        .api
        .message_with_status(later.as_str().expect("id"), "delivered")
        .await;
}

/// A gateway that records messages in order, in a list shared with others. It accepts one text only
/// after permission, and another never.
#[derive(Debug)]
struct Mortal {
    handed: Arc<Mutex<Vec<(String, String)>>>,
    waits_for: &'static str,
    dies_of: &'static str,
    /// Notified when one of these texts arrives.
    has: Notify,
    may_answer: Notify,
}

impl Mortal {
    fn new(
        handed: &Arc<Mutex<Vec<(String, String)>>>,
        waits_for: &'static str,
        dies_of: &'static str,
    ) -> Arc<Self> {
        let (has, may_answer) = (Notify::new(), Notify::new());
        Arc::new(Self {
            handed: Arc::clone(handed),
            waits_for,
            dies_of,
            has,
            may_answer,
        })
    }
}

#[async_trait]
impl Gateway for Mortal {
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        let [OutgoingPart::Text(text)] = message.parts.as_slice() else {
            panic!("a text")
        };
        self.handed
            .lock()
            .expect("lock")
            .push((message.id.to_string(), text.value.clone()));
        if text.value == self.waits_for {
            self.has.notify_one();
            self.may_answer.notified().await;
        }
        if text.value == self.dies_of {
            self.has.notify_one();
            return std::future::pending().await;
        }
        Loopback.send(message).await
    }
}

#[tokio::test]
async fn dead_server_causes_duplicate_only_for_message_at_the_gateway() {
    let handed = Arc::default();
    let mortal = Mortal::new(&handed, "first", "second");
    let first = TestApp::with_gateway(mortal.clone(), |_| {}).await;
    let send = async |value| {
        let sent = first.api.send_text(&["a@example.com"], value).await;
        text(&sent["message"], "id").to_owned()
    };
    let done = send("first").await;
    within(mortal.has.notified()).await;
    // Both are in the outbox before the worker leases the next batch, so one batch contains both.
    let (with_gateway, behind) = (send("second").await, send("third").await);
    mortal.may_answer.notify_one();
    within(mortal.has.notified()).await;
    first.api.message_with_status(&done, "delivered").await;
    first.api.message_with_status(&behind, "queued").await;
    let second = first
        .start_peer(Mortal::new(&handed, "nothing", "nothing"))
        .await;
    first.crash().await;

    second.clock.advance(std::time::Duration::from_secs(61));
    for id in [&with_gateway, &behind] {
        second.api.message_with_status(id, "delivered").await;
    }
    let expected = [
        (&done, "first"),
        (&with_gateway, "second"),
        (&with_gateway, "second"),
        (&behind, "third"),
    ];
    let expected = expected.map(|(id, text)| (id.clone(), text.to_owned()));
    assert_eq!(
        *handed.lock().expect("lock"),
        expected,
        "only the message at the gateway is sent twice"
    );
}
