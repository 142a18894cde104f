//! The ephemeral tier: which files it applies to, and their expiry.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use haversack::app::App;
use haversack::clock::MockClock;
use haversack::config::{Config, Settings};
use haversack::delivery::{Accepted, Gateway, GatewayError, Loopback, OutgoingMessage};
use haversack::fetch::SystemResolver;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use haversack_testkit::origin::http_response;
use haversack_testkit::program::{haversack, run, stderr, stdout};
use haversack_testkit::{
    Api, BucketServer, LINE, Origin, RECIPIENT, SECOND_LINE, TestApp, Uploaded, bucket, corpus,
    each_case, on_disk, raw, text, until,
};

pub const PHOTO: &[u8] = include_bytes!("data/photo.jpg");
const HOUR: Duration = Duration::from_hours(1);
const KEY: &str = "acme-key-0123456789";

/// Runs a command of the program beside the server, as an operator does. Does not block the
/// server's thread, because the program may wait for one of its transactions.
pub async fn set_tier(app: &TestApp, arguments: &[&str]) {
    let mut command = haversack(app.folder.path());
    command
        .env("HAVERSACK_DATABASE_URL", app.database_url.as_str())
        .args(arguments);
    let output = tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .expect("no panic");
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Uploads a file and reads the attachment, which finalizes it if the store is a bucket.
async fn upload(api: &Api, filename: &str, content_type: &str, bytes: &[u8]) -> Uploaded {
    let uploaded = api.upload(filename, content_type, bytes).await;
    api.get(&format!("/v3/attachments/{}", uploaded.id))
        .await
        .expect(200);
    uploaded
}

fn is_signed(value: &Value, field: &str) -> bool {
    text(value, field).contains("&signature=")
}

/// Sends a URL from a line, and returns the part of the message.
async fn send_from(app: &TestApp, line: &str, url: &str) -> Value {
    let body = json!({"from": line, "to": [RECIPIENT], "message": {"parts": [{"type": "media", "url": url}]}});
    app.api.post("/v3/chats", &body).await.expect(201)["chat"]["message"]["parts"][0].clone()
}

/// Starts an origin of one photo that answers 304 to its entity tag.
fn origin_with_etag() -> Origin {
    let origin = Origin::start();
    origin.on("/a.jpg", move |request| {
        if request.contains("\r\nif-none-match: \"v1\"\r\n") {
            return http_response("304 Not Modified", "etag: \"v1\"", b"");
        }
        http_response(
            "200 OK",
            &format!("etag: \"v1\"\ncontent-length: {}", PHOTO.len()),
            PHOTO,
        )
    });
    origin
}

/// Data and settings of a stopped server.
struct Stopped {
    folder: tempfile::TempDir,
    clock: MockClock,
    settings: Settings,
    _bucket: Option<Arc<BucketServer>>,
}

impl Stopped {
    /// Starts another server on them.
    async fn start(&self, gateway: Arc<dyn Gateway>) -> (Api, JoinHandle<()>) {
        let config =
            Config::resolve(self.settings.clone(), &bucket::credential).expect("configuration");
        let app = App::build(
            config,
            self.clock.clock(),
            gateway,
            Arc::new(SystemResolver),
        )
        .await
        .expect("app");
        let api = Api::new(app.address(), KEY);
        let running = tokio::spawn(async move {
            app.run(std::future::pending()).await.expect("it runs");
        });
        (api, running)
    }
}

async fn stop(mut app: TestApp) -> Stopped {
    let folder = std::mem::replace(&mut app.folder, tempfile::tempdir().expect("folder"));
    let (clock, settings, bucket) = (app.clock.clone(), app.settings.clone(), app.bucket.clone());
    assert!(app.shut_down().await);
    Stopped {
        folder,
        clock,
        settings,
        _bucket: bucket,
    }
}

#[tokio::test]
async fn tier_of_partner_applies_to_files_created_after_it_is_set() {
    let origin = Origin::start();
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let before = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    let during = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
    let fetched = send_from(&app, SECOND_LINE, &origin.url("/a.jpg")).await;
    let rivals = upload(&app.rival, "a.jpg", "image/jpeg", PHOTO).await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "persistent"]).await;
    let after = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
    assert!(during.url.contains("&signature=") && is_signed(&fetched, "url"));
    app.clock.advance(36 * HOUR);
    app.background.sweep().await.expect("sweep");
    for file in [&before, &rivals, &after] {
        assert!(!file.url.contains('?'), "{}", file.url);
        assert_eq!(app.anonymous().get(&file.url).await.bytes, PHOTO);
    }
    for id in [during.id.as_str(), text(&fetched, "id")] {
        assert_eq!(
            app.api.get(&format!("/v3/attachments/{id}")).await.error(),
            (404, 2003)
        );
    }
    assert_eq!(app.stored_files().await.len(), 3);
}

