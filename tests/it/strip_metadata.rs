//! Removal of private metadata (Exif location, camera), which is off by default.

use haversack::transcode::strip_metadata;
use serde_json::json;

use haversack_testkit::origin::http_response;
use haversack_testkit::{Origin, TestApp, corpus, text};

/// A photo with a location in its Exif.
const PHOTO: &str = "photo-exif-rotated.jpg";

/// Returns true if the bytes contain private metadata.
fn has_metadata(bytes: &[u8]) -> bool {
    let mut file = tempfile::tempfile().expect("file");
    std::io::Write::write_all(&mut file, bytes).expect("write");
    !strip_metadata::patches(&mut file)
        .expect("readable")
        .is_empty()
}

#[tokio::test]
async fn metadata_is_kept_by_default() {
    let app = TestApp::start().await;
    let file = app.api.upload("a.jpg", "image/jpeg", &corpus(PHOTO)).await;
    let stored = app.api.get(&file.url).await.bytes;
    assert!(stored == corpus(PHOTO) && has_metadata(&stored));
}

#[tokio::test]
async fn location_is_removed_from_uploads_and_fetched_files() {
    let origin = Origin::start();
    origin.script(
        "/a.jpg",
        http_response(
            "200 OK",
            &format!("content-length: {}", corpus(PHOTO).len()),
            &corpus(PHOTO),
        ),
    );
    let app = TestApp::with_origin(&origin, |settings| {
        settings.attachments.strip_private_metadata = true;
    })
    .await;
    let bytes = corpus(PHOTO);
    let created = app.api.create("a.jpg", "image/jpeg", bytes.len()).await;
    let first = app.api.put(&created, &bytes).await;
    let again = app.api.put(&created, &bytes).await;
    assert_eq!(
        (first.status.as_u16(), again.status.as_u16()),
        (200, 200),
        "a repeated upload is compared by its original bytes"
    );
    assert_eq!(first.header("etag"), again.header("etag"));
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "url": origin.url("/a.jpg")}]))
        .await
        .expect(201);
    let fetched = text(&sent["chat"]["message"]["parts"][0], "url");
    for url in [text(&created, "download_url"), fetched] {
        let stored = app.api.get(url).await;
        assert_eq!(stored.bytes.len(), bytes.len());
        assert!(!has_metadata(&stored.bytes), "{url}");
        let differing = stored
            .bytes
            .iter()
            .zip(&bytes)
            .filter(|(a, b)| a != b)
            .count();
        assert!(
            (1..200).contains(&differing),
            "{differing}: only the metadata changes"
        );
    }
    assert_eq!(
        app.stored_files().await.len(),
        2,
        "only the stripped files are stored"
    );
}

