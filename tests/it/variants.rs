//! Variants: TIFF is delivered as JPEG, and CAF as M4A if ffmpeg is installed.

use serde_json::{Value, json};

use haversack_testkit::{
    Origin, RECIPIENT, RIVAL_LINE, TestApp, corpus, each_case_async, on_disk, origin, text, until,
    within,
};

/// Returns true if ffmpeg, which CAF needs, is installed; the tests pass with and without it.
async fn has_ffmpeg(app: &TestApp) -> bool {
    let ready = app.api.get("/readyz").await;
    assert!(
        ready.text().starts_with("ready\nffmpeg: "),
        "{}",
        ready.text()
    );
    !ready.text().contains("ffmpeg: none")
}

/// Sends a part, and returns it as the response has it.
async fn part(app: &TestApp, part: Value) -> Value {
    app.api.send_parts(json!([part])).await.expect(201)["chat"]["message"]["parts"][0].clone()
}

#[tokio::test]
async fn tiff_is_delivered_as_jpeg_and_original_is_kept() {
    let app = TestApp::start().await;
    each_case_async(
        [
            "scan-be.tif",
            "scan-le.tiff",
            "bigtiff.tif",
            "multipage.tif",
            "tiny-be.tif",
            "tiny-scan.tif",
        ],
        async |file| {
            let bytes = corpus(file);
            let uploaded = app.api.upload(file, "image/tiff", &bytes).await;
            let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
            let name = format!("{}.jpg", file.split('.').next().expect("a stem"));
            assert_eq!(
                (text(&sent, "filename"), text(&sent, "mime_type")),
                (name.as_str(), "image/jpeg"),
                "{file}"
            );
            let delivered = app.api.get(text(&sent, "url")).await;
            assert_eq!(
                (delivered.status.as_u16(), delivered.header("content-type")),
                (200, "image/jpeg"),
                "{file}"
            );
            assert_eq!(sent["size_bytes"], delivered.bytes.len(), "{file}");
            assert!(
                delivered.bytes.starts_with(b"\xff\xd8\xff")
                    && delivered.bytes.ends_with(b"\xff\xd9"),
                "{file}"
            );
            let media_info = haversack::media::probe(std::io::Cursor::new(delivered.bytes), jpeg());
            assert!(media_info.width.is_some(), "{file}");

            // The original is unchanged.
            let attachment = app
                .api
                .get(&format!("/v3/attachments/{}", uploaded.id))
                .await
                .expect(200);
            assert_eq!(
                (
                    text(&attachment, "content_type"),
                    text(&attachment, "filename")
                ),
                ("image/tiff", file)
            );
            assert_eq!(attachment["size_bytes"], bytes.len());
            assert_eq!(
                (&attachment["width"], &attachment["height"]),
                (&json!(media_info.width), &json!(media_info.height))
            );
            let original = app.api.get(text(&attachment, "download_url")).await;
            assert_eq!(
                (original.header("content-type"), &original.bytes),
                ("image/tiff", &bytes),
                "{file}"
            );
        },
    )
    .await;
}

fn jpeg() -> &'static haversack::media::MediaType {
    haversack::media::by_extension("jpg").expect("JPEG is a type")
}

#[tokio::test]
async fn concurrent_sends_build_one_variant() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let uploaded = app
        .api
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await;
    let body = json!({"type": "media", "attachment_id": uploaded.id});
    let sends = futures_util::future::join_all((0..5).map(|_| part(&app, body.clone()))).await;
    assert!(sends.iter().all(|sent| sent == &sends[0]), "{sends:?}");
    assert_eq!(app.stored_files().await.len(), 2, "original and variant");
    // The URLs of both renditions name this attachment.
    for url in [&uploaded.url, text(&sends[0], "url")] {
        assert_eq!(
            part(&app, json!({"type": "media", "url": url})).await,
            sends[0]
        );
    }
    let other = uploaded.url.replace("scan.tiff", "scan.png");
    assert_eq!(app.api.get(&other).await.status, 404);
    let refused = app
        .api
        .send_parts(json!([{"type": "media", "url": other}]))
        .await;
    assert_eq!(refused.error(), (404, 2003));
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{}", uploaded.id))
            .await
            .status,
        204
    );
    assert!(
        app.stored_files().await.is_empty(),
        "both renditions are deleted"
    );
    for url in [&uploaded.url, text(&sends[0], "url")] {
        assert_eq!(app.api.get(url).await.status, 404);
    }
}