#[tokio::test]
async fn tier_of_line_applies_to_files_fetched_for_its_messages() {
    let origin = Origin::start();
    origin.file("/a.jpg", "image/jpeg", PHOTO);
    origin.file("/a.m4a", "audio/x-m4a", &corpus("voice.m4a"));
    let app = TestApp::with_origin(&origin, |_| {}).await;
    set_tier(&app, &["line", "set", LINE, "--tier", "ephemeral"]).await;
    let (url, message) = (origin.url("/a.jpg"), |parts: Value| json!({"parts": parts}));
    let media = json!([{"type": "media", "url": url}]);
    let by_line = send_from(&app, LINE, &url).await;
    let second = send_from(&app, SECOND_LINE, &url).await;
    // Without `from`, the server chooses the line: of the newest chat, or the first.
    let body = json!({"to": [RECIPIENT], "message": message(media.clone())});
    let chosen_persistent = app.api.post("/v3/messages", &body).await.expect(202);
    let body = json!({"to": ["+12025550198"], "message": message(media.clone())});
    let chosen = app.api.post("/v3/messages", &body).await.expect(202);
    assert_eq!(
        (text(&chosen_persistent, "from"), text(&chosen, "from")),
        (SECOND_LINE, LINE)
    );
    let chat = text(&chosen, "chat_id");
    let body = json!({"message": message(media)});
    let in_chat = app
        .api
        .post(&format!("/v3/chats/{chat}/messages"), &body)
        .await
        .expect(202);
    let body = json!({"voice_memo_url": origin.url("/a.m4a")});
    let memo = app
        .api
        .post(&format!("/v3/chats/{chat}/voicememo"), &body)
        .await
        .expect(202);
    // The tier of an upload is the partner's, whichever line sends it.
    let upload = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": upload.id}]))
        .await
        .expect(201);

    let part = |response: &Value| response["message"]["parts"][0].clone();
    let ephemeral = [
        by_line,
        part(&chosen),
        part(&in_chat),
        memo["voice_memo"]["voice_memo"].clone(),
    ];
    let persistent = [second, part(&chosen_persistent), part(&sent["chat"])];
    app.clock.advance(36 * HOUR);
    for file in &ephemeral {
        assert!(is_signed(file, "url"), "{file}");
        assert_eq!(
            app.anonymous().get(text(file, "url")).await.status,
            404,
            "{file}"
        );
    }
    app.background.sweep().await.expect("sweep");
    for file in &persistent {
        assert!(!is_signed(file, "url"), "{file}");
        assert_eq!(
            app.anonymous().get(text(file, "url")).await.bytes,
            PHOTO,
            "{file}"
        );
    }
    assert_eq!(app.stored_files().await.len(), persistent.len());
}

