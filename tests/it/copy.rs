//! `haversack copy`: to another database and store, and back.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use haversack::clock::MockClock;
use haversack::config::Settings;
use haversack::delivery::{Accepted, Gateway, GatewayError, OutgoingMessage};
use serde_json::{Value, json};

use haversack_testkit::bucket::credential;
use haversack_testkit::origin::http_response;
use haversack_testkit::program::{haversack, run, stderr, stdout};
use haversack_testkit::{
    BucketServer, LINE, Origin, RECIPIENT, TestApp, corpus, each_case_async, on_disk, postgres,
    text,
};

const PHOTO: &[u8] = include_bytes!("data/photo.jpg");

/// Runs a command of the program without blocking the servers of this process.
pub async fn program(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = haversack(data_dir);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        command.env(name, credential(name).expect("a credential"));
    }
    command.args(arguments);
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .expect("no panic")
}

/// A second storage: a bucket and a database, on PostgreSQL if the tests use it.
struct Target {
    bucket: BucketServer,
    database: String,
    folder: tempfile::TempDir,
}

impl Target {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let sqlite = format!("sqlite://{}/target.db?mode=rwc", folder.path().display());
        let database = postgres::create_schema().await.unwrap_or(sqlite);
        Self {
            bucket: BucketServer::start().await,
            database,
            folder,
        }
    }

    fn location(&self) -> String {
        format!("{},{}", self.database, self.bucket.url())
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.storage.database_url = Some(self.database.parse().expect("URL"));
        settings.storage.blobs_url = Some(self.bucket.url());
        settings
    }
}

/// Everything that clients can read: responses by path, and files by URL.
#[derive(Debug, PartialEq)]
struct Snapshot {
    responses: Vec<(String, Value)>,
    files: Vec<(String, Vec<u8>)>,
}

fn collect(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get(key).and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, key, found)),
        _ => {}
    }
}

async fn snapshot(app: &TestApp, paths: &[String]) -> Snapshot {
    let base = format!("http://{}", app.address);
    let (mut responses, mut urls) = (Vec::new(), Vec::new());
    for path in paths {
        let response = app.api.get(path).await.expect(200);
        for key in ["url", "download_url"] {
            collect(&response, key, &mut urls);
        }
        let text = response.to_string().replace(&base, "http://server");
        responses.push((path.clone(), serde_json::from_str(&text).expect("JSON")));
    }
    let mut files = Vec::new();
    for url in urls.into_iter().filter(|url| !url.is_empty()) {
        let file = app.anonymous().get(&url).await;
        assert_eq!(file.status, 200, "{url}");
        files.push((url.replace(&base, "http://server"), file.bytes));
    }
    Snapshot { responses, files }
}

/// Starts a server on disk with data of every kind, and returns the paths that show it.
async fn populated(origin: &Origin) -> (TestApp, Vec<String>) {
    origin.on("/a.jpg", |request| {
        if request.contains("\r\nif-none-match: \"v1\"\r\n") {
            return http_response("304 Not Modified", "etag: \"v1\"", b"");
        }
        http_response(
            "200 OK",
            &format!("etag: \"v1\"\ncontent-length: {}", PHOTO.len()),
            PHOTO,
        )
    });
    let app = TestApp::with_origin(origin, |settings| {
        on_disk(settings);
        settings.storage.database_url = None;
    })
    .await;
    let mut paths = vec!["/v3/chats".to_owned(), "/v3/phone_numbers".to_owned()];
    let odd = app
        .api
        .upload("nul\0 and \u{202e}.txt", "text/plain", b"hello")
        .await;
    let scan = app
        .api
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await;
    let waiting = app.api.create("later.txt", "text/plain", 5).await;
    paths.extend([&odd.id, &scan.id].map(|id| format!("/v3/attachments/{id}")));
    paths.push(format!(
        "/v3/attachments/{}",
        text(&waiting, "attachment_id")
    ));
    let url = origin.url("/a.jpg");
    for part in [
        json!({"type": "media", "attachment_id": odd.id}),
        json!({"type": "media", "attachment_id": scan.id}),
        json!({"type": "media", "url": url}),
        json!({"type": "media", "url": url}),
        json!({"type": "text", "value": "nul \0 in a text"}),
    ] {
        let message = json!({"parts": [part]});
        let sent = app
            .api
            .post(
                "/v3/chats",
                &json!({"from": LINE, "to": [RECIPIENT], "message": message}),
            )
            .await;
        let sent = sent.expect(201);
        let id = text(&sent["chat"]["message"], "id").to_owned();
        app.api.message_with_status(&id, "delivered").await;
        paths.push(format!("/v3/messages/{id}"));
        paths.push(format!("/v3/chats/{}/messages", text(&sent["chat"], "id")));
    }
    (app, paths)
}

async fn stop(mut app: TestApp) -> (tempfile::TempDir, MockClock) {
    let folder = std::mem::replace(&mut app.folder, tempfile::tempdir().expect("folder"));
    let clock = app.clock.clone();
    assert!(app.shut_down().await);
    (folder, clock)
}

