//! Load generator: clients that upload, send, download and delete, and record what was
//! acknowledged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::outage;
use crate::pair::{KEY, NUMBER, Node, Pair};
use haversack_testkit::origin::http_response;
use haversack_testkit::raw::request_target;
use haversack_testkit::{corpus, text};

/// Number of clients that run complete rounds: upload, then send and download or delete.
const CLIENTS: usize = 6;
/// Client timeout; a slower response fails the test.
const HANGS: Duration = Duration::from_secs(30);
/// Maximum accepted `Retry-After`, in seconds.
const LATEST: u64 = 30;

/// Errors that clients tolerate during a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// 503 with `Retry-After`.
    pub unavailable: bool,
    /// 503 with `Retry-After` for clients that send text only.
    pub unavailable_to_texts: bool,
    /// Connections to a server that are cut.
    pub cuts: bool,
    /// Responses of a server that end in the middle of a file.
    pub short_files: bool,
    /// Uploads that the bucket rejects.
    pub no_bucket: bool,
}

/// Acknowledged results, and counts of errors.
#[derive(Default)]
pub struct Seen {
    /// Files by URL path.
    files: Mutex<HashMap<String, Arc<[u8]>>>,
    /// Pairs of message id and chat id.
    messages: Mutex<Vec<(String, String)>>,
    deleted: Mutex<Vec<String>>,
    /// Acknowledged messages of text-only clients.
    pub texts: AtomicUsize,
    /// Completed rounds.
    pub rounds: AtomicUsize,
    /// Files sent by URL.
    fetched: AtomicUsize,
    pub unavailable: AtomicUsize,
    pub cuts: AtomicUsize,
    /// Uploads that the bucket rejected.
    not_uploaded: AtomicUsize,
    pub slowest: Mutex<Duration>,
}

impl Seen {
    fn took(&self, time: Duration) {
        let mut slowest = self.slowest.lock().expect("lock");
        *slowest = time.max(*slowest);
    }

    pub fn told(&self) -> String {
        format!(
            "{} files ({} fetched), {} deleted, {} messages; {} answers 503, {} cut, {} uploads failed, the slowest call took {:?}",
            self.files.lock().expect("lock").len(),
            self.fetched.load(Ordering::SeqCst),
            self.deleted.lock().expect("lock").len(),
            self.messages.lock().expect("lock").len(),
            self.unavailable.load(Ordering::SeqCst),
            self.cuts.load(Ordering::SeqCst),
            self.not_uploaded.load(Ordering::SeqCst),
            self.slowest.lock().expect("lock"),
        )
    }
}

/// A response with an expected status.
struct Passed {
    status: StatusCode,
    bytes: Vec<u8>,
    /// True if the call was retried, and may therefore have been executed twice.
    repeated: bool,
}

impl Passed {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("JSON")
    }
}

/// An uploaded file that no request has used yet.
struct Uploaded {
    id: String,
    path: String,
    bytes: Vec<u8>,
}

#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    base: String,
    allowed: Allowed,
    seen: Arc<Seen>,
}

