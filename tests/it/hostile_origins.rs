//! Origins that mean harm, or are broken: what the client is told, what is connected to, and that nothing is left.

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;

use haversack_testkit::origin::{Certificate, Step, response};
use haversack_testkit::program::{Server, haversack};
use haversack_testkit::{Api, Origin, Response, TestApp, until, within};

const TEXT: &str = "content-type: text/plain\ncontent-length: 5";

pub async fn send(app: &TestApp, url: &str) -> Response {
    app.api
        .send_parts(json!([{"type": "media", "url": url}]))
        .await
}

/// Sends a URL that must fail, with 5002, for this reason.
#[track_caller]
pub fn expect_reason(answer: &Response, reason: &str) {
    assert_eq!(answer.error(), (500, 5002), "{}", answer.message());
    assert!(
        answer.message().ends_with(&format!(": {reason}")),
        "{}",
        answer.message()
    );
}

/// Nothing of a refused send is left: no chat, no file, not even a half one.
pub async fn expect_nothing(app: &TestApp) {
    let chats = app.api.get("/v3/chats").await.expect(200);
    assert_eq!(chats["chats"], json!([]));
    assert_eq!(app.stored_files().await, Vec::<String>::new());
}

#[tokio::test]
async fn answers_that_bring_no_file() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    for (n, (status, headers, body, reason)) in [
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
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/{n}.txt");
        origin.script(&path, response(status, headers, body.as_bytes()));
        let refused = send(&app, &origin.url(&path)).await;
        assert_eq!(refused.status, 500, "{status} {headers}: {refused:?}");
        expect_reason(&refused, reason);
        assert!(!refused.message().contains("secret"));
    }
    for (path, garbage) in [
        ("/a.txt", &b"SSH-2.0-OpenSSH_9.2\r\n"[..]),
        ("/b.txt", b"\0\0\0"),
        ("/c.txt", b""),
    ] {
        origin.script(path, vec![Step::Send(garbage.to_vec())]);
        let refused = send(&app, &origin.url(path)).await;
        assert_eq!(refused.error(), (500, 5002), "{path}");
        assert!(!refused.message().contains("OpenSSH"));
    }
    origin.script(
        "/cut.txt",
        [
            response("200 OK", "content-type: text/plain", b"hello"),
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
async fn lengths_that_are_missing_or_lie() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    for (path, status, headers, body) in [
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
    ] {
        origin.script(path, response(status, headers, body.as_bytes()));
        let sent = send(&app, &origin.url(path)).await.expect(201);
        assert_eq!(
            sent["chat"]["message"]["parts"][0]["size_bytes"], 5,
            "{path}"
        );
    }
}

#[tokio::test]
async fn files_that_are_too_large() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |flags| flags.fetch_max_bytes = Some(65_536)).await;
    let chunk = [b"8000\r\n".as_slice(), &vec![b'x'; 0x8000], b"\r\n"].concat();
    let chunked = response("200 OK", "transfer-encoding: chunked", b"");
    origin.script(
        "/endless.txt",
        [chunked, vec![Step::Repeat(chunk)]].concat(),
    );
    origin.script(
        "/until-closed.txt",
        [
            response("200 OK", "x: y", b""),
            vec![Step::Repeat(vec![b'x'; 4096])],
        ]
        .concat(),
    );
    // Nothing of it is read.
    origin.script(
        "/announced.txt",
        [
            response("200 OK", "content-length: 65537", b""),
            vec![Step::Hang],
        ]
        .concat(),
    );
    origin.script(
        "/one-more.txt",
        response(
            "200 OK",
            "transfer-encoding: chunked",
            &chunked_body(65_537),
        ),
    );
    for path in [
        "/endless.txt",
        "/until-closed.txt",
        "/announced.txt",
        "/one-more.txt",
    ] {
        let refused = send(&app, &origin.url(path)).await;
        assert_eq!(refused.error(), (400, 5005), "{path}");
        assert!(
            refused
                .message()
                .ends_with("the file is larger than 65536 bytes"),
            "{}",
            refused.message()
        );
    }
    expect_nothing(&app).await;
    origin.script(
        "/just.txt",
        response(
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
async fn headers_without_end() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |flags| flags.fetch_timeout_seconds = Some(2)).await;
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
    let many = format!("{}{TEXT}", "x: y\n".repeat(500));
    origin.script("/many.txt", response("200 OK", &many, b"hello"));
    assert_eq!(send(&app, &origin.url("/many.txt")).await.status, 201);
    let large = format!("x: {}\n{TEXT}", "y".repeat(60_000));
    origin.script("/large.txt", response("200 OK", &large, b"hello"));
    assert_eq!(send(&app, &origin.url("/large.txt")).await.status, 201);
    let too_large = format!("x: {}\n{TEXT}", "y".repeat(66_000));
    origin.script("/too-large.txt", response("200 OK", &too_large, b"hello"));
    let refused = send(&app, &origin.url("/too-large.txt")).await;
    expect_reason(
        &refused,
        "the header of the answer is larger than 65536 bytes",
    );
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn hosts_that_keep_us_waiting() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |flags| {
        flags.fetch_timeout_seconds = Some(2);
        flags.fetch_idle_timeout_seconds = Some(1);
        flags.fetch_resolve_timeout_seconds = Some(1);
        flags.fetch_connect_timeout_seconds = Some(1);
    })
    .await;
    origin.script("/silent.txt", vec![Step::Hang]);
    origin.script(
        "/stalled.txt",
        [
            response("200 OK", "content-length: 9", b"hello"),
            vec![Step::Hang],
        ]
        .concat(),
    );
    let endless = response("200 OK", "content-length: 1000000", b"");
    origin.script(
        "/slow.txt",
        [endless, vec![Step::Drip(b"x".to_vec(), 50)]].concat(),
    );
    // A listener that never accepts TLS.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let mute_app = TestApp::with_origin(&origin, |flags| {
        flags.fetch_connect_timeout_seconds = Some(1);
        flags.fetch_allow_ports = Some(mute.local_addr().expect("address").port().to_string());
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
    let answers = tokio::join!(
        send(&app, &silent),
        send(&app, &stalled),
        send(&app, &slow),
        send(&app, &unresolved),
        send(&mute_app, &mute_url),
    );
    expect_reason(&answers.0, "the host sent nothing for 1 s");
    expect_reason(&answers.1, "the host sent nothing for 1 s");
    expect_reason(&answers.2, "it took longer than 2 s");
    expect_reason(&answers.3, "its host name could not be resolved within 1 s");
    expect_reason(
        &answers.4,
        "the host did not accept a connection within 1 s",
    );
    expect_nothing(&app).await;
    until(async || (origin.open_connections() == 0).then_some(())).await;
}