#[tokio::test]
async fn copy_to_a_bucket_and_back_preserves_everything() {
    let origin = Origin::start();
    let (app, paths) = populated(&origin).await;
    let before = snapshot(&app, &paths).await;
    let (folder, clock) = stop(app).await;
    let target = Target::new().await;
    let from = folder.path().to_str().expect("path").to_owned();

    let copied = program(
        target.folder.path(),
        &["copy", "--from", &from, "--to", &target.location()],
    )
    .await;
    assert!(copied.status.success(), "{}", stderr(&copied));
    // Two uploads, a variant, and a blob of two attachments, which in a bucket becomes two objects.
    assert!(
        stdout(&copied).starts_with("5 attachments are in the target; 5 of their files"),
        "{}",
        stdout(&copied)
    );
    let app = TestApp::start_on(target.settings(), clock.clone()).await;
    assert_eq!(snapshot(&app, &paths).await, before);
    assert_eq!(target.bucket.objects().len(), 5);
    // Keys equal URL paths, so that a CDN can serve the objects.
    let objects = target.bucket.objects();
    for (url, bytes) in &before.files {
        let path = url.strip_prefix("http://server/").expect("path");
        let path = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .expect("UTF-8");
        assert_eq!(
            objects.get(path.as_ref()),
            Some(bytes),
            "{path} among {:?}",
            objects.keys()
        );
    }
    // The blob that was shared is now two objects.
    let (first, second) = (
        &before.responses[9].1["parts"][0],
        &before.responses[11].1["parts"][0],
    );
    let id = |part: &Value| text(part, "id").to_owned();
    app.api
        .delete(&format!("/v3/attachments/{}", id(first)))
        .await
        .expect(204);
    assert_eq!(target.bucket.objects().len(), 4);
    let kept = text(second, "url").replace("http://server", "");
    assert_eq!(app.api.get(&kept).await.bytes, PHOTO);
    let paths: Vec<String> = paths
        .into_iter()
        .filter(|path| !path.contains(&id(first)))
        .collect();
    let after = snapshot(&app, &paths).await;
    assert!(app.shut_down().await);

    let back = tempfile::tempdir().expect("folder");
    let to = back.path().to_str().expect("path").to_owned();
    let copied = program(
        target.folder.path(),
        &["copy", "--from", &target.location(), "--to", &to],
    )
    .await;
    assert!(copied.status.success(), "{}", stderr(&copied));
    let mut settings = Settings::default();
    settings.storage.data_dir = back.path().to_owned();
    let app = TestApp::start_on(settings, clock).await;
    assert_eq!(snapshot(&app, &paths).await, after);
    assert!(app.shut_down().await);
}

#[tokio::test]
async fn second_copy_copies_only_what_is_missing_and_never_damaged_files() {
    let origin = Origin::start();
    let (app, paths) = populated(&origin).await;
    let whole = snapshot(&app, &paths).await;
    let cut = app.api.upload("cut.txt", "text/plain", b"hello").await;
    let (folder, clock) = stop(app).await;
    let blob = folder
        .path()
        .join("blobs")
        .join(&cut.id[cut.id.len() - 2..])
        .join(&cut.id);
    std::fs::write(&blob, b"hullo").expect("write");
    let target = Target::new().await;
    let (from, to) = (
        folder.path().to_str().expect("path").to_owned(),
        target.location(),
    );
    let copy = async || {
        program(
            target.folder.path(),
            &["copy", "--from", &from, "--to", &to],
        )
        .await
    };

    target.bucket.set_down(true);
    let away = copy().await;
    assert!(
        !away.status.success() && stderr(&away).contains("run the same command again"),
        "{}",
        stderr(&away)
    );
    target.bucket.set_down(false);
    let copied = copy().await;
    assert!(!copied.status.success());
    let output = stdout(&copied);
    assert!(
        output.contains(&format!(
            "not copied: attachment {}: its bytes are 5 bytes with MD5",
            cut.id
        )),
        "{output}"
    );
    let app = TestApp::start_on(target.settings(), clock.clone()).await;
    assert_eq!(snapshot(&app, &paths).await, whole);
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{}", cut.id))
            .await
            .error(),
        (404, 2003)
    );
    assert!(app.shut_down().await);

    std::fs::write(&blob, b"hello").expect("write");
    let copied = copy().await;
    assert!(
        stdout(&copied)
            .starts_with("6 attachments are in the target; 1 of their files were copied now"),
        "{}",
        stdout(&copied)
    );
    let app = TestApp::start_on(target.settings(), clock).await;
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{}", cut.id))
            .await
            .expect(200)["status"],
        "complete"
    );
    assert!(app.shut_down().await);
}

