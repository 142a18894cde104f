//! Hostile audio and pictures: they fail alone, and neither the server nor another partner is
//! affected.

use std::os::unix::fs::PermissionsExt;

use futures_util::future::join_all;
use haversack::config::Settings;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::sandbox::processes;
use haversack_testkit::program::{Server, haversack};
use haversack_testkit::{
    Api, Origin, RECIPIENT, RIVAL_LINE, Response, TestApp, corpus, fault, text, until, within,
};

async fn memo(api: &Api, source: Value) -> Response {
    let chat = api.send_text(&[RECIPIENT], "hi").await;
    api.post(
        &format!("/v3/chats/{}/voicememo", text(&chat, "id")),
        &source,
    )
    .await
}

async fn send_file(api: &Api, name: &str, media_type: &str, bytes: &[u8]) -> Value {
    let uploaded = api.upload(name, media_type, bytes).await;
    let sent = api
        .send_parts(json!([{"type": "media", "attachment_id": uploaded.id}]))
        .await
        .expect(201);
    sent["chat"]["message"]["parts"][0].clone()
}

/// Writes a program that poses as ffmpeg and never ends. `mark`, its argument, distinguishes its
/// processes from those of other tests.
fn endless_ffmpeg(folder: &tempfile::TempDir, mark: &str) -> String {
    let path = folder.path().join("ffmpeg");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -version ] && {{ echo 'ffmpeg version 0'; exit; }}\nexec sleep {mark}\n"
    );
    std::fs::write(&path, script).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    path.to_str().expect("path").to_owned()
}

#[tokio::test]
async fn sound_that_crashes_its_decoder_returns_400() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    for name in ["lpcm_frames.m4a", "lpcm_channels.m4a", "trun_count.m4a"] {
        let bytes = fault(name);
        let uploaded = app.api.upload(name, "audio/x-m4a", &bytes).await;
        origin.file(&format!("/{name}"), "audio/x-m4a", &bytes);
        for source in [
            json!({"attachment_id": uploaded.id}),
            json!({"voice_memo_url": origin.url(&format!("/{name}"))}),
        ] {
            let refused = memo(&app.api, source).await;
            assert_eq!(refused.error(), (400, 5004), "{name}");
            assert!(
                refused
                    .message()
                    .contains("holds no sound that can be played"),
                "{}",
                refused.message()
            );
        }
    }
    assert_eq!(app.budget_used("conversions"), 0);
}

#[tokio::test]
async fn picture_that_crashes_its_decoder_is_delivered_unconverted() {
    let app = TestApp::start().await;
    let sent = send_file(
        &app.api,
        "tiles.tif",
        "image/tiff",
        &fault("tile_planar.tif"),
    )
    .await;
    assert_eq!(sent["mime_type"], "image/tiff");
}

/// Returns a TIFF of one column of `count` gray pixels, with one strip per pixel that all point to
/// the same byte.
fn one_pixel_strips(count: u32) -> Vec<u8> {
    let (base, fields) = (8 + 2 + 10 * 12 + 4_u32, 10_u16);
    let (offsets, counts) = (base + 2, base + 2 + 4 * count);
    let entries: [(u16, u16, u32, u32); 10] = [
        (256, 4, 1, 1),
        (257, 4, 1, count),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, count, offsets),
        (277, 3, 1, 1),
        (278, 4, 1, 1),
        (279, 4, count, counts),
        (284, 3, 1, 1),
    ];
    let mut bytes = [&b"II*\0\x08\0\0\0"[..], &fields.to_le_bytes()].concat();
    for (tag, kind, count, value) in entries {
        bytes.extend(
            [
                &tag.to_le_bytes()[..],
                &kind.to_le_bytes(),
                &count.to_le_bytes(),
                &value.to_le_bytes(),
            ]
            .concat(),
        );
    }
    bytes.extend([0, 0, 0, 0, 0x80, 0]);
    bytes.extend(base.to_le_bytes().repeat(count as usize));
    bytes.extend(1_u32.to_le_bytes().repeat(count as usize));
    bytes
}

#[tokio::test]
async fn picture_too_large_for_jpeg_is_delivered_unconverted() {
    let app = TestApp::start().await;
    let sent = send_file(
        &app.api,
        "strips.tif",
        "image/tiff",
        &one_pixel_strips(2_000_000),
    )
    .await;
    assert_eq!(sent["mime_type"], "image/tiff");
}