#[tokio::test]
async fn variant_does_not_replace_original_of_same_filename() {
    let app = TestApp::on_disk().await;
    for name in ["scan.jpg".to_owned(), format!("{}.jpg", "a".repeat(251))] {
        let uploaded = app
            .api
            .upload(&name, "image/tiff", &corpus("scan-le.tiff"))
            .await;
        let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
        let delivered = app.api.get(text(&sent, "url")).await;
        assert_eq!(
            (delivered.header("content-type"), &sent["size_bytes"]),
            ("image/jpeg", &json!(delivered.bytes.len()))
        );
        assert_eq!(
            app.api.get(&uploaded.url).await.bytes,
            corpus("scan-le.tiff"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn variant_of_fetched_file_is_shared_after_304() {
    let origin = Origin::start();
    let bytes = corpus("scan-be.tif");
    origin.on("/scan.tif", move |request| {
        if request.contains("if-none-match: \"v1\"") {
            return origin::http_response("304 Not Modified", "etag: \"v1\"", b"");
        }
        let headers = format!("etag: \"v1\"\ncontent-length: {}", bytes.len());
        origin::http_response("200 OK", &headers, &bytes)
    });
    let app = TestApp::with_origin(&origin, on_disk).await;
    let url = json!({"type": "media", "url": origin.url("/scan.tif")});
    let (first, second) = (part(&app, url.clone()).await, part(&app, url.clone()).await);
    assert_ne!(first["id"], second["id"]);
    for sent in [&first, &second] {
        assert_eq!(
            (text(sent, "filename"), text(sent, "mime_type")),
            ("scan.jpg", "image/jpeg")
        );
    }
    assert_eq!(app.stored_files().await.len(), 2);
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{}", text(&first, "id")))
            .await
            .status,
        204
    );
    assert_eq!(app.api.get(text(&second, "url")).await.status, 200);
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{}", text(&second, "id")))
            .await
            .status,
        204
    );
    assert!(app.stored_files().await.is_empty());
}

#[tokio::test]
async fn tiff_of_absurd_dimensions_is_delivered_unconverted() {
    let app = TestApp::start().await;
    // A TIFF that claims 40,000 by 40,000 pixels and contains none.
    let mut bomb = b"II*\0\x08\0\0\0\x08\0".to_vec();
    for (tag, kind, value) in [
        (256_u16, 4_u16, 40_000_u32),
        (257, 4, 40_000),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (278, 4, 40_000),
        (279, 4, 1_600_000_000),
    ] {
        bomb.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bomb.extend([1_u32.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bomb.extend([0; 4]);
    let uploaded = app.api.upload("bomb.tiff", "image/tiff", &bomb).await;
    let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
    assert_eq!(
        (text(&sent, "filename"), text(&sent, "mime_type")),
        ("bomb.tiff", "image/tiff")
    );
    assert_eq!(app.api.get(text(&sent, "url")).await.bytes, bomb);
}

const CAFS: [&str; 7] = [
    "voice-pcm.caf",
    "voice-pcm-be.caf",
    "voice-ima4.caf",
    "voice-alac.caf",
    "voice-aac.caf",
    "voice-opus.caf",
    "voice-pcm-open-ended.caf",
];

#[tokio::test]
async fn caf_is_delivered_as_m4a_if_ffmpeg_is_installed() {
    let app = TestApp::start().await;
    let converts = has_ffmpeg(&app).await;
    for file in CAFS {
        let uploaded = app.api.upload(file, "audio/x-caf", &corpus(file)).await;
        let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
        let delivered = app.api.get(text(&sent, "url")).await;
        assert_eq!(
            delivered.header("content-type"),
            text(&sent, "mime_type"),
            "{file}"
        );
        if converts {
            assert_eq!(text(&sent, "filename"), file.replace(".caf", ".m4a"));
            assert_eq!(text(&sent, "mime_type"), "audio/mp4", "{file}");
            let m4a = haversack::media::by_extension("m4a").expect("M4A is a type");
            let found =
                haversack::media::identify(std::io::Cursor::new(&delivered.bytes)).expect("bytes");
            assert!(
                format!("{found:?}").contains("audio/x-m4a"),
                "{file}: {found:?}"
            );
            let media_info = haversack::media::probe(std::io::Cursor::new(delivered.bytes), m4a);
            let duration = media_info.duration_ms.expect("a duration");
            assert!(duration.abs_diff(2510) <= 60, "{file}: {duration}");
            let attachment = app
                .api
                .get(&format!("/v3/attachments/{}", uploaded.id))
                .await
                .expect(200);
            assert_eq!(
                attachment["waveform"].as_array().map(Vec::len),
                Some(64),
                "{file}"
            );
        } else {
            assert_eq!(
                (text(&sent, "filename"), text(&sent, "mime_type")),
                (file, "audio/x-caf")
            );
        }
    }
}

#[tokio::test]
async fn caf_is_delivered_unconverted_without_ffmpeg() {
    let app = TestApp::with(|settings| settings.conversion.ffmpeg = "none".into()).await;
    assert!(!has_ffmpeg(&app).await);
    let uploaded = app
        .api
        .upload("a.caf", "audio/x-caf", &corpus("voice-pcm.caf"))
        .await;
    let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
    assert_eq!(
        (text(&sent, "filename"), text(&sent, "mime_type")),
        ("a.caf", "audio/x-caf")
    );
    assert_eq!(
        app.api.get(text(&sent, "url")).await.bytes,
        corpus("voice-pcm.caf")
    );
}

#[tokio::test]
async fn program_that_is_not_ffmpeg_is_not_used() {
    let app = TestApp::with(|settings| settings.conversion.ffmpeg = "/bin/true".into()).await;
    // The send may precede the check of the program; its result must not be stored.
    let caf = app
        .api
        .upload("a.caf", "audio/x-caf", &corpus("voice-pcm.caf"))
        .await;
    let sent = part(&app, json!({"type": "media", "attachment_id": caf.id})).await;
    assert_eq!(text(&sent, "mime_type"), "audio/x-caf");
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{}", caf.id))
        .await
        .expect(200);
    assert_eq!(attachment["duration_ms"], 2500);
    assert!(!has_ffmpeg(&app).await);
}

/// Decodes a file by ffmpeg: to samples, or to the gray pixels of a small picture.
fn decoded(bytes: &[u8], arguments: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("in"), bytes).expect("write");
    let output = std::process::Command::new("ffmpeg")
        .current_dir(folder.path())
        .args(["-nostdin", "-v", "error", "-i", "in"])
        .args(arguments)
        .arg("pipe:1")
        .output()
        .expect("ffmpeg");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[tokio::test]
async fn independent_decoder_finds_same_content_in_both_renditions() {
    let app = TestApp::start().await;
    if !has_ffmpeg(&app).await {
        // There is no other decoder to compare with.
        return;
    }
    let renditions = async |file: &str, content_type: &str| {
        let uploaded = app.api.upload(file, content_type, &corpus(file)).await;
        let sent = part(&app, json!({"type": "media", "attachment_id": uploaded.id})).await;
        (corpus(file), app.api.get(text(&sent, "url")).await.bytes)
    };
    for file in CAFS {
        let (original, delivered) = renditions(file, "audio/x-caf").await;
        assert_ne!(original, delivered);
        let samples = |bytes: &[u8]| -> Vec<f64> {
            let pcm = decoded(bytes, &["-f", "s16le", "-ac", "1", "-ar", "8000"]);
            pcm.chunks_exact(2)
                .map(|sample| f64::from(i16::from_le_bytes([sample[0], sample[1]])))
                .collect()
        };
        let (original, delivered) = (samples(&original), samples(&delivered));
        // Encoders add up to one frame of silence at the end.
        assert!(
            original.len().abs_diff(delivered.len()) <= 8000 / 10,
            "{file}: {} {}",
            original.len(),
            delivered.len()
        );
        let loudness = |samples: &[f64]| {
            samples
                .iter()
                .map(|sample| sample * sample)
                .sum::<f64>()
                .sqrt()
        };
        let ratio = loudness(&delivered) / loudness(&original);
        assert!((0.95..1.05).contains(&ratio), "{file}: {ratio}");
    }
    // ffmpeg decodes the other samples (JPEG in TIFF, alpha, BigTIFF) differently from all other
    // programs.
    for file in ["scan-be.tif", "scan-le.tiff"] {
        let (original, delivered) = renditions(file, "image/tiff").await;
        let gray = |bytes: &[u8]| {
            decoded(
                bytes,
                &[
                    "-frames:v",
                    "1",
                    "-vf",
                    "scale=32:32",
                    "-pix_fmt",
                    "gray",
                    "-f",
                    "rawvideo",
                ],
            )
        };
        let (original, delivered) = (gray(&original), gray(&delivered));
        assert_eq!(original.len(), 32 * 32, "{file}");
        let apart: u32 = original
            .iter()
            .zip(&delivered)
            .map(|(a, b)| u32::from(a.abs_diff(*b)))
            .sum();
        assert!(apart / (32 * 32) <= 4, "{file}: {apart}");
    }
}

#[tokio::test]
async fn damaged_files_are_delivered_or_return_400() {
    let app = TestApp::with(|settings| settings.send.rate_limit_messages = 1000).await;
    for (file, content_type) in [
        ("voice-aac.caf", "audio/x-caf"),
        ("voice-alac.caf", "audio/x-caf"),
        ("scan-le.tiff", "image/tiff"),
        ("multipage.tif", "image/tiff"),
        ("voice.m4a", "audio/x-m4a"),
    ] {
        let whole = corpus(file);
        let middle = whole.len() / 2;
        let mut zeros = whole.clone();
        zeros[middle..].fill(0);
        let mut noise = whole.clone();
        noise[middle..]
            .iter_mut()
            .enumerate()
            .for_each(|(n, byte)| *byte ^= u8::try_from(n % 251).expect("small"));
        for broken in [zeros, noise] {
            let created = app.api.create(file, content_type, broken.len()).await;
            assert_eq!(app.api.put(&created, &broken).await.status, 200);
            let sent = app
                .api
                .send_parts(json!([{"type": "media", "attachment_id": created["attachment_id"]}]))
                .await;
            if sent.status == 400 {
                assert_eq!(sent.error(), (400, 5004), "{file}");
                continue;
            }
            let part = sent.expect(201)["chat"]["message"]["parts"][0].clone();
            let delivered = app.api.get(text(&part, "url")).await;
            assert_eq!(
                (delivered.status.as_u16(), delivered.header("content-type")),
                (200, text(&part, "mime_type"))
            );
            assert_eq!(part["size_bytes"], delivered.bytes.len(), "{file}");
        }
    }
}

#[tokio::test]
async fn slow_conversions_of_one_partner_leave_room_for_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let (program, go) = (folder.path().join("ffmpeg"), folder.path().join("go"));
    // Poses as ffmpeg, and waits until the test creates a file.
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -version ] && echo 'ffmpeg version stub' && exit\nwhile [ ! -e {} ]; do /bin/sleep 0.05; done\nexit 1\n",
        go.display()
    );
    std::fs::write(&program, script).expect("write");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("mode");
    let app = TestApp::with(|settings| {
        settings.conversion.ffmpeg = program.to_str().expect("path").into();
    })
    .await;
    let mut slow = tokio::task::JoinSet::new();
    for n in 0..3 {
        let file = app
            .api
            .upload(&format!("{n}.caf"), "audio/x-caf", &corpus("voice-pcm.caf"))
            .await;
        let api = app.api.clone();
        slow.spawn(async move {
            api.send_parts(json!([{"type": "media", "attachment_id": file.id}]))
                .await
                .status
        });
    }
    let working = app.folder.path().join("unfinished-conversions");
    until(async || (std::fs::read_dir(&working).expect("folder").count() > 0).then_some(())).await;
    let scan = app
        .rival
        .upload("scan.tiff", "image/tiff", &corpus("scan-le.tiff"))
        .await;
    let body = json!({"from": RIVAL_LINE, "to": [RECIPIENT],
        "message": {"parts": [{"type": "media", "attachment_id": scan.id}]}});
    let sent = within(app.rival.post("/v3/chats", &body)).await.expect(201);
    assert_eq!(
        sent["chat"]["message"]["parts"][0]["mime_type"],
        "image/jpeg"
    );
    std::fs::write(&go, b"").expect("write");
    while let Some(status) = slow.join_next().await {
        assert_eq!(
            status.expect("a response"),
            201,
            "a failed conversion leaves the file unconverted"
        );
    }
    assert_eq!(
        std::fs::read_dir(&working).expect("folder").count(),
        0,
        "no temporary file remains"
    );
}
