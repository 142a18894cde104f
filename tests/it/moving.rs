//! Moving to another database and another store and back, and what does not fit between the two.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use haversack::clock::MockClock;
use haversack::config::Flags;
use haversack::delivery::{Accepted, Gateway, GatewayError, OutgoingMessage};
use serde_json::{Value, json};

use haversack_testkit::bucket::credential;
use haversack_testkit::origin::response;
use haversack_testkit::program::{haversack, run, stderr, stdout};
use haversack_testkit::{
    BucketServer, LINE, Origin, RECIPIENT, TestApp, corpus, on_disk, postgres,
};

const PHOTO: &[u8] = include_bytes!("data/photo.jpg");

/// Runs the program while the servers of this process go on.
async fn program(data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = haversack(data_dir);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        command.env(name, credential(name).expect("a credential"));
    }
    command.args(arguments);
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .expect("no panic")
}

/// A bucket and a database for it: PostgreSQL if the tests have one.
struct Elsewhere {
    bucket: BucketServer,
    database: String,
    folder: tempfile::TempDir,
}

impl Elsewhere {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let sqlite = format!("sqlite://{}/elsewhere.db?mode=rwc", folder.path().display());
        let database = postgres::create_schema().await.unwrap_or(sqlite);
        Self {
            bucket: BucketServer::start().await,
            database,
            folder,
        }
    }

    fn place(&self) -> String {
        format!("{},{}", self.database, self.bucket.url())
    }

    fn flags(&self) -> Flags {
        let (database_url, blobs_url) = (Some(self.database.clone()), Some(self.bucket.url()));
        Flags {
            database_url,
            blobs_url,
            ..Flags::default()
        }
    }
}

