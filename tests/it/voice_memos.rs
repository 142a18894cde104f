//! Voice memos by attachment and by URL: accepted files, the response, and delivery.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use haversack::delivery::{Accepted, Gateway, GatewayError, OutgoingMessage, OutgoingPart};
use haversack::domain::message::MessageService;
use serde_json::{Value, json};

use haversack_testkit::{
    Api, LINE, Origin, RECIPIENT, Response, TestApp, corpus, each_case_async, text, until,
};

/// Creates a chat, and returns the path of its voice memos.
async fn memos(api: &Api) -> String {
    let chat = api.send_text(&[RECIPIENT], "hi").await;
    format!("/v3/chats/{}/voicememo", text(&chat, "id"))
}

async fn by_url(api: &Api, path: &str, url: &str) -> Response {
    api.post(path, &json!({"voice_memo_url": url})).await
}

async fn by_id(api: &Api, path: &str, id: &str) -> Response {
    api.post(path, &json!({"attachment_id": id})).await
}

/// Audio samples with their declared type and duration in milliseconds.
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
async fn every_audio_format_is_accepted_by_id_and_by_url() {
    let origin = Origin::start();
    let app =
        TestApp::with_origin(&origin, |settings| settings.send.rate_limit_messages = 1000).await;
    let path = memos(&app.api).await;
    each_case_async(SOUNDS, async |(file, declared, duration)| {
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
            let received = memo["duration_ms"]
                .as_u64()
                .unwrap_or_else(|| panic!("{file}: {memo}"));
            assert!(
                received.abs_diff(duration) <= 50,
                "{file}: {received}, not {duration}"
            );
            let delivered = app.api.get(text(memo, "url")).await;
            assert_eq!(delivered.status, 200, "{file}");
            assert_eq!(
                delivered.header("content-type"),
                text(memo, "mime_type"),
                "{file}"
            );
            assert_eq!(
                delivered.bytes.len() as u64,
                memo["size_bytes"].as_u64().expect("size"),
                "{file}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn voice_memo_response_has_documented_fields() {
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

    // A voice memo is a message as well.
    let message = app
        .api
        .message_with_status(text(&sent, "id"), "delivered")
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
async fn file_that_is_not_audio_returns_400() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let path = memos(&app.api).await;
    each_case_async(
        [
            ("clip.mp4", "video/mp4", "an MP4 video"),
            ("photo.jpg", "image/jpeg", "a JPEG image"),
            ("notes.txt", "text/plain", "text"),
            ("tune.mid", "audio/midi", "MIDI"),
            ("voice-amr.3gp", "video/3gpp", "3GPP"),
        ],
        async |(file, declared, found)| {
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
        },
    )
    .await;
}

#[tokio::test]
async fn audio_without_samples_returns_400() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let path = memos(&app.api).await;
    let silent = [&corpus("sound.wav")[..40], &0_u32.to_le_bytes()].concat();
    let silent = app
        .api
        .upload("silent.wav", "audio/x-wav", &silent)
        .await
        .id;
    assert_eq!(by_id(&app.api, &path, &silent).await.error(), (400, 5004));
    // A file with valid headers and no audio data.
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
}

#[tokio::test]
async fn invalid_voice_memo_request_returns_documented_code() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let path = memos(&app.api).await;
    let sound = app
        .api
        .upload("a.m4a", "audio/x-m4a", &corpus("voice.m4a"))
        .await
        .id;
    each_case_async(
        [
            (json!({}), (400, 1001)),
            (
                json!({"voice_memo_url": null, "attachment_id": ""}),
                (400, 1001),
            ),
            (
                json!({"voice_memo_url": origin.url("/a.m4a"), "attachment_id": sound}),
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
        ],
        async |(body, expected)| {
            assert_eq!(app.api.post(&path, &body).await.error(), expected, "{body}");
        },
    )
    .await;
    let unknown = "/v3/chats/01990000-0000-7000-8000-000000000001/voicememo";
    assert_eq!(by_id(&app.api, unknown, &sound).await.error(), (404, 2001));
    assert_eq!(by_id(&app.rival, &path, &sound).await.error(), (404, 2001));
    let messages = app
        .api
        .get(&path.replace("voicememo", "messages"))
        .await
        .expect(200);
    assert_eq!(
        messages["messages"].as_array().map(Vec::len),
        Some(1),
        "no voice memo was sent"
    );
}

#[tokio::test]
async fn voice_memo_above_10_mib_returns_413() {
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
        "the limit is for voice memos only"
    );
}

/// A gateway that records type and size of each file, and whether it is a voice memo.
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
        Ok(Accepted::Delivered(MessageService::IMessage))
    }
}

#[tokio::test]
async fn gateway_gets_voice_memo_flag() {
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
    let received = until(async || {
        let received = gateway.0.lock().expect("lock").clone();
        (received.len() == 2).then_some(received)
    })
    .await;
    let size = corpus("tagged.mp3").len() as u64;
    assert_eq!(
        received,
        [
            (true, "audio/mpeg".to_owned(), size),
            (false, "audio/mpeg".to_owned(), size)
        ]
    );
}

#[tokio::test]
async fn url_of_own_file_is_accepted_as_voice_memo() {
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
async fn file_that_is_not_audio_is_not_converted() {
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