#[tokio::test]
async fn copy_with_invalid_locations_fails_with_reason() {
    let folder = tempfile::tempdir().expect("folder");
    let here = folder.path().to_str().expect("path");
    each_case_async(
        [
            (here, here, "the same place"),
            (here, "/tmp/x", "there is no database at"),
            ("sqlite:///x.db", here, "this is one URL"),
            ("mysql://a,file:/tmp", here, "mysql: is not supported"),
            (
                "sqlite:///x.db?mode=rwc,ftp://a",
                here,
                "HAVERSACK_BLOBS_URL",
            ),
        ],
        async |(from, to, output)| {
            let refused = program(folder.path(), &["copy", "--from", from, "--to", to]).await;
            assert!(
                !refused.status.success() && stderr(&refused).contains(output),
                "{from}: {}",
                stderr(&refused)
            );
        },
    )
    .await;
}

#[tokio::test]
async fn copy_from_storage_in_use_fails() {
    let folder = tempfile::tempdir().expect("folder");
    let here = folder.path().to_str().expect("path");
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.storage.database_url = None;
    })
    .await;
    let served = app.folder.path().to_str().expect("path").to_owned();
    let refused = program(folder.path(), &["copy", "--from", &served, "--to", here]).await;
    assert!(
        stderr(&refused).contains("another haversack server uses"),
        "{}",
        stderr(&refused)
    );
}

/// A gateway that is unavailable.
#[derive(Debug)]
struct Unavailable;

#[async_trait::async_trait]
impl Gateway for Unavailable {
    async fn send(&self, _: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        Err(GatewayError::Retryable("unavailable".to_owned()))
    }
}

#[tokio::test]
async fn second_copy_removes_rows_deleted_since_the_first() {
    let app = TestApp::with_gateway(Arc::new(Unavailable), |settings| {
        on_disk(settings);
        settings.storage.database_url = None;
    })
    .await;
    let kept = app.api.upload("a.txt", "text/plain", b"hello").await;
    let gone = app.api.upload("b.txt", "text/plain", b"hello").await;
    let sent = app.api.send_text(&[RECIPIENT], "x").await["message"]["id"].clone();
    app.api
        .message_with_status(sent.as_str().expect("id"), "queued")
        .await;
    let settings = app.settings.clone();
    let (folder, clock) = stop(app).await;
    let target = Target::new().await;
    let (from, to) = (
        folder.path().to_str().expect("path").to_owned(),
        target.location(),
    );
    let copy = async || {
        program(
            target.folder.path(),
            &["copy", "--from", &from, "--to", &to],
        )
        .await
    };
    assert!(copy().await.status.success());
    assert_eq!(target.bucket.objects().len(), 2);

    let app = TestApp::start_on(settings, clock.clone()).await;
    app.api
        .delete(&format!("/v3/attachments/{}", gone.id))
        .await
        .expect(204);
    app.clock.advance(std::time::Duration::from_mins(2));
    app.api.send_text(&["other@example.com"], "wake up").await;
    app.api
        .message_with_status(sent.as_str().expect("id"), "delivered")
        .await;
    assert!(app.shut_down().await);
    let copied = copy().await;
    assert!(
        stdout(&copied).contains("2 rows of an earlier copy were deleted"),
        "{}",
        stdout(&copied)
    );
    assert_eq!(target.bucket.objects().len(), 1);
    let app = TestApp::start_on(target.settings(), clock).await;
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{}", gone.id))
            .await
            .error(),
        (404, 2003)
    );
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{}", kept.id))
            .await
            .expect(200)["status"],
        "complete"
    );
    let waiting = sqlx::query("SELECT 1 FROM outbox")
        .fetch_all(&mut *app.db.read().await.expect("connection"))
        .await;
    assert!(waiting.expect("rows").is_empty());
}

#[tokio::test]
async fn copy_to_a_target_used_since_the_first_copy_fails() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.storage.database_url = None;
    })
    .await;
    app.api.upload("a.txt", "text/plain", b"hello").await;
    let (folder, clock) = stop(app).await;
    let target = Target::new().await;
    let (here, there) = (
        folder.path().to_str().expect("path").to_owned(),
        target.location(),
    );
    let copy = async |from: &str, to: &str| {
        program(target.folder.path(), &["copy", "--from", from, "--to", to]).await
    };
    assert!(copy(&here, &there).await.status.success());
    let app = TestApp::start_on(target.settings(), clock.clone()).await;
    let new = app.api.upload("b.txt", "text/plain", b"hello").await;
    let path = format!("/v3/attachments/{}", new.id);
    app.api.get(&path).await.expect(200);
    assert!(app.shut_down().await);
    // From the first source again, and from an empty one.
    let empty = Target::new().await;
    drop(
        haversack::db::Db::open(&empty.database.parse().expect("URL"))
            .await
            .expect("tables"),
    );
    for from in [here, empty.location()] {
        let refused = copy(&from, &there).await;
        assert!(
            !refused.status.success() && stderr(&refused).contains("it was in use"),
            "{}",
            stderr(&refused)
        );
    }
    let app = TestApp::start_on(target.settings(), clock).await;
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "complete");
}