#[tokio::test]
async fn jpeg_with_too_much_metadata_returns_400() {
    let app = TestApp::with(|settings| settings.attachments.strip_private_metadata = true).await;
    let mut many = corpus("photo.jpg");
    many.extend(b"Exif\0\0II*\0\x08\0\0\0\0\0".repeat(600));
    let created = app.api.create("many.jpg", "image/jpeg", many.len()).await;
    assert_eq!(app.api.put(&created, &many).await.status, 200);
    let refused = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": created["attachment_id"]}]))
        .await;
    assert_eq!(refused.error(), (400, 5004));
    assert!(
        refused
            .message()
            .contains("more metadata than any file has"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn file_without_metadata_is_stored_unchanged() {
    let app = TestApp::with(|settings| settings.attachments.strip_private_metadata = true).await;
    let plain = app
        .api
        .upload("b.jpg", "image/jpeg", &corpus("photo.jpg"))
        .await;
    assert_eq!(app.api.get(&plain.url).await.bytes, corpus("photo.jpg"));
}

/// Returns a PNG with these chunks.
fn png(chunks: impl IntoIterator<Item = (&'static [u8; 4], Vec<u8>)>) -> Vec<u8> {
    let header = (b"IHDR", vec![0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0]);
    let pixel = (
        b"IDAT",
        vec![0x78, 0x9c, 0x63, 0x60, 0x60, 0x60, 0, 0, 0, 4, 0, 1],
    );
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in std::iter::once(header)
        .chain(chunks)
        .chain([pixel, (b"IEND", Vec::new())])
    {
        bytes.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
        bytes.extend(kind);
        bytes.extend(&data);
        bytes.extend(crc32fast::hash(&[&kind[..], &data].concat()).to_be_bytes());
    }
    bytes
}

/// Returns a JPEG with an Exif directory whose next directory is itself, and whose 500 entries all
/// point to a second one; the 500 entries of that all point to one maker note.
fn jpeg_with_looping_directories() -> Vec<u8> {
    const ENTRIES: u16 = 500;
    let (sub, tail) = (6014_u32, 12_020_u32);
    let entry = |tag: u16, kind: u16, count: u32, value: u32| {
        [
            &tag.to_le_bytes()[..],
            &kind.to_le_bytes(),
            &count.to_le_bytes(),
            &value.to_le_bytes(),
        ]
        .concat()
    };
    let directory = |entry: Vec<u8>, next: u32| {
        [
            &ENTRIES.to_le_bytes()[..],
            &entry.repeat(ENTRIES.into()),
            &next.to_le_bytes(),
        ]
        .concat()
    };
    let note = vec![b'n'; 40_000];
    let exif = [
        b"II*\0\x08\0\0\0".to_vec(),
        directory(entry(0x8769, 4, 1, sub), 8),
        directory(entry(0x927c, 7, 40_000, tail), 0),
        note,
    ];
    let exif = exif.concat();
    let mut bytes = b"\xff\xd8\xff\xe1".to_vec();
    bytes.extend(u16::try_from(exif.len() + 8).expect("short").to_be_bytes());
    bytes.extend(b"Exif\0\0");
    bytes.extend(exif);
    bytes.extend(&corpus("photo.jpg")[2..]);
    bytes
}

#[tokio::test]
async fn cyclic_exif_directories_are_read_once() {
    let app = TestApp::with(|settings| settings.attachments.strip_private_metadata = true).await;
    let bytes = jpeg_with_looping_directories();
    let file = app.api.upload("loops.jpg", "image/jpeg", &bytes).await;
    let stored = app.api.get(&file.url).await.bytes;
    assert_eq!(stored.len(), bytes.len());
    assert!(
        stored.ends_with(&corpus("photo.jpg")[2..]),
        "the image data is unchanged"
    );
    assert!(
        !stored.windows(10).any(|piece| piece == b"nnnnnnnnnn"),
        "the maker note is removed"
    );
}

#[tokio::test]
async fn location_after_many_png_chunks_is_removed() {
    let app = TestApp::with(|settings| settings.attachments.strip_private_metadata = true).await;
    let place = (b"tEXt", b"exif:GPSLatitude\x0052.31N".to_vec());
    let many = std::iter::repeat_n((b"tEXt", Vec::new()), 100_001);
    let bytes = png(many.chain([place]));
    let file = app.api.upload("many.png", "image/png", &bytes).await;
    let stored = app.api.get(&file.url).await.bytes;
    assert_eq!(stored.len(), bytes.len());
    assert!(!stored.windows(6).any(|piece| piece == b"52.31N"));
}

#[tokio::test]
async fn png_with_too_many_profiles_returns_400() {
    let app = TestApp::with(|settings| settings.attachments.strip_private_metadata = true).await;
    let bytes = png(std::iter::repeat_n(
        (b"tEXt", b"Raw profile type".to_vec()),
        501,
    ));
    let created = app.api.create("many.png", "image/png", bytes.len()).await;
    assert_eq!(app.api.put(&created, &bytes).await.status, 200);
    let refused = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": created["attachment_id"]}]))
        .await;
    assert_eq!(refused.error(), (400, 5004));
    assert!(
        refused
            .message()
            .contains("more metadata than any file has"),
        "{}",
        refused.message()
    );
}
