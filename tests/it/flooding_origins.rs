//! Origins that send far more than a file: the bytes read from the socket are bounded.

use std::time::Duration;

use serde_json::json;

use crate::hostile_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS,
    STATUS_200, frame, http2_origin, literal,
};
use crate::hostile_origins::{expect_nothing, send};
use haversack_testkit::origin::{Step, http_response};
use haversack_testkit::{Origin, TestApp, each_case_async, until, within};

const PRIORITY: u8 = 2;
const WINDOW_UPDATE: u8 = 8;
const PADDED: u8 = 8;
/// An unassigned HTTP/2 frame type.
const UNKNOWN: u8 = 0xfa;
/// Allowance of bytes besides the file and a fifth of it.
const OVERHEAD: u64 = 256 * 1024;

/// Sends the URL of an origin, and asserts that it fails as a flood after no more bytes than the
/// allowance.
async fn expect_flood(origin: &Origin, what: &str, reason: &str) {
    // The timeouts are longer than the test waits, so only the allowance can end the flood.
    let app = TestApp::with_origin(origin, |settings| {
        settings.fetch.timeout = Duration::from_mins(1);
        settings.fetch.idle_timeout = Duration::from_mins(1);
    })
    .await;
    let refused = within(send(&app, &origin.url("/a.txt"))).await;
    assert_eq!(
        refused.error(),
        (500, 5002),
        "{what}: {}",
        refused.message()
    );
    assert!(
        refused.message().ends_with(reason),
        "{what}: {}",
        refused.message()
    );
    let raw = app.metric("haversack_fetch_raw_bytes_total");
    let file = app.metric("haversack_fetched_bytes_total");
    assert!(
        raw > 0 && raw <= OVERHEAD + file + file / 5,
        "{what}: {raw} bytes for {file}"
    );
    let metrics = app.anonymous().get("/metrics").await;
    assert!(
        metrics
            .text()
            .contains("haversack_fetches_total{outcome=\"flood\"} 1"),
        "{what}"
    );
    expect_nothing(&app).await;
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

const BYTES: &str = "the host sent far more than the file: over 256 KiB that are not part of it";
const PIECES: &str = "the host sent far more than the file: it came in too many small pieces";

/// Returns a script of a chunked body that repeats these bytes.
fn chunked_flood(repeated: &[u8]) -> Vec<Step> {
    [
        http_response("200 OK", "transfer-encoding: chunked", b""),
        vec![Step::Repeat(repeated.repeat(100))],
    ]
    .concat()
}

fn repeat(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Step {
    Step::Repeat(frame(kind, flags, stream, payload).repeat(100))
}

/// Returns the headers of a response of 900,000 bytes.
fn begun() -> Step {
    let head = [STATUS_200, &literal("content-length", "900000")].concat();
    Step::Send(frame(HEADERS, END_HEADERS, 1, &head))
}

/// Sends the URL of an origin, and asserts that it fails after no more bytes than the allowance.
async fn expect_bounded_failure(origin: &Origin) {
    let app = TestApp::with_origin(origin, |settings| {
        settings.fetch.timeout = Duration::from_mins(1);
    })
    .await;
    let refused = within(send(&app, &origin.url("/a.txt"))).await;
    assert_eq!(refused.error(), (500, 5002), "{}", refused.message());
    let file = app.metric("haversack_fetched_bytes_total");
    let raw = app.metric("haversack_fetch_raw_bytes_total");
    assert!(raw <= OVERHEAD + file + file / 5, "{raw} bytes for {file}");
    expect_nothing(&app).await;
}

#[tokio::test]
async fn http1_flood_ends_at_the_allowance() {
    let chunked = chunked_flood;
    let interim = |text: &str| vec![Step::Repeat(text.as_bytes().repeat(100))];
    let padded_size = [&b"00000000000040\r\n"[..], &[b'x'; 64], b"\r\n"].concat();
    each_case_async(
        [
            (
                "100 Continue",
                BYTES,
                interim("HTTP/1.1 100 Continue\r\n\r\n"),
            ),
            (
                "103 Early Hints",
                BYTES,
                interim("HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n"),
            ),
            ("zeros in sizes", BYTES, chunked(&padded_size)),
            ("one-byte chunks", PIECES, chunked(b"1\r\nx\r\n")),
            ("leading zeros", PIECES, chunked(b"00000001\r\nx\r\n")),
        ],
        async |(what, reason, steps)| {
            let origin = Origin::start();
            origin.script("/a.txt", steps);
            expect_flood(&origin, what, reason).await;
        },
    )
    .await;
}

#[tokio::test]
async fn http1_flood_that_the_http_library_rejects_stays_within_allowance() {
    let chunked = chunked_flood;
    let zeros = [b"0".repeat(4000), b"1\r\nx\r\n".to_vec()].concat();
    each_case_async(
        [
            ("chunk extensions", chunked(b"1;a=bcdefghijklmnop\r\nx\r\n")),
            ("thousands of zeros", chunked(&zeros)),
            ("an endless size", chunked(b"0000000000")),
            (
                "trailers",
                [
                    http_response("200 OK", "transfer-encoding: chunked", b"1\r\nx\r\n0\r\n"),
                    chunked(b"x: y\r\n"),
                ]
                .concat(),
            ),
        ],
        async |(_, steps)| {
            let origin = Origin::start();
            origin.script("/a.txt", steps);
            expect_bounded_failure(&origin).await;
        },
    )
    .await;
}

#[tokio::test]
async fn http2_flood_ends_at_the_allowance() {
    each_case_async(
        [
            (
                "WINDOW_UPDATE",
                vec![begun(), repeat(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])],
            ),
            (
                "WINDOW_UPDATE of the stream",
                vec![begun(), repeat(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
            ),
            (
                "PRIORITY",
                vec![begun(), repeat(PRIORITY, 0, 1, &[0, 0, 0, 3, 7])],
            ),
            (
                "PRIORITY of other streams",
                vec![repeat(PRIORITY, 0, 5, &[0, 0, 0, 3, 7])],
            ),
            (
                "SETTINGS",
                vec![repeat(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])],
            ),
            ("empty SETTINGS", vec![begun(), repeat(SETTINGS, 0, 0, &[])]),
            ("PING", vec![repeat(PING, 0, 0, &[0; 8])]),
            (
                "PING acknowledgements",
                vec![begun(), repeat(PING, 1, 0, &[0; 8])],
            ),
            (
                "unknown frames",
                vec![begun(), repeat(UNKNOWN, 0, 0, b"whatever")],
            ),
            ("empty unknown frames", vec![repeat(UNKNOWN, 0, 1, b"")]),
        ],
        async |(what, steps)| {
            expect_flood(&http2_origin(steps), what, BYTES).await;
        },
    )
    .await;
}

#[tokio::test]
async fn http2_flood_that_the_http_library_rejects_stays_within_allowance() {
    let padded = [&[255][..], b"x", &[0; 255]].concat();
    each_case_async(
        [
            (
                "GOAWAY",
                vec![repeat(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])],
            ),
            ("RST_STREAM", vec![repeat(RST_STREAM, 0, 3, &[0, 0, 0, 8])]),
            ("one-byte DATA", vec![begun(), repeat(DATA, 0, 1, b"x")]),
            (
                "padded DATA",
                vec![begun(), repeat(DATA, PADDED, 1, &padded)],
            ),
            ("empty DATA", vec![begun(), repeat(DATA, 0, 1, b"")]),
            (
                "CONTINUATION",
                vec![
                    Step::Send(frame(HEADERS, 0, 1, STATUS_200)),
                    repeat(CONTINUATION, 0, 1, b""),
                ],
            ),
            ("garbage", vec![Step::Repeat(vec![0xff; 5000])]),
        ],
        async |(_, steps)| expect_bounded_failure(&http2_origin(steps)).await,
    )
    .await;
}

#[tokio::test]
async fn http2_interim_responses_above_limit_end_the_fetch() {
    // By HPACK references, a byte on the wire becomes a whole header in memory.
    let link = [vec![0x40, 4], b"link".to_vec(), vec![100], vec![b'x'; 100]].concat();
    let hints = |headers: &[u8]| {
        frame(
            HEADERS,
            END_HEADERS,
            1,
            &[&[8, 3], &b"103"[..], headers].concat(),
        )
    };
    let origin = http2_origin(vec![
        Step::Send(hints(&link)),
        Step::Repeat(hints(&[0xbe; 400])),
    ]);
    let reason = "the host sent far more than the file: it came with more than 8 header blocks";
    expect_flood(&origin, "103", reason).await;
}

#[tokio::test]
async fn three_http2_interim_responses_are_accepted() {
    let link = [vec![0x40, 4], b"link".to_vec(), vec![100], vec![b'x'; 100]].concat();
    let hints = |headers: &[u8]| {
        frame(
            HEADERS,
            END_HEADERS,
            1,
            &[&[8, 3], &b"103"[..], headers].concat(),
        )
    };
    let head = [
        STATUS_200,
        &literal("content-type", "text/plain"),
        &literal("content-length", "5"),
    ]
    .concat();
    let origin = http2_origin(vec![
        Step::Send(hints(&link).repeat(3)),
        Step::Send(frame(HEADERS, END_HEADERS, 1, &head)),
        Step::Send(frame(DATA, END_STREAM, 1, b"hello")),
        Step::Hang,
    ]);
    let app = TestApp::with_origin(&origin, |_| {}).await;
    assert_eq!(send(&app, &origin.url("/a.txt")).await.status, 201);
}

#[tokio::test]
async fn redirects_share_one_allowance() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let large = "y".repeat(60_000);
    for hop in 0..6 {
        let headers = format!("x: {large}\nlocation: /{}.txt\ncontent-length: 0", hop + 1);
        origin.script(
            &format!("/{hop}.txt"),
            http_response("302 Found", &headers, b""),
        );
    }
    let refused = send(&app, &origin.url("/0.txt")).await;
    assert_eq!(refused.error(), (500, 5002));
    assert!(
        refused
            .message()
            .ends_with(&format!("after a redirect: {BYTES}")),
        "{}",
        refused.message()
    );
    assert!(app.metric("haversack_fetch_raw_bytes_total") <= OVERHEAD);
}