#[tokio::test]
async fn redirects() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.file("/end.txt", "text/plain", b"hello");
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ] {
        origin.script(
            "/r.txt",
            response(status, "location: end.txt\ncontent-length: 0", b""),
        );
        let sent = send(&app, &origin.url("/r.txt")).await.expect(201);
        let part = &sent["chat"]["message"]["parts"][0];
        assert_eq!(
            (&part["filename"], &part["size_bytes"]),
            (&json!("r.txt"), &json!(5)),
            "{status}"
        );
    }
    for hop in 1..=6 {
        let target = if hop == 6 {
            "/end.txt".to_owned()
        } else {
            format!("/{}.txt", hop + 1)
        };
        let location = format!(
            "location: {}\ncontent-length: 0",
            origin.url_with_host("other.origin.test", &target)
        );
        origin.script(
            &format!("/{hop}.txt"),
            response("302 Found", &location.replace("other.", ""), b""),
        );
    }
    assert_eq!(
        send(&app, &origin.url("/2.txt")).await.status,
        201,
        "five redirects"
    );
    expect_reason(
        &send(&app, &origin.url("/1.txt")).await,
        "it redirects more than 5 times",
    );
    for (location, reason) in [
        (
            "http://origin.test/end.txt",
            "it redirects to a URL that cannot be fetched: it does not start with https://",
        ),
        (
            "ftp://origin.test/",
            "it redirects to a URL that cannot be fetched: it does not start with https://",
        ),
        (
            "https://u:p@origin.test/",
            "it redirects to a URL that cannot be fetched: it holds a user name or password; only what is public can be fetched",
        ),
        ("", "it redirects without saying where to"),
        (
            "https://origin.test:22/",
            "after a redirect: port 22 is not allowed; only 443 is, unless the operator allows more",
        ),
    ] {
        origin.script(
            "/bad.txt",
            response(
                "302 Found",
                &format!("location: {location}\ncontent-length: 0"),
                b"",
            ),
        );
        expect_reason(&send(&app, &origin.url("/bad.txt")).await, reason);
    }
    origin.script("/none.txt", response("302 Found", "content-length: 0", b""));
    expect_reason(
        &send(&app, &origin.url("/none.txt")).await,
        "it redirects without saying where to",
    );
}

