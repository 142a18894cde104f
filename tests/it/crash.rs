//! Kills the server at random moments under load, and checks that acknowledged data is complete and
//! no temporary file remains. `HAVERSACK_CRASH_ROUNDS=50 cargo test --test it crash` runs more
//! rounds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt;
use serde_json::{Value, json};

use haversack_testkit::program::{Server, haversack};
use haversack_testkit::raw::request_target;
use haversack_testkit::{text, until};

const CLIENTS: usize = 6;

/// Data that the server has acknowledged.
#[derive(Default)]
struct Acknowledged {
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
    /// Uploads, sends, and deletes some files again, until the server dies.
    async fn work(&self, acknowledged: &Mutex<Acknowledged>) -> reqwest::Result<()> {
        loop {
            let bytes: Vec<u8> = {
                let mut rng = rand::rng();
                let size = rng.random_range(1..300_000);
                // Random bytes may look like an unsupported type; this prefix does not.
                let prefix = b"Some text: ".iter().copied();
                prefix
                    .chain((0..size).map(|_| rng.random_range(b' '..=b'~')))
                    .collect()
            };
            let body = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": bytes.len()});
            let created = self.post("/v3/attachments", &body).await?;
            let url = text(&created, "upload_url");
            let put = self
                .http
                .put(url)
                .header("content-type", "text/plain")
                .body(bytes.clone());
            put.send().await?.error_for_status()?;
            let path = request_target(text(&created, "download_url")).to_owned();
            let id = text(&created, "attachment_id");
            if bytes.len().is_multiple_of(5) {
                // The file may exist or not until the deletion is acknowledged.
                let deletion = self
                    .http
                    .delete(format!("{}/v3/attachments/{id}", self.base))
                    .bearer_auth(&self.key);
                deletion.send().await?.error_for_status()?;
                acknowledged.lock().expect("lock").deleted.push(path);
                continue;
            }
            acknowledged.lock().expect("lock").files.insert(path, bytes);
            let to = format!("{}@example.com", rand::rng().random_range(0..1_000_000));
            let message = json!({"parts": [{"type": "media", "attachment_id": id}]});
            let sent = self
                .post(
                    "/v3/chats",
                    &json!({"from": self.number, "to": [to], "message": message}),
                )
                .await?;
            let message = text(&sent["chat"]["message"], "id").to_owned();
            acknowledged.lock().expect("lock").messages.push(message);
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
async fn acknowledged_uploads_and_messages_survive_sigkill() {
    let rounds = std::env::var("HAVERSACK_CRASH_ROUNDS")
        .map_or(4, |rounds| rounds.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("folder");
    let acknowledged = Arc::new(Mutex::new(Acknowledged::default()));
    let start = || Server::run(haversack(folder.path()).args(["serve", "--show-key"]));
    for _ in 0..rounds {
        let server = start();
        let (client, _) = client(&server);
        let client = Arc::new(client);
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, acknowledged) = (Arc::clone(&client), Arc::clone(&acknowledged));
            workers.spawn(async move { client.work(&acknowledged).await });
        }
        // Waits for the load to start, however slow the machine is.
        until(async || (!acknowledged.lock().expect("lock").messages.is_empty()).then_some(()))
            .await;
        let moment = Duration::from_millis(rand::rng().random_range(50..600));
        tokio::time::timeout(moment, workers.join_next())
            .await
            .expect_err("no client stops while the server runs");
        drop(server);
        while let Some(worker) = workers.join_next().await {
            assert!(
                worker.expect("no panic").is_err(),
                "clients stop only when the server dies"
            );
        }
    }

    let server = start();
    let (client, address) = client(&server);
    let acknowledged = std::mem::take(&mut *acknowledged.lock().expect("lock"));
    assert!(
        !acknowledged.files.is_empty() && !acknowledged.messages.is_empty(),
        "the load acknowledged something"
    );
    for (path, bytes) in &acknowledged.files {
        let response = client
            .http
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .expect("response");
        assert_eq!(response.status(), 200, "{path}");
        assert!(
            response.bytes().await.expect("body") == bytes,
            "{path} is not whole"
        );
    }
    for path in &acknowledged.deleted {
        let response = client
            .http
            .get(format!("http://{address}{path}"))
            .send()
            .await
            .expect("response");
        assert_eq!(response.status(), 404, "{path} was deleted");
    }
    for id in &acknowledged.messages {
        let url = format!("{}/v3/messages/{id}", client.base);
        let response = client
            .http
            .get(url)
            .bearer_auth(&client.key)
            .send()
            .await
            .expect("response");
        assert_eq!(response.status(), 200, "message {id}");
    }
    let left = std::fs::read_dir(folder.path().join("unfinished-uploads"))
        .expect("folder")
        .count();
    assert_eq!(left, 0, "unfinished uploads are deleted at start");
    println!(
        "{rounds} rounds: {} files, {} messages",
        acknowledged.files.len(),
        acknowledged.messages.len()
    );
}