#[tokio::test]
async fn ephemeral_file_and_metadata_expire_after_36_hours() {
    let app = TestApp::on_disk().await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    let created = app.api.create("a.jpg", "image/jpeg", PHOTO.len()).await;
    app.clock.advance(Duration::from_mins(10));
    assert_eq!(app.api.put(&created, PHOTO).await.status, 200);
    let (id, path) = (
        text(&created, "attachment_id"),
        format!("/v3/attachments/{}", text(&created, "attachment_id")),
    );
    let part = json!([{"type": "media", "attachment_id": id}]);
    let sent = app.api.send_parts(part.clone()).await.expect(201);
    let (chat, message) = (
        text(&sent["chat"], "id"),
        text(&sent["chat"]["message"], "id"),
    );

    // The time counts from the upload.
    app.clock.advance(Duration::from_millis(36 * 3_600_000 - 1));
    app.background.sweep().await.expect("sweep");
    let url = text(&app.api.get(&path).await.expect(200), "download_url").to_owned();
    assert_eq!(app.anonymous().get(&url).await.bytes, PHOTO);
    app.clock.advance(Duration::from_millis(1));

    // Expiry does not depend on the sweep.
    for swept in [false, true] {
        if swept {
            assert_eq!(app.stored_files().await, [id], "not swept yet");
            app.background.sweep().await.expect("sweep");
            assert!(app.stored_files().await.is_empty());
        }
        assert_eq!(
            app.api.get(&path).await.error(),
            (404, 2003),
            "swept: {swept}"
        );
        assert_eq!(
            app.anonymous().get(&url).await.status,
            404,
            "swept: {swept}"
        );
        assert_eq!(
            app.api.delete(&path).await.error(),
            (404, 2003),
            "swept: {swept}"
        );
        assert_eq!(
            app.api.put(&created, PHOTO).await.status,
            403,
            "the upload URL has expired; swept: {swept}"
        );
        assert_eq!(
            app.api.send_parts(part.clone()).await.error(),
            (404, 2003),
            "swept: {swept}"
        );
        let own = app
            .api
            .send_parts(json!([{"type": "media", "url": url}]))
            .await;
        assert_eq!(own.error(), (404, 2003), "swept: {swept}");
        let sticker = json!([{"type": "text", "value": "x", "inline_stickers": [{"range": [0, 1], "attachment_id": id}]}]);
        assert_eq!(
            app.api.send_parts(sticker).await.error(),
            (404, 2003),
            "swept: {swept}"
        );
        let read = app
            .api
            .get(&format!("/v3/messages/{message}"))
            .await
            .expect(200);
        let listed = app
            .api
            .get(&format!("/v3/chats/{chat}/messages"))
            .await
            .expect(200);
        let thread = app
            .api
            .get(&format!("/v3/messages/{message}/thread"))
            .await
            .expect(200);
        for message in [&read, &listed["messages"][0], &thread["messages"][0]] {
            let nothing = json!({"type": "media", "id": "", "url": "", "filename": "", "mime_type": "",
                "size_bytes": 0, "reactions": null});
            assert_eq!(message["parts"], json!([nothing]), "swept: {swept}");
        }
    }
    app.clock.turn_back(12 * HOUR);
    assert_eq!(
        app.api.get(&path).await.error(),
        (404, 2003),
        "an expired attachment does not come back"
    );
    let open = std::fs::read_dir("/proc/self/fd").expect("descriptors");
    let open = open.filter_map(|entry| std::fs::read_link(entry.expect("entry").path()).ok());
    assert_eq!(
        open.filter(|file| file.to_string_lossy().contains(id))
            .count(),
        0,
        "an open file would keep its bytes on the disk"
    );
}

#[tokio::test]
async fn one_sweep_deletes_250_expired_files() {
    let app = TestApp::start().await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    let uploads = (0..250).map(|_| upload(&app.api, "a.txt", "text/plain", b"hello"));
    let uploaded = futures_util::future::join_all(uploads).await;
    assert_eq!((uploaded.len(), app.stored_files().await.len()), (250, 250));
    app.clock.advance(36 * HOUR);
    app.background.sweep().await.expect("sweep");
    assert!(app.stored_files().await.is_empty());
}

#[tokio::test]
async fn missing_and_rejected_uploads_expire_as_well() {
    let app = TestApp::with(|settings| {
        settings.retention.failed_attachments = Duration::from_hours(100);
    })
    .await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    let never = app.api.create("secret.jpg", "image/jpeg", 5).await;
    let refused = app.api.create("secret.jpg", "image/jpeg", 5).await;
    assert_eq!(app.api.put(&refused, b"hello").await.status, 200);
    app.clock.advance(24 * HOUR);
    app.background.sweep().await.expect("sweep");
    let get = async |created: &Value| {
        app.api
            .get(&format!(
                "/v3/attachments/{}",
                text(created, "attachment_id")
            ))
            .await
    };
    for created in [&never, &refused] {
        assert_eq!(get(created).await.expect(200)["status"], "failed");
    }
    app.clock.advance(13 * HOUR);
    for created in [&never, &refused] {
        assert_eq!(get(created).await.error(), (404, 2003));
    }
}

#[tokio::test]
async fn clock_jump_of_eleven_hours_keeps_expiry_within_24_to_48_hours() {
    for (ahead, after) in [(true, 24), (false, 48)] {
        let app = TestApp::start().await;
        set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
        let file = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
        let get = async || app.api.get(&format!("/v3/attachments/{}", file.id)).await;
        if ahead {
            // The clock is ahead for a day after the upload, with a sweep every hour.
            app.clock.advance(11 * HOUR);
            for _ in 0..after {
                app.clock.advance(HOUR);
                app.background.sweep().await.expect("sweep");
                assert_eq!(get().await.status, 200, "not before 24 hours");
            }
            app.clock.turn_back(11 * HOUR);
            assert_eq!(get().await.status, 200);
            app.clock.advance(12 * HOUR);
            assert_eq!(get().await.status, 404);
        } else {
            app.clock.advance((after - 1) * HOUR);
            app.clock.turn_back(11 * HOUR);
            assert_eq!(get().await.status, 404, "not after 48 hours");
            app.background.sweep().await.expect("sweep");
            assert!(app.stored_files().await.is_empty());
        }
    }
}