#[tokio::test]
async fn redirects_of_the_list_lead_nowhere() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let list = include_str!("data/fetch_urls.tsv");
    let mut lines = 0;
    for line in list.lines() {
        let Some((_, hint)) = line.split_once("[redirect 302 ") else {
            continue;
        };
        let (location, _) = hint.split_once("] ").expect("a reason");
        let location = location.replace(
            "redirect.test",
            &format!("origin.test:{}", origin.address.port()),
        );
        let redirect = response(
            "302 Found",
            &format!("location: {location}\ncontent-length: 0"),
            b"",
        );
        origin.script("/r", redirect.clone());
        origin.script("/loop", redirect);
        let refused = send(&app, &origin.url("/r")).await;
        assert_eq!(refused.error(), (500, 5002), "{line}");
        assert!(
            !refused.message().contains("169.254"),
            "{}",
            refused.message()
        );
        lines += 1;
    }
    assert!(lines >= 7, "{lines}");
    expect_nothing(&app).await;
}

/// A listener on an address that is not allowed, at the port that is.
async fn forbidden(origin: &Origin) -> TcpListener {
    TcpListener::bind(("127.0.0.2", origin.address.port()))
        .await
        .expect("listen")
}

/// Whether nobody has connected.
async fn untouched(listener: &TcpListener) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(listener.poll_accept(context).is_pending())
    })
    .await
}

#[tokio::test]
async fn a_name_that_changes_its_mind_gains_nothing() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let inside = forbidden(&origin).await;
    origin.file("/a.txt", "text/plain", b"hello");
    origin
        .dns
        .set("origin.test", &[&["127.0.0.1"], &["127.0.0.2"]]);
    assert_eq!(send(&app, &origin.url("/a.txt")).await.status, 201);
    assert_eq!(
        origin.dns.queries().len(),
        1,
        "one lookup for a connection, and no other way to an address"
    );
    expect_reason(
        &send(&app, &origin.url("/a.txt")).await,
        "its address is not public",
    );

    // Between the first request and the redirect.
    origin
        .dns
        .set("origin.test", &[&["127.0.0.1"], &["127.0.0.2"]]);
    origin.script(
        "/r.txt",
        response("302 Found", "location: /a.txt\ncontent-length: 0", b""),
    );
    expect_reason(
        &send(&app, &origin.url("/r.txt")).await,
        "after a redirect: its address is not public",
    );

    let connections = origin.connections();
    origin.dns.set("mixed.test", &[&["127.0.0.1", "127.0.0.2"]]);
    expect_reason(
        &send(&app, &origin.url_with_host("mixed.test", "/a.txt")).await,
        "its address is not public",
    );
    for host in ["127.0.0.2", "[::ffff:127.0.0.2]", "[::1]", "10.0.0.1"] {
        expect_reason(
            &send(&app, &origin.url_with_host(host, "/a.txt")).await,
            "its address is not public",
        );
    }
    origin.dns.set("printer.local", &[&["93.184.215.14"]]);
    let local = send(&app, &origin.url_with_host("printer.local", "/a.txt")).await;
    expect_reason(&local, "its host is a name for local use, not a public one");
    assert_eq!(
        origin.connections(),
        connections,
        "refused before any connection"
    );
    assert!(untouched(&inside).await);
    assert_eq!(
        send(&app, &origin.url_with_host("127.0.0.1", "/a.txt"))
            .await
            .status,
        201,
        "the operator allowed it"
    );
}

