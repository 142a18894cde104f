//! Voice memos: which files can be one, both ways in, and what carriers and clients are told.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use haversack::delivery::{Accepted, Gateway, GatewayError, OutgoingMessage, OutgoingPart};
use haversack::domain::message::Service;
use serde_json::{Value, json};

use haversack_testkit::{Api, LINE, Origin, RECIPIENT, Response, TestApp, corpus, until};

/// A chat to send into; the path of its voice memos.
async fn memos(api: &Api) -> String {
    let chat = api.send_text(&[RECIPIENT], "hi").await;
    format!("/v3/chats/{}/voicememo", chat["id"].as_str().expect("id"))
}

async fn by_url(api: &Api, path: &str, url: &str) -> Response {
    api.post(path, &json!({"voice_memo_url": url})).await
}

async fn by_id(api: &Api, path: &str, id: &str) -> Response {
    api.post(path, &json!({"attachment_id": id})).await
}

/// Sounds of the samples, their declared type, and how long they are in milliseconds, as media-types research measured
/// them or as they were made.
const SOUNDS: [(&str, &str, u64); 22] = [
    ("voice.m4a", "audio/x-m4a", 2500),
    ("voice-alac.m4a", "audio/x-m4a", 2500),
    ("voice-fragmented.m4a", "audio/mp4", 2523),
    ("recording-isom.m4a", "audio/x-m4a", 2500),
    ("voice.aac", "audio/aac", 2532),
    ("voice-id3.aac", "audio/aac", 2532),
    ("stereo-48k.aac", "audio/aac", 2539),
    ("song-cbr-id3v1.mp3", "audio/mpeg", 2577),
    ("song-vbr-xing.mp3", "audio/mp3", 2534),
    ("song-vbr-noxing.mp3", "audio/mpeg", 2534),
    ("song-mpeg25.mp3", "audio/mpeg", 2664),
    ("sound.wav", "audio/x-wav", 2500),
    ("sound-ima.wav", "audio/wav", 2551),
    ("sound-rf64.wav", "audio/x-wav", 2500),
    ("sound-streamed.wav", "audio/x-wav", 2500),
    ("sound.aiff", "audio/x-aiff", 2500),
    ("sound-sowt.aifc", "audio/aiff", 2500),
    ("voice-pcm.caf", "audio/x-caf", 2500),
    ("voice-aac.caf", "audio/x-caf", 2530),
    ("voice-opus.caf", "audio/x-caf", 2520),
    ("voice.amr", "audio/amr", 2500),
    ("voice-wb.amr", "audio/amr", 3380),
];

#[tokio::test]
async fn every_format_both_ways_in() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |flags| flags.rate_limit_messages = Some(1000)).await;
    let path = memos(&app.api).await;
    for (file, declared, duration) in SOUNDS {
        let bytes = corpus(file);
        let uploaded = app.api.upload(file, declared, &bytes).await;
        origin.file(&format!("/{file}"), "application/octet-stream", &bytes);
        let first = by_id(&app.api, &path, &uploaded.id).await.expect(202);
        let second = by_url(&app.api, &path, &origin.url(&format!("/{file}")))
            .await
            .expect(202);
        assert_eq!(first["voice_memo"]["voice_memo"]["id"], uploaded.id);
        for sent in [first, second] {
            let memo = &sent["voice_memo"]["voice_memo"];
            let told = memo["duration_ms"]
                .as_u64()
                .unwrap_or_else(|| panic!("{file}: {memo}"));
            assert!(
                told.abs_diff(duration) <= 50,
                "{file}: {told}, not {duration}"
            );
            let delivered = app.api.get(memo["url"].as_str().expect("URL")).await;
            assert_eq!(delivered.status, 200, "{file}");
            assert_eq!(
                delivered.header("content-type"),
                memo["mime_type"].as_str().expect("type"),
                "{file}"
            );
            assert_eq!(
                delivered.bytes.len() as u64,
                memo["size_bytes"].as_u64().expect("size"),
                "{file}"
            );
        }
    }
}

