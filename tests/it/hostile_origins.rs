//! Malicious and broken origins: their responses, sizes, headers and timing. A failed fetch returns
//! an error and leaves no file.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;

use haversack_testkit::origin::{Step, http_response};
use haversack_testkit::program::{Server, haversack};
use haversack_testkit::{Api, Origin, Response, TestApp, each_case_async, until, within};

const TEXT: &str = "content-type: text/plain\ncontent-length: 5";

pub async fn send(app: &TestApp, url: &str) -> Response {
    app.api
        .send_parts(json!([{"type": "media", "url": url}]))
        .await
}

/// Asserts that a send failed with code 5002 for this reason.
#[track_caller]
pub fn expect_reason(response: &Response, reason: &str) {
    assert_eq!(response.error(), (500, 5002), "{}", response.message());
    assert!(
        response.message().ends_with(&format!(": {reason}")),
        "{}",
        response.message()
    );
}

/// Asserts that a failed send left no chat, no file and no temporary file.
pub async fn expect_nothing(app: &TestApp) {
    let chats = app.api.get("/v3/chats").await.expect(200);
    assert_eq!(chats["chats"], json!([]));
    assert_eq!(app.stored_files().await, Vec::<String>::new());
}

/// Responses without a usable file: status, headers, body and the reason in the error.
const UNUSABLE: [(&str, &str, &str, &str); 18] = [
    (
        "404 Not Found",
        "content-length: 0",
        "",
        "the host answered 404",
    ),
    (
        "403 Forbidden",
        "content-length: 6",
        "secret",
        "the host answered 403",
    ),
    ("500 Oh", "content-length: 0", "", "the host answered 500"),
    ("204 No Content", "x: y", "", "the host answered 204"),
    (
        "205 Reset Content",
        "content-length: 0",
        "",
        "the host answered 205",
    ),
    ("304 Not Modified", "x: y", "", "the host answered 304"),
    (
        "300 Multiple Choices",
        "content-length: 0",
        "",
        "the host answered 300",
    ),
    (
        "206 Partial Content",
        "content-range: bytes 0-4/9\ncontent-length: 5",
        "hello",
        "the host sent only a part of the file",
    ),
    (
        "206 Partial Content",
        TEXT,
        "hello",
        "the host sent only a part of the file",
    ),
    (
        "200 OK",
        "content-encoding: gzip\ncontent-length: 5",
        "hello",
        "the host sent the file with a content encoding; it must send it as it is",
    ),
    (
        "200 OK",
        "content-encoding: identity, br\ncontent-length: 5",
        "hello",
        "the host sent the file with a content encoding; it must send it as it is",
    ),
    (
        "200 OK",
        "content-length: 9",
        "hello",
        "the connection ended before the whole file had come",
    ),
    (
        "200 OK",
        "content-length: 5\ncontent-length: 6",
        "hello!",
        "the host's answer is not valid HTTP",
    ),
    (
        "200 OK",
        "content-length: five",
        "hello",
        "the host's answer is not valid HTTP",
    ),
    (
        "200 OK",
        "transfer-encoding: chunked",
        "5\r\nhello\r\n",
        "the connection ended before the whole file had come",
    ),
    (
        "200 OK",
        "transfer-encoding: chunked",
        "xyz\r\nhello\r\n0\r\n\r\n",
        "the connection ended before the whole file had come",
    ),
    (
        "200 OK",
        "transfer-encoding: gzip",
        "hello",
        "the host sent the file with a content encoding; it must send it as it is",
    ),
    (
        "200 OK\r\nbroken header",
        TEXT,
        "hello",
        "the host's answer is not valid HTTP",
    ),
];

