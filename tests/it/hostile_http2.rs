//! Origins that speak HTTP/2, correctly or not: the tests send any frames.

use std::time::Duration;

use crate::hostile_origins::{expect_nothing, expect_reason, send};
use haversack_testkit::origin::{Certificate, Step};
use haversack_testkit::{Origin, TestApp, each_case_concurrently, until, within};

/// An HTTP/2 frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// `:status: 200`, from the static table (RFC 7541 appendix A).
pub const STATUS_200: &[u8] = &[0x88];

/// A literal header without indexing (RFC 7541 section 6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// Starts an origin that negotiates HTTP/2 and follows a script after its SETTINGS.
pub fn http2_origin(steps: Vec<Step>) -> Origin {
    let origin = Origin::with_certificate(&Certificate {
        alpn: &[b"h2", b"http/1.1"],
        ..Certificate::default()
    });
    origin.script(
        "h2",
        [vec![Step::Send(frame(SETTINGS, 0, 0, &[]))], steps].concat(),
    );
    origin
}

#[tokio::test]
async fn http2_response_is_fetched() {
    let head = [
        STATUS_200,
        &literal("content-type", "text/plain"),
        &literal("content-length", "5"),
    ]
    .concat();
    let origin = http2_origin(vec![
        Step::Send(frame(HEADERS, END_HEADERS, 1, &head)),
        Step::Send(frame(DATA, 0, 1, b"he")),
        Step::Send(frame(DATA, END_STREAM, 1, b"llo")),
        Step::Hang,
    ]);
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let sent = send(&app, &origin.url("/a.txt")).await.expect(201);
    assert_eq!(sent["chat"]["message"]["parts"][0]["size_bytes"], 5);
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

/// Returns scripts that violate HTTP/2, with the reason in the error where it is specific.
fn violations() -> Vec<(&'static str, Vec<Step>, Option<&'static str>)> {
    let head = |length: &str| [STATUS_200, &literal("content-length", length)].concat();
    let headers = |length: &str| Step::Send(frame(HEADERS, END_HEADERS, 1, &head(length)));
    let data = |bytes: &[u8], flags| Step::Send(frame(DATA, flags, 1, bytes));
    let many: Vec<u8> = (0..100)
        .flat_map(|_| literal("x", &"y".repeat(120)))
        .collect();
    vec![
        (
            "reset",
            vec![
                headers("5"),
                data(b"he", 0),
                Step::Send(frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])),
                Step::Hang,
            ],
            None,
        ),
        (
            "goaway",
            vec![Step::Send(frame(GOAWAY, 0, 0, &[0; 8])), Step::Hang],
            None,
        ),
        (
            "shorter",
            vec![headers("9"), data(b"hello", END_STREAM), Step::Hang],
            None,
        ),
        (
            "longer",
            vec![headers("2"), data(b"hello", END_STREAM), Step::Hang],
            None,
        ),
        (
            "cut",
            vec![headers("9"), data(b"hello", 0), Step::Reset],
            None,
        ),
        ("closed", vec![headers("9"), data(b"hello", 0)], None),
        ("garbage", vec![Step::Repeat(b"garbage".to_vec())], None),
        (
            "large frame",
            vec![headers("90000"), data(&[b'x'; 70_000], 0), Step::Hang],
            None,
        ),
        (
            "wrong stream",
            vec![
                Step::Send(frame(HEADERS, END_HEADERS, 2, &head("5"))),
                Step::Hang,
            ],
            None,
        ),
        (
            "endless headers",
            vec![
                Step::Send(frame(HEADERS, 0, 1, &many)),
                Step::Repeat(frame(CONTINUATION, 0, 1, &many)),
            ],
            None,
        ),
        (
            "pings",
            vec![Step::Repeat(frame(PING, 0, 0, &[0; 8]))],
            None,
        ),
        (
            "settings",
            vec![Step::Repeat(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]))],
            None,
        ),
        (
            "empty frames",
            vec![headers("5"), Step::Repeat(frame(DATA, 0, 1, &[]))],
            None,
        ),
        (
            "window",
            vec![
                headers("900000"),
                Step::Repeat(frame(DATA, 0, 1, &[b'x'; 16_384])),
            ],
            None,
        ),
        (
            "silence",
            vec![Step::Hang],
            Some("the host sent nothing for 1 s"),
        ),
    ]
}

#[tokio::test]
async fn http2_protocol_violation_returns_500() {
    each_case_concurrently(violations(), async |(name, steps, reason)| {
        let origin = http2_origin(steps);
        let app = TestApp::with_origin(&origin, |settings| {
            settings.fetch.timeout = Duration::from_secs(2);
            settings.fetch.idle_timeout = Duration::from_secs(1);
        })
        .await;
        let refused = within(send(&app, &origin.url("/a.txt"))).await;
        assert_eq!(
            refused.error(),
            (500, 5002),
            "{name}: {}",
            refused.message()
        );
        if let Some(reason) = reason {
            expect_reason(&refused, reason);
        }
        expect_nothing(&app).await;
        until(async || (origin.open_connections() == 0).then_some(())).await;
    })
    .await;
}