#[tokio::test]
async fn the_answer_has_what_clients_expect() {
    let app = TestApp::start().await;
    let path = memos(&app.api).await;
    let file = app
        .api
        .upload("memo.m4a", "audio/mp4", &corpus("voice.m4a"))
        .await;
    let sent = by_id(&app.api, &path, &file.id).await.expect(202)["voice_memo"].clone();
    assert_eq!(
        (&sent["from"], &sent["to"]),
        (&json!(LINE), &json!([RECIPIENT]))
    );
    assert_eq!(
        (&sent["status"], &sent["service"]),
        (&json!("queued"), &json!("iMessage"))
    );
    let expected = json!({"id": file.id, "url": file.url, "filename": "memo.m4a", "mime_type": "audio/x-m4a",
        "size_bytes": corpus("voice.m4a").len(), "duration_ms": 2500});
    assert_eq!(sent["voice_memo"], expected);
    let chat = &sent["chat"];
    assert_eq!(
        (&chat["is_group"], &chat["is_active"], &chat["service"]),
        (&json!(false), &json!(true), &json!("iMessage"))
    );
    assert_eq!(chat["handles"].as_array().expect("handles").len(), 2);

    // It is a message like any other.
    let message = app
        .api
        .message_with_status(sent["id"].as_str().expect("id"), "delivered")
        .await;
    assert_eq!(message["parts"][0]["id"], file.id);
    assert_eq!(
        (
            &message["chat_id"],
            message["parts"].as_array().map(Vec::len)
        ),
        (&chat["id"], Some(1))
    );
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{}", file.id))
        .await
        .expect(200);
    assert_eq!(
        (&attachment["channels"], &attachment["sample_rate"]),
        (&json!(1), &json!(44_100))
    );
    let waveform: Vec<u64> = attachment["waveform"]
        .as_array()
        .expect("waveform")
        .iter()
        .map(|point| point.as_u64().expect("a number"))
        .collect();
    assert!(
        waveform.len() == 64 && waveform.iter().any(|point| *point > 20),
        "{waveform:?}"
    );
}

#[tokio::test]
async fn what_is_no_voice_memo_is_refused() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let path = memos(&app.api).await;
    for (file, declared, found) in [
        ("clip.mp4", "video/mp4", "an MP4 video"),
        ("photo.jpg", "image/jpeg", "a JPEG image"),
        ("notes.txt", "text/plain", "text"),
        ("tune.mid", "audio/midi", "MIDI"),
        ("voice-amr.3gp", "video/3gpp", "3GPP"),
    ] {
        let id = app.api.upload(file, declared, &corpus(file)).await.id;
        origin.file(&format!("/{file}"), declared, &corpus(file));
        for refused in [
            by_id(&app.api, &path, &id).await,
            by_url(&app.api, &path, &origin.url(&format!("/{file}"))).await,
        ] {
            assert_eq!(refused.error(), (400, 5004), "{file}");
            assert!(
                refused.message().contains(found),
                "{file}: {}",
                refused.message()
            );
        }
    }
    // Sound by its header, but none that plays.
    let silent = [&corpus("sound.wav")[..40], &0_u32.to_le_bytes()].concat();
    let silent = app
        .api
        .upload("silent.wav", "audio/x-wav", &silent)
        .await
        .id;
    assert_eq!(by_id(&app.api, &path, &silent).await.error(), (400, 5004));
    // Sound by all its headers, but of which nothing can be decoded.
    let mut broken = corpus("voice-faststart.m4a");
    let data = broken
        .windows(4)
        .position(|four| four == b"mdat")
        .expect("a box of data")
        + 4;
    broken.truncate(data);
    let id = app
        .api
        .upload("broken.m4a", "audio/x-m4a", &broken)
        .await
        .id;
    origin.file("/broken.m4a", "audio/mp4", &broken);
    for refused in [
        by_id(&app.api, &path, &id).await,
        by_url(&app.api, &path, &origin.url("/broken.m4a")).await,
    ] {
        assert_eq!(refused.error(), (400, 5004));
        assert!(
            refused
                .message()
                .contains("holds no sound that can be played"),
            "{}",
            refused.message()
        );
    }
    for (body, expected) in [
        (json!({}), (400, 1001)),
        (
            json!({"voice_memo_url": null, "attachment_id": ""}),
            (400, 1001),
        ),
        (
            json!({"voice_memo_url": origin.url("/a.m4a"), "attachment_id": silent}),
            (400, 1005),
        ),
        (
            json!({"voice_memo_url": "http://a.example/a.m4a"}),
            (400, 1005),
        ),
        (json!({"attachment_id": "x"}), (400, 1005)),
        (
            json!({"attachment_id": "01990000-0000-7000-8000-000000000001"}),
            (404, 2003),
        ),
        (
            json!({"voice_memo_url": origin.url("/none.m4a")}),
            (500, 5002),
        ),
        (
            json!({"voice_memo_url": "https://10.0.0.1/a.m4a"}),
            (500, 5002),
        ),
        (json!({"voice_memo_url": 1}), (400, 1003)),
    ] {
        assert_eq!(app.api.post(&path, &body).await.error(), expected, "{body}");
    }
    let unknown = "/v3/chats/01990000-0000-7000-8000-000000000001/voicememo";
    assert_eq!(by_id(&app.api, unknown, &silent).await.error(), (404, 2001));
    assert_eq!(by_id(&app.rival, &path, &silent).await.error(), (404, 2001));
    let messages = app
        .api
        .get(&path.replace("voicememo", "messages"))
        .await
        .expect(200);
    assert_eq!(
        messages["messages"].as_array().map(Vec::len),
        Some(1),
        "nothing of all this was sent"
    );
}