#[tokio::test]
async fn urls_that_are_refused_before_anything_is_done() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    for url in [
        "http://origin.test/a.jpg",
        "ftp://origin.test/a.jpg",
        "https://u@origin.test/a.jpg",
        "https://127.1/a.jpg",
        "https://0x7f000001/",
        "https:\\\\origin.test\\a.jpg",
        "https://",
        "a.jpg",
        "https://origin.test:x/",
    ] {
        let refused = send(&app, url).await;
        assert_eq!(refused.error(), (400, 1005), "{url}");
    }
    assert!(origin.dns.queries().is_empty());
}

#[tokio::test]
async fn certificates_that_are_not_good() {
    for (certificate, reason) in [
        (
            Certificate {
                names: &["other.test"],
                ..Certificate::default()
            },
            "the host's certificate is for another name",
        ),
        (
            Certificate {
                expires: 2001,
                ..Certificate::default()
            },
            "the host's certificate has expired",
        ),
        (
            Certificate {
                trusted: false,
                ..Certificate::default()
            },
            "the host's certificate is not signed by an authority that is trusted here",
        ),
    ] {
        let origin = Origin::with_certificate(&certificate);
        origin.file("/a.txt", "text/plain", b"hello");
        let app = TestApp::with_origin(&origin, |_| {}).await;
        expect_reason(&send(&app, &origin.url("/a.txt")).await, reason);
        assert!(
            origin.requests().is_empty(),
            "nothing is said to a host that is not known"
        );
    }
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |flags| flags.fetch_ca_file = None).await;
    let untrusted = "the host's certificate is not signed by an authority that is trusted here";
    expect_reason(&send(&app, &origin.url("/a.txt")).await, untrusted);
    drop(origin);
}

#[tokio::test]
async fn nobody_there() {
    let origin = Origin::start();
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen")
        .local_addr()
        .expect("address")
        .port();
    let app = TestApp::with_origin(&origin, |flags| {
        flags.fetch_allow_ports = Some(closed.to_string())
    })
    .await;
    let url = format!("https://origin.test:{closed}/a.txt");
    expect_reason(
        &send(&app, &url).await,
        "the host does not accept connections",
    );
    origin.dns.set("nowhere.test", &[&[]]);
    expect_reason(
        &send(&app, &url.replace("origin", "nowhere")).await,
        "its host name could not be resolved",
    );
}

#[tokio::test]
async fn one_partners_stalled_origins_do_not_stop_anothers_sends() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |flags| {
        flags.fetch_max_concurrent = Some(3);
        flags.fetch_max_concurrent_per_partner = Some(2);
        flags.fetch_max_waiting_per_partner = Some(1);
        flags.fetch_queue_timeout_seconds = Some(1);
    })
    .await;
    origin.script("/stalled.txt", vec![Step::Hang]);
    origin.file("/a.txt", "text/plain", b"hello");
    let stalled = |count: usize| {
        let (api, url) = (app.api.clone(), origin.url("/stalled.txt"));
        tokio::spawn(async move {
            api.send_parts(json!(vec![json!({"type": "media", "url": url}); count]))
                .await
        })
    };
    let running = [stalled(1), stalled(1)];
    until(async || (origin.requests().len() == 2).then_some(())).await;
    // Three more: one may wait, for a second, and the others not even that.
    let refused = stalled(3).await.expect("an answer");
    assert_eq!(refused.error(), (503, 4004));
    assert_eq!(refused.header("retry-after"), "5");
    assert_eq!(send(&app, &origin.url("/a.txt")).await.error(), (503, 4004));
    let text = json!({"from": haversack_testkit::LINE, "to": [haversack_testkit::RECIPIENT],
        "message": {"parts": [{"type": "text", "value": "hi"}]}});
    assert_eq!(
        app.api.post("/v3/chats", &text).await.status,
        201,
        "what fetches nothing is not held up"
    );
    let body = json!({"from": haversack_testkit::RIVAL_LINE, "to": [haversack_testkit::RECIPIENT],
        "message": {"parts": [{"type": "media", "url": origin.url("/a.txt")}]}});
    assert_eq!(app.rival.post("/v3/chats", &body).await.status, 201);
    running.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_lookup_that_nobody_waits_for_any_more_still_counts() {
    let origin = Origin::start();
    origin.file("/a.txt", "text/plain", b"hello");
    let app = TestApp::with_origin(&origin, |flags| {
        flags.fetch_max_concurrent_per_partner = Some(1);
        flags.fetch_resolve_timeout_seconds = Some(1);
        flags.fetch_queue_timeout_seconds = Some(1);
    })
    .await;
    let unresolved = send(&app, &origin.url_with_host("silent.test", "/a.txt")).await;
    expect_reason(
        &unresolved,
        "its host name could not be resolved within 1 s",
    );
    assert_eq!(send(&app, &origin.url("/a.txt")).await.error(), (503, 4004));
}