impl Client {
    fn new(pair: &Pair, seen: &Arc<Seen>, allowed: Allowed) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A new connection per call, so that the calls of one client reach both servers.
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(HANGS)
            .build();
        Self {
            http: http.expect("client"),
            base: format!("http://{}", pair.address),
            allowed,
            seen: Arc::clone(seen),
        }
    }

    /// Repeats a call until the response has an expected status. Errors outside of `allowed` fail
    /// the test.
    async fn call(&self, what: &str, request: RequestBuilder, expected: &[u16]) -> Passed {
        // Uploads go to the bucket, all other calls to a server.
        let is_upload = what.starts_with("upload");
        let start = Instant::now();
        let mut repeated = false;
        loop {
            assert!(
                start.elapsed() < outage() + 2 * HANGS,
                "{what} still fails after the outage"
            );
            let asked = Instant::now();
            let response = request.try_clone().expect("a body in memory").send().await;
            let took = asked.elapsed();
            assert!(took < HANGS, "{what} hangs");
            self.seen.took(took);
            let after = match response {
                Ok(response)
                    if is_upload
                        && response.status().is_server_error()
                        && self.allowed.no_bucket =>
                {
                    None
                }
                Ok(response) => {
                    let (status, headers) = (response.status(), response.headers().clone());
                    match response.bytes().await {
                        Ok(bytes) if expected.contains(&status.as_u16()) => {
                            return Passed {
                                status,
                                bytes: bytes.into(),
                                repeated,
                            };
                        }
                        Ok(bytes) => {
                            let after = headers
                                .get("retry-after")
                                .and_then(|after| after.to_str().ok()?.parse().ok());
                            let told = format!(
                                "{what}: {status} {headers:?} {}",
                                String::from_utf8_lossy(&bytes)
                            );
                            assert!(status == 503 && self.allowed.unavailable, "{told}");
                            let after = after.filter(|after| (1..=LATEST).contains(after));
                            self.seen.unavailable.fetch_add(1, Ordering::SeqCst);
                            Some(after.unwrap_or_else(|| panic!("no Retry-After: {told}")))
                        }
                        Err(error) => {
                            assert!(!error.is_timeout(), "{what} hangs: {error:?}");
                            assert!(
                                self.allowed.cuts || self.allowed.short_files,
                                "{what}: {error:?}"
                            );
                            self.seen.cuts.fetch_add(1, Ordering::SeqCst);
                            None
                        }
                    }
                }
                Err(error) => {
                    assert!(!error.is_timeout(), "{what} hangs: {error:?}");
                    assert!(
                        if is_upload {
                            self.allowed.no_bucket
                        } else {
                            self.allowed.cuts
                        },
                        "{what}: {error:?}"
                    );
                    let count = if is_upload {
                        &self.seen.not_uploaded
                    } else {
                        &self.seen.cuts
                    };
                    count.fetch_add(1, Ordering::SeqCst);
                    None
                }
            };
            repeated = true;
            // Like a well-behaved client: wait for `Retry-After`, or briefly if there was no
            // response.
            tokio::time::sleep(after.map_or(Duration::from_millis(100), Duration::from_secs)).await;
        }
    }

    fn api(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(KEY)
    }

    async fn round(&self) {
        let uploaded = self.upload().await;
        self.use_it(uploaded).await;
        self.seen.rounds.fetch_add(1, Ordering::SeqCst);
    }

    async fn upload(&self) -> Uploaded {
        let bytes: Vec<u8> = {
            let mut rng = rand::rng();
            let size = rng.random_range(1..200_000);
            // A fixed text prefix, so that the random bytes are never detected as another type,
            // such as a script.
            let begins = b"Some text: ".iter().copied();
            begins
                .chain((0..size).map(|_| rng.random_range(b' '..=b'~')))
                .collect()
        };
        let body =
            json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": bytes.len()});
        let created = self
            .call(
                "create",
                self.api(Method::POST, "/v3/attachments").json(&body),
                &[200],
            )
            .await
            .json();
        let put = self
            .http
            .put(text(&created, "upload_url"))
            .header("content-type", "text/plain")
            .body(bytes.clone());
        self.call("upload", put, &[200]).await;
        let path = request_target(text(&created, "download_url")).to_owned();
        Uploaded {
            id: text(&created, "attachment_id").to_owned(),
            path,
            bytes,
        }
    }

    /// Reads an attachment's metadata, then sends and downloads its file, or deletes it.
    async fn use_it(&self, Uploaded { id, path, bytes }: Uploaded) {
        let at = format!("/v3/attachments/{id}");
        let found = self
            .call("look", self.api(Method::GET, &at), &[200])
            .await
            .json();
        assert_eq!(found["status"], "complete", "{found}");
        if bytes.len().is_multiple_of(5) {
            let deleted = self
                .call("delete", self.api(Method::DELETE, &at), &[204, 404])
                .await;
            assert!(
                deleted.status == 204 || deleted.repeated,
                "an acknowledged file is missing"
            );
            self.seen.deleted.lock().expect("lock").push(path);
        } else {
            self.seen
                .files
                .lock()
                .expect("lock")
                .insert(path.clone(), bytes.into());
            self.download(&path).await;
            self.send(json!([{"type": "media", "attachment_id": id}]))
                .await;
        }
    }

    /// Downloads a random file uploaded earlier.
    async fn read(&self) {
        let earlier = {
            let files = self.seen.files.lock().expect("lock");
            let chosen = rand::rng().random_range(0..files.len().max(1));
            files.keys().nth(chosen).cloned()
        };
        match earlier {
            Some(path) => self.download(&path).await,
            None => tokio::task::yield_now().await,
        }
    }

    /// Sends a file by URL; once acknowledged, the file must be available.
    async fn fetch(&self, url: &str, bytes: &Arc<[u8]>) {
        let sent = self.send(json!([{"type": "media", "url": url}])).await;
        let path = request_target(text(&sent["chat"]["message"]["parts"][0], "url")).to_owned();
        self.seen
            .files
            .lock()
            .expect("lock")
            .insert(path.clone(), Arc::clone(bytes));
        self.download(&path).await;
        self.seen.fetched.fetch_add(1, Ordering::SeqCst);
    }

    async fn download(&self, path: &str) {
        let bytes = Arc::clone(&self.seen.files.lock().expect("lock")[path]);
        let got = self
            .call(
                "download",
                self.http.get(format!("{}{path}", self.base)),
                &[200],
            )
            .await;
        assert!(got.bytes == *bytes, "{path} has wrong bytes");
    }

    /// Sends to a new recipient, so that a duplicate message would be visible in the chat.
    async fn send(&self, parts: Value) -> Value {
        let one = uuid::Uuid::now_v7();
        let to = format!("{one}@example.com");
        let message = json!({"parts": parts, "idempotency_key": one.to_string()});
        let body = json!({"from": NUMBER, "to": [to], "message": message});
        let sent = self
            .call(
                "send",
                self.api(Method::POST, "/v3/chats").json(&body),
                &[201],
            )
            .await
            .json();
        let (chat, message) = (
            text(&sent["chat"], "id"),
            text(&sent["chat"]["message"], "id"),
        );
        // Simulates a client that lost the response: real connections are rarely cut at this
        // moment.
        if rand::rng().random_ratio(1, 4) {
            let again = self
                .call(
                    "send again",
                    self.api(Method::POST, "/v3/chats").json(&body),
                    &[201],
                )
                .await
                .json();
            assert_eq!(
                again, sent,
                "a retry with the same idempotency key gets the same response"
            );
        }
        self.seen
            .messages
            .lock()
            .expect("lock")
            .push((message.to_owned(), chat.to_owned()));
        sent
    }
}