#[tokio::test]
async fn a_voice_memo_has_ten_mebibytes_at_most() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let path = memos(&app.api).await;
    let wav = |size: usize| {
        let mut bytes = corpus("sound.wav");
        bytes.resize(size, 0);
        bytes
    };
    let (most, more) = (wav(10 * 1024 * 1024), wav(10 * 1024 * 1024 + 1));
    origin.file("/most.wav", "audio/wav", &most);
    origin.file("/more.wav", "audio/wav", &more);
    assert_eq!(
        by_url(&app.api, &path, &origin.url("/most.wav"))
            .await
            .status,
        202
    );
    assert_eq!(
        by_url(&app.api, &path, &origin.url("/more.wav"))
            .await
            .error(),
        (413, 5005)
    );
    let id = app.api.upload("more.wav", "audio/wav", &more).await.id;
    assert_eq!(by_id(&app.api, &path, &id).await.error(), (413, 5005));
    let part = json!([{"type": "media", "attachment_id": id}]);
    assert_eq!(
        app.api.send_parts(part).await.status,
        201,
        "it can be sent as a file"
    );
}

/// A carrier that remembers what it was told.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<(bool, String, u64)>>);

#[async_trait]
impl Gateway for Recorder {
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        if let [OutgoingPart::Media(file)] = message.parts.as_slice() {
            let size = file.open().await.expect("store").expect("file").size();
            assert_eq!(size, file.size_bytes);
            self.0
                .lock()
                .expect("lock")
                .push((message.voice_memo, file.media_type.clone(), size));
        }
        Ok(Accepted::Delivered(Service::IMessage))
    }
}

#[tokio::test]
async fn carriers_are_told_what_is_a_voice_memo() {
    let gateway = Arc::new(Recorder::default());
    let app = TestApp::with_gateway(gateway.clone(), |_| {}).await;
    let path = memos(&app.api).await;
    let file = app
        .api
        .upload("a.mp3", "audio/mpeg", &corpus("tagged.mp3"))
        .await;
    by_id(&app.api, &path, &file.id).await.expect(202);
    app.api
        .send_parts(json!([{"type": "media", "url": file.url}]))
        .await
        .expect(201);
    let told = until(async || {
        let told = gateway.0.lock().expect("lock").clone();
        (told.len() == 2).then_some(told)
    })
    .await;
    let size = corpus("tagged.mp3").len() as u64;
    assert_eq!(
        told,
        [
            (true, "audio/mpeg".to_owned(), size),
            (false, "audio/mpeg".to_owned(), size)
        ]
    );
}

#[tokio::test]
async fn our_own_files_are_voice_memos_by_url_too() {
    let app = TestApp::start().await;
    let path = memos(&app.api).await;
    let file = app
        .api
        .upload("a.amr", "audio/amr", &corpus("voice.amr"))
        .await;
    let rival = app
        .rival
        .upload("a.amr", "audio/amr", &corpus("voice.amr"))
        .await;
    let sent: Value = by_url(&app.api, &path, &file.url).await.expect(202);
    assert_eq!(sent["voice_memo"]["voice_memo"]["id"], file.id);
    assert_eq!(
        by_url(&app.api, &path, &rival.url).await.error(),
        (404, 2003)
    );
    assert_eq!(by_id(&app.api, &path, &rival.id).await.error(), (404, 2003));
}

#[tokio::test]
async fn what_is_no_voice_memo_is_not_converted_first() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let path = memos(&app.api).await;
    origin.file("/scan.tiff", "image/tiff", &corpus("scan-le.tiff"));
    let id = app
        .api
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await
        .id;
    let before = app.stored_files().await.len();
    assert_eq!(
        by_url(&app.api, &path, &origin.url("/scan.tiff"))
            .await
            .error(),
        (400, 5004)
    );
    assert_eq!(by_id(&app.api, &path, &id).await.error(), (400, 5004));
    assert_eq!(app.stored_files().await.len(), before);
    let metrics = app.api.get("/metrics").await;
    assert!(
        metrics
            .text()
            .contains("haversack_fetches_total{outcome=\"refused\"} 1"),
        "{}",
        metrics.text()
    );
}