#[tokio::test]
async fn large_http1_files_are_fetched_whole() {
    let file = vec![b'x'; 10 * 1024 * 1024];
    let over_http1 = Origin::start();
    over_http1.file("/a.txt", "text/plain", &file);
    let chunks: Vec<u8> = file
        .chunks(100)
        .flat_map(|chunk| [b"64\r\n", chunk, b"\r\n"].concat())
        .collect();
    let whole = file.len() / 100 * 100;
    let rest = format!(
        "{:x}\r\n{}\r\n0\r\n\r\n",
        file.len() - whole,
        "x".repeat(file.len() - whole)
    );
    let chunks = [&chunks[..whole / 100 * 106], rest.as_bytes()].concat();
    over_http1.script(
        "/chunks.txt",
        http_response("200 OK", "transfer-encoding: chunked", &chunks),
    );
    let app = TestApp::with_origin(&over_http1, |_| {}).await;
    for path in ["/a.txt", "/chunks.txt"] {
        let part = json!([{"type": "media", "url": over_http1.url(path)}]);
        assert_eq!(app.api.send_parts(part).await.status, 201, "{path}");
    }
}

#[tokio::test]
async fn http2_file_within_initial_window_is_fetched_whole() {
    // The origin has no flow control, so the file fits the initial window (RFC 9113 section 6.9.2).
    let small = vec![b'x'; 60_000];
    let head_of_small = [STATUS_200, &literal("content-length", "60000")].concat();
    let frames = small
        .chunks(10_000)
        .flat_map(|chunk| frame(DATA, 0, 1, chunk));
    let over_http2 = http2_origin(vec![
        Step::Send(frame(HEADERS, END_HEADERS, 1, &head_of_small)),
        Step::Send(frames.collect()),
        Step::Send(frame(DATA, END_STREAM, 1, b"")),
        Step::Hang,
    ]);
    let app = TestApp::with_origin(&over_http2, |_| {}).await;
    assert_eq!(send(&app, &over_http2.url("/a.txt")).await.status, 201);
}