#[tokio::test]
async fn response_without_usable_file_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let path = "/a.txt";
    each_case_async(UNUSABLE, async |(status, headers, body, reason)| {
        origin.script(path, http_response(status, headers, body.as_bytes()));
        let refused = send(&app, &origin.url(path)).await;
        expect_reason(&refused, reason);
        assert!(!refused.message().contains("secret"));
    })
    .await;
    expect_nothing(&app).await;
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn response_that_is_not_http_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let responses = [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"\0\0\0", b""];
    each_case_async(responses, async |garbage| {
        origin.script("/a.txt", vec![Step::Send(garbage.to_vec())]);
        let refused = send(&app, &origin.url("/a.txt")).await;
        assert_eq!(refused.error(), (500, 5002));
        assert!(!refused.message().contains("OpenSSH"));
    })
    .await;
    expect_nothing(&app).await;
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn reset_connection_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.script(
        "/cut.txt",
        [
            http_response("200 OK", "content-type: text/plain", b"hello"),
            vec![Step::Reset],
        ]
        .concat(),
    );
    expect_reason(
        &send(&app, &origin.url("/cut.txt")).await,
        "the connection ended before the whole file had come",
    );
    expect_nothing(&app).await;
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn file_without_exact_content_length_is_fetched() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    each_case_async(
        [
            (
                "/until-closed.txt",
                "200 OK",
                "content-type: text/plain",
                "hello",
            ),
            (
                "/chunked.txt",
                "200 OK",
                "transfer-encoding: chunked",
                "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nx: y\r\n\r\n",
            ),
            ("/longer.txt", "200 OK", TEXT, "hello and more"),
            (
                "/whole-part.txt",
                "206 Partial Content",
                "content-range: bytes 0-4/5\ncontent-length: 5",
                "hello",
            ),
            (
                "/203.txt",
                "203 Non-Authoritative Information",
                TEXT,
                "hello",
            ),
            (
                "/continue.txt",
                "100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK",
                TEXT,
                "hello",
            ),
        ],
        async |(path, status, headers, body)| {
            origin.script(path, http_response(status, headers, body.as_bytes()));
            let sent = send(&app, &origin.url(path)).await.expect(201);
            assert_eq!(
                sent["chat"]["message"]["parts"][0]["size_bytes"], 5,
                "{path}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn file_above_limit_returns_400() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |settings| settings.fetch.max_bytes = 65_536).await;
    let chunk = [b"8000\r\n".as_slice(), &vec![b'x'; 0x8000], b"\r\n"].concat();
    let chunked = http_response("200 OK", "transfer-encoding: chunked", b"");
    origin.script(
        "/endless.txt",
        [chunked, vec![Step::Repeat(chunk)]].concat(),
    );
    origin.script(
        "/until-closed.txt",
        [
            http_response("200 OK", "x: y", b""),
            vec![Step::Repeat(vec![b'x'; 4096])],
        ]
        .concat(),
    );
    // The length alone ends the fetch.
    origin.script(
        "/announced.txt",
        [
            http_response("200 OK", "content-length: 65537", b""),
            vec![Step::Hang],
        ]
        .concat(),
    );
    origin.script(
        "/one-more.txt",
        http_response(
            "200 OK",
            "transfer-encoding: chunked",
            &chunked_body(65_537),
        ),
    );
    each_case_async(
        [
            "/endless.txt",
            "/until-closed.txt",
            "/announced.txt",
            "/one-more.txt",
        ],
        async |path| {
            let refused = send(&app, &origin.url(path)).await;
            assert_eq!(refused.error(), (400, 5005), "{path}");
            assert!(
                refused
                    .message()
                    .ends_with("the file is larger than 65536 bytes"),
                "{}",
                refused.message()
            );
        },
    )
    .await;
    expect_nothing(&app).await;
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn file_of_exactly_the_limit_is_fetched() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |settings| settings.fetch.max_bytes = 65_536).await;
    origin.script(
        "/just.txt",
        http_response(
            "200 OK",
            "transfer-encoding: chunked",
            &chunked_body(65_536),
        ),
    );
    assert_eq!(send(&app, &origin.url("/just.txt")).await.status, 201);
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

fn chunked_body(size: usize) -> Vec<u8> {
    format!("{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size)).into_bytes()
}

#[tokio::test]
async fn response_header_above_64_kib_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |settings| {
        settings.fetch.timeout = Duration::from_secs(2);
    })
    .await;
    let start = || Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec());
    origin.script(
        "/endless.txt",
        vec![
            start(),
            Step::Repeat(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".to_vec()),
        ],
    );
    origin.script("/long.txt", vec![start(), Step::Repeat(vec![b'x'; 4096])]);
    origin.script(
        "/interim.txt",
        vec![Step::Repeat(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())],
    );
    let too_large = "the header of the answer is larger than 65536 bytes";
    for path in ["/endless.txt", "/long.txt"] {
        expect_reason(&send(&app, &origin.url(path)).await, too_large);
    }
    let flood = "the host sent far more than the file: over 256 KiB that are not part of it";
    expect_reason(&send(&app, &origin.url("/interim.txt")).await, flood);
    let too_large = format!("x: {}\n{TEXT}", "y".repeat(66_000));
    origin.script(
        "/too-large.txt",
        http_response("200 OK", &too_large, b"hello"),
    );
    let refused = send(&app, &origin.url("/too-large.txt")).await;
    expect_reason(
        &refused,
        "the header of the answer is larger than 65536 bytes",
    );
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn response_header_below_64_kib_is_accepted() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let many = format!("{}{TEXT}", "x: y\n".repeat(500));
    origin.script("/many.txt", http_response("200 OK", &many, b"hello"));
    assert_eq!(send(&app, &origin.url("/many.txt")).await.status, 201);
    let large = format!("x: {}\n{TEXT}", "y".repeat(60_000));
    origin.script("/large.txt", http_response("200 OK", &large, b"hello"));
    assert_eq!(send(&app, &origin.url("/large.txt")).await.status, 201);
}

#[tokio::test]
async fn slow_origin_returns_500_at_each_timeout() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |settings| {
        settings.fetch.timeout = Duration::from_secs(2);
        settings.fetch.idle_timeout = Duration::from_secs(1);
        settings.fetch.resolve_timeout = Duration::from_secs(1);
        settings.fetch.connect_timeout = Duration::from_secs(1);
    })
    .await;
    origin.script("/silent.txt", vec![Step::Hang]);
    origin.script(
        "/stalled.txt",
        [
            http_response("200 OK", "content-length: 9", b"hello"),
            vec![Step::Hang],
        ]
        .concat(),
    );
    let endless = http_response("200 OK", "content-length: 1000000", b"");
    origin.script(
        "/slow.txt",
        [endless, vec![Step::Drip(b"x".to_vec(), 50)]].concat(),
    );
    // A listener that never completes the TLS handshake.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let mute_app = TestApp::with_origin(&origin, |settings| {
        settings.fetch.connect_timeout = Duration::from_secs(1);
        settings.fetch.allow_ports =
            std::iter::once(mute.local_addr().expect("address").port()).collect();
    })
    .await;
    let mute_url = format!(
        "https://origin.test:{}/a.txt",
        mute.local_addr().expect("address").port()
    );
    let (stalled, slow, silent, unresolved) = (
        origin.url("/stalled.txt"),
        origin.url("/slow.txt"),
        origin.url("/silent.txt"),
        origin.url_with_host("silent.test", "/a.txt"),
    );
    let responses = tokio::join!(
        send(&app, &silent),
        send(&app, &stalled),
        send(&app, &slow),
        send(&app, &unresolved),
        send(&mute_app, &mute_url),
    );
    expect_reason(&responses.0, "the host sent nothing for 1 s");
    expect_reason(&responses.1, "the host sent nothing for 1 s");
    expect_reason(&responses.2, "it took longer than 2 s");
    expect_reason(
        &responses.3,
        "its host name could not be resolved within 1 s",
    );
    expect_reason(
        &responses.4,
        "the host did not accept a connection within 1 s",
    );
    expect_nothing(&app).await;
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn memory_and_sockets_stay_bounded_under_32_hostile_fetches() {
    let origin = Origin::start();
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::run(
        haversack(folder.path())
            .arg("serve")
            .env("HAVERSACK_FETCH_ALLOW_NETS", "127.0.0.1/32")
            .env(
                "HAVERSACK_FETCH_ALLOW_PORTS",
                origin.address.port().to_string(),
            )
            .env("HAVERSACK_FETCH_CA_FILE", origin.ca_file())
            .env("HAVERSACK_FETCH_TIMEOUT_SECONDS", "3"),
    );
    let endless = |head: &str| {
        [
            http_response("200 OK", head, b""),
            vec![Step::Repeat(vec![b'x'; 65_536])],
        ]
        .concat()
    };
    origin.script("/until-closed.txt", endless("x: y"));
    origin.script(
        "/chunk.txt",
        [
            http_response("200 OK", "transfer-encoding: chunked", b"7fffffff\r\n"),
            endless("x: y"),
        ]
        .concat(),
    );
    origin.script(
        "/headers.txt",
        vec![
            Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
            Step::Repeat(b"x: yyyyyy\r\n".repeat(500)),
        ],
    );
    origin.script(
        "/stalled.txt",
        [
            http_response("200 OK", "content-length: 9000000", &vec![b'x'; 4_000_000]),
            vec![Step::Hang],
        ]
        .concat(),
    );
    let key = server.banner_value("API key").to_owned().leak();
    let address = server
        .banner_value("API base")
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("address");
    let api = Api::new(address.parse().expect("address"), key);
    let number = server.banner_value("Phone number");
    let before = server.peak_memory();
    let sends = (0..32).map(|n| {
        let path = ["/until-closed.txt", "/chunk.txt", "/headers.txt", "/stalled.txt"][n % 4];
        let part = json!({"type": "media", "url": origin.url_with_host("127.0.0.1", path)});
        let body = json!({"from": number, "to": [format!("{n}@example.com")], "message": {"parts": [part]}});
        let api = api.clone();
        async move { api.post("/v3/chats", &body).await.error() }
    });
    let errors = within(join_all(sends)).await;
    assert!(
        errors
            .iter()
            .all(|error| matches!(error, (400, 5005) | (500, 5002) | (503, 4004))),
        "{errors:?}"
    );
    let grown = server.peak_memory() - before;
    // At most 16 fetches of 10 MiB run at once, and all writers together buffer about 32 MiB.
    assert!(grown < 80 * 1024 * 1024, "{} KiB more", grown / 1024);
    until(async || (origin.open_connections() == 0).then_some(())).await;
    // A temporary file is deleted once its writer thread ends.
    let unfinished = folder.path().join("unfinished-uploads");
    until(async || (std::fs::read_dir(&unfinished).expect("folder").count() == 0).then_some(()))
        .await;
}
