//! Media by URL: what a send fetches, stores and answers.

use serde_json::{Value, json};

use crate::support::{Answer, Origin, TestApp};

const PHOTO: &[u8] = include_bytes!("data/photo.jpg");

fn media(url: &str) -> Value {
    json!({"type": "media", "url": url})
}

#[tokio::test]
async fn a_photo_is_fetched_on_every_send() {
    let origin = Origin::start().await;
    origin.file("/a/holiday%20photo.jpg?size=1", "image/jpeg", PHOTO);
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let url = origin.url("/a/holiday%20photo.jpg?size=1");
    let sent = app.api.send_parts(json!([media(&url)])).await.expect(201);
    let part = &sent["chat"]["message"]["parts"][0];
    assert_eq!(part["filename"], "holiday photo.jpg");
    assert_eq!(part["mime_type"], "image/jpeg");
    assert_eq!(part["size_bytes"], PHOTO.len());
    let file = app.api.get(part["url"].as_str().expect("URL")).await;
    assert_eq!((file.status.as_u16(), file.bytes.as_slice()), (200, PHOTO));
    assert_eq!(file.header("content-type"), "image/jpeg");
    let id = part["id"].as_str().expect("id");
    let attachment = app.api.get(&format!("/v3/attachments/{id}")).await.expect(200);
    assert_eq!(attachment["status"], "complete");
    assert_eq!(attachment["content_type"], "image/jpeg");
    assert_eq!(attachment["download_url"], part["url"]);

    let again = app.api.send_parts(json!([media(&url)])).await.expect(201);
    assert_ne!(again["chat"]["message"]["parts"][0]["id"], part["id"], "a new attachment each time");
    assert_eq!(origin.requests().len(), 2);
    let request = origin.requests()[0].to_lowercase();
    assert!(request.starts_with("get /a/holiday%20photo.jpg?size=1 http/1.1\r\n"), "{request}");
    for header in ["accept-encoding: identity", "user-agent: haversack/", "accept: */*"] {
        assert!(request.contains(header), "{request}");
    }
    for header in ["cookie", "authorization", "referer", "range"] {
        assert!(!request.contains(header), "{request}");
    }
}