/// Serves a photo at two URLs. The second answers a conditional request with 304, in which case the
/// server copies the stored file.
fn photo(pair: &Pair) -> (Arc<[u8]>, [String; 2]) {
    let (bytes, origin) = (corpus("photo.jpg"), &pair.shared.origin);
    origin.file("/new.jpg", "image/jpeg", &bytes);
    let whole = bytes.clone();
    origin.on("/same.jpg", move |request| {
        if request.to_lowercase().contains("if-none-match") {
            return http_response("304 Not Modified", "ETag: \"1\"\nContent-Length: 0", b"");
        }
        let headers = format!(
            "ETag: \"1\"\nContent-Type: image/jpeg\nContent-Length: {}",
            whole.len()
        );
        http_response("200 OK", &headers, &whole)
    });
    let url = |path| origin.url_with_host("127.0.0.1", path);
    (bytes.into(), [url("/new.jpg"), url("/same.jpg")])
}

/// The running clients.
pub struct Load {
    clients: JoinSet<()>,
    /// Clients that use files uploaded before the fault.
    late: JoinSet<()>,
    client: Client,
    stop: Arc<AtomicBool>,
    pub seen: Arc<Seen>,
}

impl Load {
    pub fn start(pair: &Pair, seen: &Arc<Seen>, allowed: Allowed) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, stop) = (Client::new(pair, seen, allowed), Arc::clone(&stop));
            clients.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    client.round().await;
                }
            });
        }
        let (client, stopped) = (Client::new(pair, seen, allowed), Arc::clone(&stop));
        let (bytes, urls) = photo(pair);
        clients.spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                for url in &urls {
                    client.fetch(url, &bytes).await;
                }
            }
        });
        let (client, stopped) = (Client::new(pair, seen, allowed), Arc::clone(&stop));
        clients.spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                client.read().await;
            }
        });
        let texts = Allowed {
            unavailable: allowed.unavailable_to_texts,
            ..allowed
        };
        let (client, stopped) = (Client::new(pair, seen, texts), Arc::clone(&stop));
        clients.spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                client
                    .send(json!([{"type": "text", "value": "Hello"}]))
                    .await;
                client.seen.texts.fetch_add(1, Ordering::SeqCst);
            }
        });
        let client = Client::new(pair, seen, allowed);
        Self {
            clients,
            late: JoinSet::new(),
            client,
            stop,
            seen: Arc::clone(seen),
        }
    }

    /// Uploads files before `fault` and uses them after it.
    pub async fn uploads_used_after(&mut self, fault: impl Future<Output = ()>) {
        let mut uploads = Vec::new();
        for _ in 0..CLIENTS {
            let upload = self.client.clone();
            uploads.push(self.during(async move { upload.upload().await }).await);
        }
        self.during(fault).await;
        for uploaded in uploads {
            let client = self.client.clone();
            self.late
                .spawn(async move { client.use_it(uploaded).await });
        }
    }

    /// Waits for this many more completed rounds.
    pub async fn rounds(&mut self, more: usize) {
        let wanted = self.seen.rounds.load(Ordering::SeqCst) + more;
        let start = Instant::now();
        while self.seen.rounds.load(Ordering::SeqCst) < wanted {
            assert!(
                start.elapsed() < 4 * HANGS,
                "the load makes no progress: {}",
                self.seen.told()
            );
            self.during(tokio::time::sleep(Duration::from_millis(20)))
                .await;
        }
    }

    /// Runs `work` under load; panics if a client fails.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            ended = self.clients.join_next() => {
                ended.expect("clients").expect("a client");
                panic!("a client ended before it was stopped");
            }
            done = work => done,
        }
    }

    /// Stops the clients after their current round.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for clients in [&mut self.clients, &mut self.late] {
            while let Some(client) = clients.join_next().await {
                client.expect("a client");
            }
        }
    }
}