#[tokio::test]
async fn picture_of_many_strips_is_converted() {
    let app = TestApp::start().await;
    let sent = send_file(
        &app.api,
        "strips.tif",
        "image/tiff",
        &one_pixel_strips(1000),
    )
    .await;
    assert_eq!(sent["mime_type"], "image/jpeg", "a small one is converted");
}

#[tokio::test]
async fn sound_with_absurd_sample_rate_is_delivered_unconverted() {
    let folder = tempfile::tempdir().expect("folder");
    let ffmpeg = endless_ffmpeg(&folder, "4712.1");
    let app = TestApp::with(|settings| settings.conversion.ffmpeg = ffmpeg.into()).await;
    let sent = within(send_file(
        &app.api,
        "slow.caf",
        "audio/x-caf",
        &fault("caf_1hz.caf"),
    ))
    .await;
    assert_eq!(sent["mime_type"], "audio/x-caf");
    assert!(processes("4712.1").is_empty());
}

#[tokio::test]
async fn endless_conversions_of_one_partner_do_not_delay_another() {
    let folder = tempfile::tempdir().expect("folder");
    let ffmpeg = endless_ffmpeg(&folder, "4712.2");
    let settings = |settings: &mut Settings| {
        settings.conversion.ffmpeg = ffmpeg.into();
        settings.conversion.max_conversions = 2;
        settings.conversion.max_conversions_per_partner = 1;
        settings.send.rate_limit_messages = 1000;
    };
    let app = TestApp::with(settings).await;
    // One conversion runs and 64 wait, so the refusal of one more shows that all have asked.
    let files = (0..66).map(async |n| {
        let name = format!("{n}.caf");
        let caf = corpus("voice-pcm.caf");
        app.api.upload(&name, "audio/x-caf", &caf).await.id
    });
    let sends: Vec<_> = join_all(files)
        .await
        .into_iter()
        .map(|id| {
            let api = app.api.clone();
            tokio::spawn(async move {
                api.send_parts(json!([{"type": "media", "attachment_id": id}]))
                    .await
            })
        })
        .collect();
    until(async || (app.budget_refusals("conversions", "share") == 1).then_some(())).await;
    until(async || (!processes("sleep\x004712.2").is_empty()).then_some(())).await;
    let tiff = app
        .rival
        .upload("a.tif", "image/tiff", &corpus("tiny-be.tif"))
        .await;
    let body = json!({"from": RIVAL_LINE, "to": [RECIPIENT],
        "message": {"parts": [{"type": "media", "attachment_id": tiff.id}]}});
    let sent = within(app.rival.post("/v3/chats", &body)).await.expect(201);
    assert_eq!(
        sent["chat"]["message"]["parts"][0]["mime_type"],
        "image/jpeg"
    );
    assert_eq!(
        processes("sleep\x004712.2").len(),
        1,
        "at most one per partner"
    );
    assert_eq!(app.budget_peak("conversions"), 2);
    sends.iter().for_each(tokio::task::JoinHandle::abort);
    until(async || processes("4712.2").is_empty().then_some(())).await;
    until(async || (app.budget_used("conversions") == 0).then_some(())).await;
}

#[tokio::test]
async fn killed_server_leaves_no_decoder_process() {
    let (data, folder) = (
        tempfile::tempdir().expect("folder"),
        tempfile::tempdir().expect("folder"),
    );
    let ffmpeg = endless_ffmpeg(&folder, "4712.3");
    let server = Server::run(
        haversack(data.path())
            .env("HAVERSACK_FFMPEG", ffmpeg)
            .arg("serve"),
    );
    let line = server.banner_value("Phone number").to_owned();
    let key: &'static str = server.banner_value("API key").to_owned().leak();
    let address = server
        .banner_value("API base")
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("host")
        .to_owned();
    let api = Api::new(address.parse().expect("address"), key);
    let caf = api
        .upload("a.caf", "audio/x-caf", &corpus("voice-pcm.caf"))
        .await;
    let body = json!({"from": line, "to": [RECIPIENT],
        "message": {"parts": [{"type": "media", "attachment_id": caf.id}]}});
    let send = tokio::spawn(async move { api.post("/v3/chats", &body).await });
    until(async || (!processes("sleep\x004712.3").is_empty()).then_some(())).await;
    server.signal(Signal::KILL);
    server.wait();
    until(async || processes("4712.3").is_empty().then_some(())).await;
    send.abort();
}
