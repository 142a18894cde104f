//! Kills the server at random instants under load: what was acknowledged is there and whole, and nothing else is.
//! `HAVERSACK_CRASH_ROUNDS=50 cargo test --test it crash` does more rounds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use serde_json::{Value, json};

use haversack_testkit::program::{Server, haversack};
use haversack_testkit::raw::request_target;
use haversack_testkit::until;

const CLIENTS: usize = 6;

/// What the server has confirmed.
#[derive(Default)]
struct Confirmed {
    /// Files by the path of their URL.
    files: HashMap<String, Vec<u8>>,
    /// Messages by id.
    messages: Vec<String>,
    /// Deleted files.
    deleted: Vec<String>,
}

struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
    number: String,
}

impl Client {
    /// Uploads, sends, and deletes some of it again, until the server is gone.
    async fn work(&self, confirmed: &Mutex<Confirmed>) -> reqwest::Result<()> {
        loop {
            let bytes: Vec<u8> = {
                let mut rng = rand::rng();
                let size = rng.random_range(1..300_000);
                // It must not begin as a script does, say.
                let begins = b"Some text: ".iter().copied();
                begins
                    .chain((0..size).map(|_| rng.random_range(b' '..=b'~')))
                    .collect()
            };
            let body = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": bytes.len()});
            let created = self.post("/v3/attachments", &body).await?;
            let url = created["upload_url"].as_str().expect("URL");
            let put = self
                .http
                .put(url)
                .header("content-type", "text/plain")
                .body(bytes.clone());
            put.send().await?.error_for_status()?;
            let path = request_target(created["download_url"].as_str().expect("URL")).to_owned();
            let id = created["attachment_id"].as_str().expect("id");
            if bytes.len().is_multiple_of(5) {
                // Asked to delete: from here on it may be there or not, until that is confirmed.
                let gone = self
                    .http
                    .delete(format!("{}/v3/attachments/{id}", self.base))
                    .bearer_auth(&self.key);
                gone.send().await?.error_for_status()?;
                confirmed.lock().expect("lock").deleted.push(path);
                continue;
            }
            confirmed.lock().expect("lock").files.insert(path, bytes);
            let to = format!("{}@example.com", rand::rng().random_range(0..1_000_000));
            let message = json!({"parts": [{"type": "media", "attachment_id": id}]});
            let sent = self
                .post(
                    "/v3/chats",
                    &json!({"from": self.number, "to": [to], "message": message}),
                )
                .await?;
            let message = sent["chat"]["message"]["id"]
                .as_str()
                .expect("id")
                .to_owned();
            confirmed.lock().expect("lock").messages.push(message);
        }
    }

    async fn post(&self, path: &str, body: &Value) -> reqwest::Result<Value> {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .bearer_auth(&self.key)
            .json(body);
        request.send().await?.error_for_status()?.json().await
    }
}

fn client(server: &Server) -> (Client, SocketAddr) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let base = server.banner_value("API base").to_owned();
    let address = base
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("address")
        .parse()
        .expect("address");
    let http = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("client");
    (
        Client {
            http,
            base,
            key: server.banner_value("API key").to_owned(),
            number: server.banner_value("Phone number").to_owned(),
        },
        address,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_sigkill() {
    let rounds = std::env::var("HAVERSACK_CRASH_ROUNDS")
        .map_or(4, |rounds| rounds.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("folder");
    let confirmed = Arc::new(Mutex::new(Confirmed::default()));
    let start = || Server::run(haversack(folder.path()).args(["serve", "--show-key"]));
    for _ in 0..rounds {
        let server = start();
        let (client, _) = client(&server);
        let client = Arc::new(client);
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, confirmed) = (Arc::clone(&client), Arc::clone(&confirmed));
            workers.spawn(async move { client.work(&confirmed).await });
        }
        // The load is on before the instant begins, however slow the machine.
        until(async || (!confirmed.lock().expect("lock").messages.is_empty()).then_some(())).await;
        let instant = Duration::from_millis(rand::rng().random_range(50..600));
        tokio::time::timeout(instant, workers.join_next())
            .await
            .expect_err("no client stops while the server runs");
        drop(server);
        while let Some(worker) = workers.join_next().await {
            assert!(
                worker.expect("no panic").is_err(),
                "clients stop only because the server is gone"
            );
        }
    }

    let server = start();
    let (client, address) = client(&server);
    let confirmed = std::mem::take(&mut *confirmed.lock().expect("lock"));
    assert!(
        !confirmed.files.is_empty() && !confirmed.messages.is_empty(),
        "the load did something"
    );
    for (path, bytes) in &confirmed.files {
        let answer = client
            .http
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .expect("answer");
        assert_eq!(answer.status(), 200, "{path}");
        assert!(
            answer.bytes().await.expect("body") == bytes,
            "{path} is not whole"
        );
    }
    for path in &confirmed.deleted {
        let answer = client
            .http
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .expect("answer");
        assert_eq!(answer.status(), 404, "{path} was deleted");
    }
    for id in &confirmed.messages {
        let url = format!("{}/v3/messages/{id}", client.base);
        let answer = client
            .http
            .get(url)
            .bearer_auth(&client.key)
            .send()
            .await
            .expect("answer");
        assert_eq!(answer.status(), 200, "message {id}");
    }
    let left = std::fs::read_dir(folder.path().join("unfinished-uploads"))
        .expect("tmp")
        .count();
    assert_eq!(left, 0, "what was half written is swept at the next start");
    println!(
        "{rounds} rounds: {} files, {} messages",
        confirmed.files.len(),
        confirmed.messages.len()
    );
}