#[tokio::test]
async fn a_partner_fills_the_disk_no_further_than_its_share() {
    let origin = Origin::start();
    origin.script(
        "/large.txt",
        response("200 OK", "content-length: 60000", &vec![b'x'; 60_000]),
    );
    let app = TestApp::with_origin(&origin, |flags| {
        flags.max_temporary_bytes_per_partner = Some(100_000);
    })
    .await;
    let parts = vec![json!({"type": "media", "url": origin.url("/large.txt")}); 2];
    assert_eq!(app.api.send_parts(json!(parts)).await.error(), (503, 4004));
    for _ in 0..3 {
        assert_eq!(
            app.api.send_parts(json!(parts[..1])).await.status,
            201,
            "what was sent does not count"
        );
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_fetch() {
    let origin = Origin::start();
    // Longer than this test would wait for anything.
    let app = TestApp::with_origin(&origin, |flags| {
        flags.fetch_timeout_seconds = Some(60);
        flags.fetch_idle_timeout_seconds = Some(60);
    })
    .await;
    let stalled = [
        response("200 OK", "content-length: 100000", &vec![b'x'; 50_000]),
        vec![Step::Hang],
    ]
    .concat();
    origin.script("/stalled.txt", stalled);
    let (api, url) = (app.api.clone(), origin.url("/stalled.txt"));
    let client =
        tokio::spawn(async move { api.send_parts(json!([{"type": "media", "url": url}])).await });
    until(async || app.stored_files().await.first().cloned()).await;
    assert_eq!(origin.open_connections(), 1);
    client.abort();
    within(until(async || {
        (origin.open_connections() == 0 && app.stored_files().await.is_empty()).then_some(())
    }))
    .await;
    expect_nothing(&app).await;
}

/// The program itself, which many hostile origins keep busy at once.
#[tokio::test]
async fn memory_and_sockets_stay_bounded() {
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
            response("200 OK", head, b""),
            vec![Step::Repeat(vec![b'x'; 65_536])],
        ]
        .concat()
    };
    origin.script("/until-closed.txt", endless("x: y"));
    origin.script(
        "/chunk.txt",
        [
            response("200 OK", "transfer-encoding: chunked", b"7fffffff\r\n"),
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
            response("200 OK", "content-length: 9000000", &vec![b'x'; 4_000_000]),
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
    // Sixteen files of 10 MiB at a time; 32 MiB is what all writers together aim to hold.
    assert!(grown < 80 * 1024 * 1024, "{} KiB more", grown / 1024);
    until(async || (origin.open_connections() == 0).then_some(())).await;
    // A file that a thread is writing to goes when that is done.
    let unfinished = folder.path().join("unfinished-uploads");
    until(async || (std::fs::read_dir(&unfinished).expect("folder").count() == 0).then_some(()))
        .await;
}