#[tokio::test]
async fn clock_that_was_wrong_during_upload_keeps_expiry_within_24_to_48_hours() {
    let app = TestApp::start().await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    app.clock.advance(11 * HOUR);
    let ahead = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
    app.clock.turn_back(22 * HOUR);
    let behind = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
    app.clock.advance(11 * HOUR);
    let is_there =
        async |id: &str| app.api.get(&format!("/v3/attachments/{id}")).await.status == 200;
    app.clock.advance(24 * HOUR);
    assert!(is_there(&ahead.id).await && is_there(&behind.id).await);
    app.clock.advance(23 * HOUR + Duration::from_mins(59));
    assert!(!is_there(&ahead.id).await && !is_there(&behind.id).await);
}

#[tokio::test]
async fn restart_does_not_delay_expiry() {
    let app = TestApp::start().await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    let file = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await
        .expect(201);
    let message = format!("/v3/messages/{}", text(&sent["chat"]["message"], "id"));
    let path = raw::request_target(&file.url).to_owned();
    let stopped = stop(app).await;

    stopped.clock.advance(Duration::from_mins(10));
    let (api, running) = stopped.start(Arc::new(Loopback)).await;
    assert_eq!(api.get(&path).await.bytes, PHOTO, "its URL is still valid");
    running.abort();
    assert!(running.await.is_err_and(|error| error.is_cancelled()));

    stopped.clock.advance(36 * HOUR);
    let (api, _running) = stopped.start(Arc::new(Loopback)).await;
    assert_eq!(
        api.get(&format!("/v3/attachments/{}", file.id))
            .await
            .error(),
        (404, 2003)
    );
    assert_eq!(api.get(&path).await.status, 404);
    assert_eq!(api.get(&message).await.expect(200)["parts"][0]["id"], "");
    let blob = stopped
        .folder
        .path()
        .join("blobs")
        .join(&file.id[file.id.len() - 2..])
        .join(&file.id);
    until(async || (!blob.exists()).then_some(())).await;
}

/// A gateway that is unavailable.
#[derive(Debug)]
struct Unavailable;

#[async_trait]
impl Gateway for Unavailable {
    async fn send(&self, _: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        Err(GatewayError::Retryable("unavailable".to_owned()))
    }
}

#[tokio::test]
async fn message_with_expired_file_fails_after_restart() {
    let app = TestApp::with_gateway(Arc::new(Unavailable), |_| {}).await;
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    let file = upload(&app.api, "a.jpg", "image/jpeg", PHOTO).await;
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await
        .expect(201);
    let message = text(&sent["chat"]["message"], "id").to_owned();
    let stopped = stop(app).await;
    stopped.clock.advance(36 * HOUR);
    let (api, _running) = stopped.start(Arc::new(Loopback)).await;
    api.message_with_status(&message, "failed").await;
}

