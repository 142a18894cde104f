//! `haversack gc`: orphaned blobs, and attachments with missing blobs.

use std::fs::File;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::copy::program;
use haversack_testkit::program::stdout;
use haversack_testkit::{BucketServer, TestApp, corpus, text};

#[tokio::test]
async fn gc_of_folder_reports_orphans_and_missing_blobs() {
    check_gc(false).await;
}

#[tokio::test]
async fn gc_of_bucket_reports_orphans_and_missing_blobs() {
    check_gc(true).await;
}

async fn check_gc(in_bucket: bool) {
    let bucket = BucketServer::start().await;
    let app = TestApp::with(|settings| {
        settings.storage.database_url = None;
        settings.storage.blobs_url = in_bucket.then(|| bucket.url());
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
            .expect("delete the row");
    }
    let removed = |id: &str| {
        let folder = app.folder.path().join("blobs").join(&id[id.len() - 2..]);
        if in_bucket {
            bucket.file_of(id)
        } else {
            folder.join(id)
        }
    };
    std::fs::remove_file(removed(&lost.id)).expect("delete the file");
    let two_days_ago = SystemTime::now() - Duration::from_hours(48);
    let orphaned = File::options()
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
        stdout(&young).contains("1 unreferenced files younger than a day"),
        "{}",
        stdout(&young)
    );
    orphaned.set_modified(two_days_ago).expect("time");
    for dry in [&["--dry-run"][..], &[]] {
        let found = gc(dry).await;
        let output = stdout(&found);
        assert!(
            output.contains("1 files referenced by attachments"),
            "{output}"
        );
        assert!(
            output.contains("1 orphaned files, 5 bytes") && output.contains(&orphan.id),
            "{output}"
        );
        let problem = format!(
            "missing: attachment {}: its file of 5 bytes is missing",
            lost.id
        );
        assert!(
            output.contains(&problem) && !found.status.success(),
            "{output}"
        );
        assert_eq!(
            app.stored_files().await.len(),
            2,
            "gc deletes nothing itself"
        );
        // The deletion is due by the system clock, which is ahead of the test's.
        app.background.sweep().await.expect("sweep");
        assert_eq!(app.stored_files().await.len(), 2);
    }
    app.clock.advance(Duration::from_hours(24 * 365 * 2));
    app.background.sweep().await.expect("sweep");
    assert_eq!(app.stored_files().await.len(), 1);
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{}", kept.id))
            .await
            .expect(200)["status"],
        "complete"
    );
}

#[tokio::test]
async fn orphan_replaced_by_a_rebuilt_variant_is_not_deleted() {
    let bucket = BucketServer::start().await;
    let app = TestApp::with(|settings| {
        settings.storage.database_url = None;
        settings.storage.blobs_url = Some(bucket.url());
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
    // The state after a database restore: the variant exists, and its row does not refer to it.
    let orphan = bucket.file_of("scan.tiff").with_file_name("scan.jpg");
    std::fs::write(&orphan, b"an old variant").expect("write");
    let two_days_ago = SystemTime::now() - Duration::from_hours(48);
    File::options()
        .append(true)
        .open(&orphan)
        .and_then(|file| file.set_modified(two_days_ago))
        .expect("time");
    let found = program(app.folder.path(), &["gc", "--blobs-url", &bucket.url()]).await;
    assert!(
        stdout(&found).contains("1 orphaned files, 14 bytes"),
        "{}",
        stdout(&found)
    );
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": scan.id}]))
        .await
        .expect(201);
    app.clock.advance(Duration::from_hours(24 * 365 * 2));
    app.background.sweep().await.expect("sweep");
    let picture = app
        .api
        .get(text(&sent["chat"]["message"]["parts"][0], "url"))
        .await;
    assert_eq!(
        (picture.status.as_u16(), picture.header("content-type")),
        (200, "image/jpeg")
    );
}
