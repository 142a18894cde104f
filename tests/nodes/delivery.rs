//! One outbox, several workers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use haversack::delivery::{Failure, Gateway, Loopback, Outcome, OutgoingMessage, OutgoingPart};

use crate::support::{TestApp, until};
use crate::two_with;

/// Remembers what it was handed, by recipient.
#[derive(Debug, Default)]
struct Recorder(Mutex<HashMap<String, Vec<String>>>);

#[async_trait]
impl Gateway for Recorder {
    async fn send(&self, message: &OutgoingMessage) -> Result<Outcome, Failure> {
        let [OutgoingPart::Text(text)] = message.parts.as_slice() else { panic!("a text") };
        // Others get a chance to come in between.
        tokio::task::yield_now().await;
        self.0.lock().expect("lock").entry(message.to[0].clone()).or_default().push(text.value.clone());
        Loopback.send(message).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_goes_out_once_and_those_of_a_chat_in_order() {
    let recorder = Arc::new(Recorder::default());
    let apps: [TestApp; 2] = two_with(|| recorder.clone()).await;
    let people: Vec<String> = (0..10).map(|n| format!("p{n}@example.com")).collect();
    let mut last = Vec::new();
    for n in 0..20 {
        last.clear();
        for (index, person) in people.iter().enumerate() {
            let sent = apps[(n + index) % 2].api.send_text(&[person], &n.to_string()).await;
            last.push(sent["message"]["id"].as_str().expect("id").to_owned());
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

/// Never answers.
#[derive(Debug)]
struct Hangs;

#[async_trait]
impl Gateway for Hangs {
    async fn send(&self, _: &OutgoingMessage) -> Result<Outcome, Failure> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn what_a_dead_server_had_claimed_is_delivered_by_another() {
    let first = TestApp::with_gateway(Arc::new(Hangs), |_| {}).await;
    let sent = first.api.send_text(&["a@example.com"], "one").await;
    let id = sent["message"]["id"].as_str().expect("id").to_owned();
    first.api.message_with_status(&id, "queued").await;
    let second = first.another(Arc::new(Loopback)).await;
    let later = second.api.send_text(&["a@example.com"], "two").await["message"]["id"].clone();
    // It is behind the first, which is claimed; another chat is not.
    let other = second.api.send_text(&["b@example.com"], "x").await["message"]["id"].clone();
    second.api.message_with_status(other.as_str().expect("id"), "delivered").await;
    second.api.message_with_status(later.as_str().expect("id"), "pending").await;
    until(async || {
        second.clock.advance(std::time::Duration::from_secs(61));
        // Another message makes the worker look now; by itself it does once a second.
        second.api.send_text(&["c@example.com"], "wake up").await;
        let message = second.api.get(&format!("/v3/messages/{id}")).await.expect(200);
        (message["delivery_status"] == "delivered").then_some(())
    })
    .await;
    second.api.message_with_status(later.as_str().expect("id"), "delivered").await;
}
