//! Where a picture was taken, and by which camera: kept, unless the operator says otherwise.

use haversack::convert::private;
use serde_json::json;

use crate::support::origin::answer;
use crate::support::{Origin, TestApp, corpus, files};

/// A photograph with a place in its Exif.
const PHOTO: &str = "photo-exif-rotated.jpg";

fn tells(bytes: &[u8]) -> bool {
    let mut file = tempfile::tempfile().expect("file");
    std::io::Write::write_all(&mut file, bytes).expect("write");
    !private::patches(&mut file).expect("readable").is_empty()
}

#[tokio::test]
async fn files_stay_as_they_are_by_default() {
    let app = TestApp::start().await;
    let file = app.api.upload("a.jpg", "image/jpeg", &corpus(PHOTO)).await;
    let stored = app.api.get(&file.url).await.bytes;
    assert!(stored == corpus(PHOTO) && tells(&stored));
}

#[tokio::test]
async fn places_are_removed_before_a_file_is_stored_if_the_operator_wants_that() {
    let origin = Origin::start();
    origin.script("/a.jpg", answer("200 OK", &format!("content-length: {}", corpus(PHOTO).len()), &corpus(PHOTO)));
    let app = TestApp::with_origin(&origin, |flags| flags.strip_private_metadata = Some(true)).await;
    let bytes = corpus(PHOTO);
    let created = app.api.create("a.jpg", "image/jpeg", bytes.len()).await;
    let first = app.api.put(&created, &bytes).await;
    let again = app.api.put(&created, &bytes).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (200, 200), "the same bytes are the same bytes");
    assert_eq!(first.header("etag"), again.header("etag"));
    let sent = app.api.send_parts(json!([{"type": "media", "url": origin.url("/a.jpg")}])).await.expect(201);
    let fetched = sent["chat"]["message"]["parts"][0]["url"].as_str().expect("URL");
    for url in [created["download_url"].as_str().expect("URL"), fetched] {
        let stored = app.api.get(url).await;
        assert_eq!(stored.bytes.len(), bytes.len());
        assert!(!tells(&stored.bytes), "{url}");
        let differing = stored.bytes.iter().zip(&bytes).filter(|(a, b)| a != b).count();
        assert!((1..200).contains(&differing), "{differing}: and nothing else is touched");
    }
    assert_eq!(files(&app).await.len(), 2, "what was removed is nowhere");
    // What cannot be cleaned does not pass.
    let mut many = corpus("photo.jpg");
    many.extend(b"Exif\0\0II*\0\x08\0\0\0\0\0".repeat(600));
    let created = app.api.create("many.jpg", "image/jpeg", many.len()).await;
    assert_eq!(app.api.put(&created, &many).await.status, 200);
    let refused = app.api.send_parts(json!([{"type": "media", "attachment_id": created["attachment_id"]}])).await;
    assert_eq!(refused.error(), (400, 5004));
    assert!(refused.message().contains("more metadata than any file has"), "{}", refused.message());
    // Nothing to remove.
    let plain = app.api.upload("b.jpg", "image/jpeg", &corpus("photo.jpg")).await;
    assert_eq!(app.api.get(&plain.url).await.bytes, corpus("photo.jpg"));
}