/// After the load: all acknowledged results must hold on both servers, each message exists once and
/// is delivered.
pub async fn verify(pair: &Pair, seen: &Seen) {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(HANGS)
        .build()
        .expect("client");
    let files = seen.files.lock().expect("lock").clone();
    let messages = seen.messages.lock().expect("lock").clone();
    let deleted = seen.deleted.lock().expect("lock").clone();
    assert!(
        !files.is_empty() && !messages.is_empty() && !deleted.is_empty(),
        "nothing was acknowledged"
    );
    for Node { address, .. } in &pair.nodes {
        for (path, bytes) in &files {
            let got = http
                .get(format!("http://{address}{path}"))
                .send()
                .await
                .expect("response");
            assert_eq!(got.status(), 200, "{path}");
            assert!(
                got.bytes().await.expect("body") == **bytes,
                "{path} has wrong bytes"
            );
        }
        for path in &deleted {
            let got = http
                .get(format!("http://{address}{path}"))
                .send()
                .await
                .expect("response");
            assert_eq!(got.status(), 404, "{path} was deleted but is still served");
        }
    }
    let address = pair.nodes[0].address;
    let get = async |path: String| -> Value {
        let got = http
            .get(format!("http://{address}{path}"))
            .bearer_auth(KEY)
            .send()
            .await
            .expect("response");
        assert_eq!(got.status(), 200, "{path}");
        got.json().await.expect("JSON")
    };
    // The lease of a killed server expires after a minute; failed deliveries are retried within
    // another.
    let deadline = Instant::now() + Duration::from_mins(2);
    for (message, chat) in &messages {
        let there = get(format!("/v3/chats/{chat}/messages")).await;
        let there: Vec<&str> = there["messages"]
            .as_array()
            .expect("messages")
            .iter()
            .map(|m| text(m, "id"))
            .collect();
        assert_eq!(
            there,
            [message],
            "the chat contains the message exactly once"
        );
        loop {
            let found = get(format!("/v3/messages/{message}")).await;
            if found["delivery_status"] == "delivered" {
                break;
            }
            assert!(Instant::now() < deadline, "not delivered: {found}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