/// What clients see of everything: answers by URL, and files by the path of theirs.
#[derive(Debug, PartialEq)]
struct Seen {
    answers: Vec<(String, Value)>,
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

async fn look(app: &TestApp, paths: &[String]) -> Seen {
    let base = format!("http://{}", app.address);
    let (mut answers, mut urls) = (Vec::new(), Vec::new());
    for path in paths {
        let answer = app.api.get(path).await.expect(200);
        for key in ["url", "download_url"] {
            collect(&answer, key, &mut urls);
        }
        let text = answer.to_string().replace(&base, "http://server");
        answers.push((path.clone(), serde_json::from_str(&text).expect("JSON")));
    }
    let mut files = Vec::new();
    for url in urls.into_iter().filter(|url| !url.is_empty()) {
        let file = app.anonymous().get(&url).await;
        assert_eq!(file.status, 200, "{url}");
        files.push((url.replace(&base, "http://server"), file.bytes));
    }
    Seen { answers, files }
}

/// A server on disk with some of everything, and the URLs that show it.
async fn furnished(origin: &Origin) -> (TestApp, Vec<String>) {
    origin.on("/a.jpg", |request| {
        if request.contains("\r\nif-none-match: \"v1\"\r\n") {
            return response("304 Not Modified", "etag: \"v1\"", b"");
        }
        response(
            "200 OK",
            &format!("etag: \"v1\"\ncontent-length: {}", PHOTO.len()),
            PHOTO,
        )
    });
    let app = TestApp::with_origin(origin, |flags| {
        on_disk(flags);
        flags.database_url = None;
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
        waiting["attachment_id"].as_str().expect("id")
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
        let id = sent["chat"]["message"]["id"]
            .as_str()
            .expect("id")
            .to_owned();
        app.api.message_with_status(&id, "delivered").await;
        paths.push(format!("/v3/messages/{id}"));
        paths.push(format!(
            "/v3/chats/{}/messages",
            sent["chat"]["id"].as_str().expect("id")
        ));
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
async fn everything_moves_to_a_bucket_and_back() {
    let origin = Origin::start();
    let (app, paths) = furnished(&origin).await;
    let before = look(&app, &paths).await;
    let (folder, clock) = stop(app).await;
    let elsewhere = Elsewhere::new().await;
    let from = folder.path().to_str().expect("path").to_owned();

    let copied = program(
        elsewhere.folder.path(),
        &["copy", "--from", &from, "--to", &elsewhere.place()],
    )
    .await;
    assert!(copied.status.success(), "{}", stderr(&copied));
    // Two uploads, the picture made of one, and a file that two attachments share, which in a bucket is two.
    assert!(
        stdout(&copied).starts_with("5 attachments are there, 5 files"),
        "{}",
        stdout(&copied)
    );
    let app = TestApp::start_on(elsewhere.flags(), clock.clone()).await;
    assert_eq!(look(&app, &paths).await, before);
    assert_eq!(elsewhere.bucket.objects().len(), 5);
    // Each is called what its URL says, so that a CDN finds it without us.
    let objects = elsewhere.bucket.objects();
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
    // It goes on there: what was shared goes each for itself.
    let (first, second) = (
        &before.answers[9].1["parts"][0],
        &before.answers[11].1["parts"][0],
    );
    let id = |part: &Value| part["id"].as_str().expect("id").to_owned();
    app.api
        .delete(&format!("/v3/attachments/{}", id(first)))
        .await
        .expect(204);
    assert_eq!(elsewhere.bucket.objects().len(), 4);
    let kept = second["url"]
        .as_str()
        .expect("URL")
        .replace("http://server", "");
    assert_eq!(app.api.get(&kept).await.bytes, PHOTO);
    let paths: Vec<String> = paths
        .into_iter()
        .filter(|path| !path.contains(&id(first)))
        .collect();
    let after = look(&app, &paths).await;
    assert!(app.shut_down().await);

    let back = tempfile::tempdir().expect("folder");
    let to = back.path().to_str().expect("path").to_owned();
    let copied = program(
        elsewhere.folder.path(),
        &["copy", "--from", &elsewhere.place(), "--to", &to],
    )
    .await;
    assert!(copied.status.success(), "{}", stderr(&copied));
    let app = TestApp::start_on(
        Flags {
            data_dir: Some(back.path().to_owned()),
            ..Flags::default()
        },
        clock,
    )
    .await;
    assert_eq!(look(&app, &paths).await, after);
    assert!(app.shut_down().await);
}

#[tokio::test]
async fn what_was_moved_is_not_moved_again_and_what_is_not_whole_not_at_all() {
    let origin = Origin::start();
    let (app, paths) = furnished(&origin).await;
    let whole = look(&app, &paths).await;
    let cut = app.api.upload("cut.txt", "text/plain", b"hello").await;
    let (folder, clock) = stop(app).await;
    let blob = folder
        .path()
        .join("blobs")
        .join(&cut.id[cut.id.len() - 2..])
        .join(&cut.id);
    std::fs::write(&blob, b"hullo").expect("write");
    let elsewhere = Elsewhere::new().await;
    let (from, to) = (
        folder.path().to_str().expect("path").to_owned(),
        elsewhere.place(),
    );
    let copy = async || {
        program(
            elsewhere.folder.path(),
            &["copy", "--from", &from, "--to", &to],
        )
        .await
    };

    elsewhere.bucket.set_down(true);
    let away = copy().await;
    assert!(
        !away.status.success() && stderr(&away).contains("begin anew"),
        "{}",
        stderr(&away)
    );
    elsewhere.bucket.set_down(false);
    let copied = copy().await;
    assert!(!copied.status.success());
    let told = stdout(&copied);
    assert!(
        told.contains(&format!(
            "left: attachment {}: its bytes are 5 bytes with MD5",
            cut.id
        )),
        "{told}"
    );
    let app = TestApp::start_on(elsewhere.flags(), clock.clone()).await;
    assert_eq!(look(&app, &paths).await, whole);
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
        stdout(&copied).starts_with("6 attachments are there, 1 files of them moved now"),
        "{}",
        stdout(&copied)
    );
    let app = TestApp::start_on(elsewhere.flags(), clock).await;
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
async fn places_that_are_none_are_told() {
    let folder = tempfile::tempdir().expect("folder");
    let here = folder.path().to_str().expect("path");
    for (from, to, told) in [
        (here, here, "the same place"),
        (here, "/tmp/x", "there is no database at"),
        ("sqlite:///x.db", here, "this is one URL"),
        ("mysql://a,file:/tmp", here, "HAVERSACK_DATABASE_URL"),
        (
            "sqlite:///x.db?mode=rwc,ftp://a",
            here,
            "HAVERSACK_BLOBS_URL",
        ),
    ] {
        let refused = program(folder.path(), &["copy", "--from", from, "--to", to]).await;
        assert!(
            !refused.status.success() && stderr(&refused).contains(told),
            "{from}: {}",
            stderr(&refused)
        );
    }
    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.database_url = None;
    })
    .await;
    let served = app.folder.path().to_str().expect("path").to_owned();
    let refused = program(folder.path(), &["copy", "--from", &served, "--to", here]).await;
    assert!(
        stderr(&refused).contains("another haversack serves from"),
        "{}",
        stderr(&refused)
    );
}

#[tokio::test]
async fn what_nothing_names_is_found_and_removed_by_the_sweeper() {
    for in_bucket in [false, true] {
        let bucket = BucketServer::start().await;
        let app = TestApp::with(|flags| {
            flags.database_url = None;
            flags.blobs_url = in_bucket.then(|| bucket.url());
        })
        .await;
        let kept = app.api.upload("a.txt", "text/plain", b"hello").await;
        let lost = app.api.upload("b.txt", "text/plain", b"hello").await;
        for file in [&kept, &lost] {
            app.api
                .get(&format!("/v3/attachments/{}", file.id))
                .await
                .expect(200);
        }
        let orphan = app.api.upload("c.txt", "text/plain", b"hello").await;
        app.api
            .get(&format!("/v3/attachments/{}", orphan.id))
            .await
            .expect(200);
        for id in [&orphan.id, &lost.id] {
            let statement = "DELETE FROM attachments WHERE id = $1 AND filename = 'c.txt'";
            sqlx::query(statement)
                .bind(id)
                .execute(&mut *app.db.read().await.expect("connection"))
                .await
                .expect("a row is lost");
        }
        let removed = |id: &str| {
            let folder = app.folder.path().join("blobs").join(&id[id.len() - 2..]);
            if in_bucket {
                bucket.file_of(id)
            } else {
                folder.join(id)
            }
        };
        std::fs::remove_file(removed(&lost.id)).expect("a file is lost");
        let two_days_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(48);
        let orphaned = std::fs::File::options()
            .append(true)
            .open(removed(&orphan.id))
            .expect("the orphan");
        let gc = async |arguments: &[&str]| {
            let mut command = vec!["gc"];
            command.extend(arguments);
            let url = bucket.url();
            if in_bucket {
                command.extend(["--blobs-url", &url]);
            }
            program(app.folder.path(), &command).await
        };

        let young = gc(&[]).await;
        assert!(
            stdout(&young).contains("1 files that nothing names and that are younger"),
            "{}",
            stdout(&young)
        );
        orphaned.set_modified(two_days_ago).expect("time");
        for dry in [&["--dry-run"][..], &[]] {
            let found = gc(dry).await;
            let told = stdout(&found);
            assert!(told.contains("1 files that attachments name"), "{told}");
            assert!(
                told.contains("1 files that nothing names, 5 bytes") && told.contains(&orphan.id),
                "{told}"
            );
            let problem = format!(
                "lost: attachment {}: its file of 5 bytes is missing",
                lost.id
            );
            assert!(told.contains(&problem) && !found.status.success(), "{told}");
            assert_eq!(
                app.stored_files().await.len(),
                2,
                "it removes nothing itself"
            );
            // The request is of now, and the server's clock is that of the test.
            app.service.sweep().await.expect("sweep");
            assert_eq!(app.stored_files().await.len(), 2);
        }
        app.clock
            .advance(std::time::Duration::from_hours(24 * 365 * 2));
        app.service.sweep().await.expect("sweep");
        assert_eq!(app.stored_files().await.len(), 1);
        assert_eq!(
            app.api
                .get(&format!("/v3/attachments/{}", kept.id))
                .await
                .expect(200)["status"],
            "complete"
        );
    }
}

/// A carrier that takes nothing.
#[derive(Debug)]
struct Away;

#[async_trait::async_trait]
impl Gateway for Away {
    async fn send(&self, _: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        Err(GatewayError::Retryable("it is away".to_owned()))
    }
}

#[tokio::test]
async fn what_was_deleted_or_delivered_since_a_copy_is_not_there_after_the_next() {
    let app = TestApp::with_gateway(Arc::new(Away), |flags| {
        on_disk(flags);
        flags.database_url = None;
    })
    .await;
    let kept = app.api.upload("a.txt", "text/plain", b"hello").await;
    let gone = app.api.upload("b.txt", "text/plain", b"hello").await;
    let sent = app.api.send_text(&[RECIPIENT], "x").await["message"]["id"].clone();
    app.api
        .message_with_status(sent.as_str().expect("id"), "queued")
        .await;
    let flags = app.flags.clone();
    let (folder, clock) = stop(app).await;
    let elsewhere = Elsewhere::new().await;
    let (from, to) = (
        folder.path().to_str().expect("path").to_owned(),
        elsewhere.place(),
    );
    let copy = async || {
        program(
            elsewhere.folder.path(),
            &["copy", "--from", &from, "--to", &to],
        )
        .await
    };
    assert!(copy().await.status.success());
    assert_eq!(elsewhere.bucket.objects().len(), 2);

    let app = TestApp::start_on(flags, clock.clone()).await;
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
    assert_eq!(elsewhere.bucket.objects().len(), 1);
    let app = TestApp::start_on(elsewhere.flags(), clock).await;
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
async fn an_orphan_whose_name_is_given_again_is_not_removed() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with(|flags| {
        flags.database_url = None;
        flags.blobs_url = Some(bucket.url());
    })
    .await;
    let scan = app
        .api
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await;
    app.api
        .get(&format!("/v3/attachments/{}", scan.id))
        .await
        .expect(200);
    // As a database that was restored finds it: what was made of the scan is there, and its row does not say so.
    let orphan = bucket.file_of("scan.tiff").with_file_name("scan.jpg");
    std::fs::write(&orphan, b"an earlier one").expect("write");
    let two_days_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(48);
    std::fs::File::options()
        .append(true)
        .open(&orphan)
        .and_then(|file| file.set_modified(two_days_ago))
        .expect("time");
    let found = program(app.folder.path(), &["gc", "--blobs-url", &bucket.url()]).await;
    assert!(
        stdout(&found).contains("1 files that nothing names, 14 bytes"),
        "{}",
        stdout(&found)
    );
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": scan.id}]))
        .await
        .expect(201);
    app.clock
        .advance(std::time::Duration::from_hours(24 * 365 * 2));
    app.service.sweep().await.expect("sweep");
    let picture = app
        .api
        .get(
            sent["chat"]["message"]["parts"][0]["url"]
                .as_str()
                .expect("URL"),
        )
        .await;
    assert_eq!(
        (picture.status.as_u16(), picture.header("content-type")),
        (200, "image/jpeg")
    );
}

#[tokio::test]
async fn what_was_used_since_a_copy_is_not_undone_by_another() {
    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.database_url = None;
    })
    .await;
    app.api.upload("a.txt", "text/plain", b"hello").await;
    let (folder, clock) = stop(app).await;
    let elsewhere = Elsewhere::new().await;
    let (here, there) = (
        folder.path().to_str().expect("path").to_owned(),
        elsewhere.place(),
    );
    let copy = async |from: &str, to: &str| {
        program(
            elsewhere.folder.path(),
            &["copy", "--from", from, "--to", to],
        )
        .await
    };
    assert!(copy(&here, &there).await.status.success());
    let app = TestApp::start_on(elsewhere.flags(), clock.clone()).await;
    let new = app.api.upload("b.txt", "text/plain", b"hello").await;
    let path = format!("/v3/attachments/{}", new.id);
    app.api.get(&path).await.expect(200);
    assert!(app.shut_down().await);
    // The same once more, as on the day before; and from a place that is empty.
    let empty = Elsewhere::new().await;
    drop(
        haversack::db::Db::open(&empty.database.parse().expect("URL"))
            .await
            .expect("tables"),
    );
    for from in [here, empty.place()] {
        let refused = copy(&from, &there).await;
        assert!(
            !refused.status.success() && stderr(&refused).contains("it was in use"),
            "{}",
            stderr(&refused)
        );
    }
    let app = TestApp::start_on(elsewhere.flags(), clock).await;
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "complete");
}