#[tokio::test]
async fn shared_blob_is_deleted_with_its_last_attachment() {
    let origin = origin_with_etag();
    let app = TestApp::with_origin(&origin, on_disk).await;
    set_tier(&app, &["line", "set", LINE, "--tier", "ephemeral"]).await;
    let (path, url) = (
        |part: &Value| format!("/v3/attachments/{}", text(part, "id")),
        origin.url("/a.jpg"),
    );
    let first = send_from(&app, LINE, &url).await;
    let kept = send_from(&app, SECOND_LINE, &url).await;
    app.clock.advance(HOUR);
    let later = send_from(&app, LINE, &url).await;
    assert_eq!(
        app.stored_files().await,
        [text(&first, "id")],
        "stored once"
    );
    assert!(!is_signed(&kept, "url") && is_signed(&later, "url"));
    assert_eq!(
        origin
            .requests()
            .iter()
            .filter(|request| request.contains("if-none-match"))
            .count(),
        2
    );

    app.clock.advance(35 * HOUR);
    app.background.sweep().await.expect("sweep");
    assert_eq!(app.api.get(&path(&first)).await.status, 404);
    let fresh = app.api.get(&path(&later)).await.expect(200);
    for url in [text(&kept, "url"), text(&fresh, "download_url")] {
        assert_eq!(app.anonymous().get(url).await.bytes, PHOTO, "{url}");
    }
    // The attachment to be reused expires within a minute, so the file is fetched anew.
    app.clock.advance(Duration::from_mins(59));
    let anew = send_from(&app, LINE, &url).await;
    assert!(
        !origin
            .requests()
            .last()
            .expect("request")
            .contains("if-none-match")
    );
    app.clock.advance(Duration::from_mins(1));
    app.background.sweep().await.expect("sweep");
    assert_eq!(app.api.get(&path(&later)).await.status, 404);
    assert_eq!(app.anonymous().get(text(&kept, "url")).await.bytes, PHOTO);
    assert_eq!(app.api.delete(&path(&kept)).await.status, 204);
    assert_eq!(app.stored_files().await, [text(&anew, "id")]);
    app.clock.advance(36 * HOUR);
    app.background.sweep().await.expect("sweep");
    assert!(app.stored_files().await.is_empty());
    send_from(&app, SECOND_LINE, &url).await;
    assert!(
        !origin
            .requests()
            .last()
            .expect("request")
            .contains("if-none-match"),
        "the validators expired with the file"
    );
}

#[test]
fn tier_commands_change_what_partner_list_shows() {
    let folder = tempfile::tempdir().expect("folder");
    let haversack = |arguments: &[&str]| run(haversack(folder.path()).args(arguments));
    let added = haversack(&[
        "partner",
        "add",
        "acme",
        "--phone-number",
        LINE,
        "--phone-number",
        SECOND_LINE,
    ]);
    assert!(added.status.success(), "{}", stderr(&added));
    each_case(
        [
            (
                ["line", "set", SECOND_LINE, "--tier", "ephemeral"],
                "acme  +12025550100 +12025550101 (ephemeral)\n",
            ),
            (
                ["partner", "set", "acme", "--tier", "ephemeral"],
                "acme (ephemeral)  +12025550100 +12025550101 (ephemeral)\n",
            ),
            (
                ["line", "set", SECOND_LINE, "--tier", "persistent"],
                "acme (ephemeral)  +12025550100 +12025550101\n",
            ),
            (
                ["partner", "set", "acme", "--tier", "persistent"],
                "acme  +12025550100 +12025550101\n",
            ),
        ],
        |(arguments, listed)| {
            let set = haversack(&arguments);
            assert!(
                set.status.success() && stdout(&set).contains(arguments[4]),
                "{}{}",
                stdout(&set),
                stderr(&set)
            );
            let list = haversack(&["partner", "list"]);
            assert!(stdout(&list).ends_with(listed), "{}", stdout(&list));
        },
    );
}

#[test]
fn invalid_tier_commands_fail_with_reason() {
    let folder = tempfile::tempdir().expect("folder");
    let haversack = |arguments: &[&str]| run(haversack(folder.path()).args(arguments));
    let added = haversack(&["partner", "add", "acme", "--phone-number", LINE]);
    assert!(added.status.success(), "{}", stderr(&added));
    each_case(
        [
            (
                ["partner", "set", "nobody", "--tier", "ephemeral"],
                "there is no partner \"nobody\"; haversack partner list",
            ),
            (
                ["line", "set", "+12025550177", "--tier", "ephemeral"],
                "+12025550177 is no partner's phone number",
            ),
            (
                ["line", "set", "2025550177", "--tier", "ephemeral"],
                "E.164",
            ),
            (
                ["line", "set", LINE, "--tier", "forever"],
                "persistent or ephemeral",
            ),
        ],
        |(arguments, problem)| {
            let refused = haversack(&arguments);
            assert!(
                !refused.status.success() && stderr(&refused).contains(problem),
                "{}",
                stderr(&refused)
            );
        },
    );
}

#[tokio::test]
async fn upload_window_is_six_hours_at_most_for_ephemeral_tier() {
    let app = TestApp::with(|settings| {
        settings.attachments.upload_url_ttl = Duration::from_hours(3 * 24);
    })
    .await;
    let window =
        async |app: &TestApp| app.api.create("a.txt", "text/plain", 5).await["expires_at"].clone();
    assert_eq!(window(&app).await, "2026-01-18T10:30:00.000Z");
    set_tier(&app, &["partner", "set", "acme", "--tier", "ephemeral"]).await;
    assert_eq!(window(&app).await, "2026-01-15T16:30:00.000Z");
}
