//! Clients that are silent, slow, greedy or in the way, and stopping while others are served.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{TestApp, on_disk, until, within};

#[tokio::test]
async fn silent_and_half_sent_connections_are_closed() {
    let app = TestApp::with(|flags| flags.header_timeout_seconds = Some(1)).await;
    let start = tokio::time::Instant::now();
    let mut silent = RawConnection::connect(app.address).await;
    let mut half = RawConnection::connect(app.address).await;
    half.send("GET /healthz HTTP/1.1\r\nHost: x\r\nX-").await;
    let mut idle = RawConnection::connect(app.address).await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let answer = idle.read_until("alive").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(silent.read_all().await, "");
    let told = half.read_all().await;
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 4"), "{told}");
    assert_eq!(idle.read_all().await.trim(), "");
    assert!(
        start.elapsed() >= Duration::from_millis(900),
        "not before the time"
    );
}

#[tokio::test]
async fn a_header_that_is_too_large_is_refused() {
    let app = TestApp::start().await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "x".repeat(20_000)
    ))
    .await;
    let answer = raw.read_all().await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "x".repeat(12_000)
    ))
    .await;
    assert!(raw.read_until("alive").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn beyond_the_cap_connections_wait_for_their_turn() {
    let app = TestApp::with(|flags| flags.max_connections = Some(2)).await;
    let first = RawConnection::connect(app.address).await;
    let _second = RawConnection::connect(app.address).await;
    until(async || (app_connections(&app) == 2).then_some(())).await;
    let mut third = RawConnection::connect(app.address).await;
    third.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let waited = tokio::time::timeout(Duration::from_millis(200), third.0.readable()).await;
    assert!(waited.is_err(), "the third is not served yet");
    drop(first);
    assert!(third.read_until("alive").await.starts_with("HTTP/1.1 200"));
}

/// Counted in the system's table: asking the server would need a connection.
fn app_connections(app: &TestApp) -> usize {
    let port = format!(":{:04X}", app.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("table of connections");
    let local = table.lines().filter_map(|line| {
        line.split_whitespace()
            .nth(1)
            .zip(line.split_whitespace().nth(3))
    });
    local
        .filter(|(local, state)| local.ends_with(&port) && *state == "01")
        .count()
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_given_up() {
    let app = TestApp::with(|flags| flags.idle_timeout_seconds = Some(1)).await;
    let file = app
        .api
        .upload("a.txt", "text/plain", &vec![b'x'; 30_000_000])
        .await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(format!(
        "GET {} HTTP/1.1\r\nHost: x\r\n\r\n",
        request_target(&file.url)
    ))
    .await;
    raw.read_until("\r\n\r\n").await;
    let open = async || {
        let metrics = app.anonymous().get("/metrics").await;
        let line = metrics
            .text()
            .lines()
            .find(|line| line.starts_with("haversack_connections "))
            .expect("gauge");
        line.rsplit_once(' ')
            .expect("value")
            .1
            .parse::<u64>()
            .expect("number")
    };
    let before = open().await;
    until(async || (open().await < before).then_some(())).await;
    let mut rest = Vec::new();
    let _ = within(raw.0.read_to_end(&mut rest)).await;
    assert!(rest.len() < 30_000_000, "cut off in the middle");
}

#[tokio::test]
async fn stopping_lets_uploads_finish() {
    let mut app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = request_target(created["upload_url"].as_str().expect("URL"));
    let mut upload = RawConnection::connect(app.address).await;
    let expect = "Content-Type: text/plain\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    upload
        .send(format!("PUT {url} HTTP/1.1\r\nHost: x\r\n{expect}"))
        .await;
    upload.read_until("100 Continue\r\n\r\n").await;
    let mut idle = RawConnection::connect(app.address).await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    idle.read_until("alive").await;

    app.begin_shutdown();
    assert_eq!(
        idle.read_all().await.trim(),
        "",
        "an idle connection is closed at once"
    );
    upload.send("hello").await;
    assert!(upload.read_all().await.starts_with("HTTP/1.1 200"));
    assert!(app.shut_down().await, "all finished in time");
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let mut app = TestApp::with(|flags| {
        on_disk(flags);
        flags.shutdown_grace_seconds = Some(0);
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = request_target(created["upload_url"].as_str().expect("URL"));
    let mut upload = RawConnection::connect(app.address).await;
    let expect = "Content-Type: text/plain\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    upload
        .send(format!("PUT {url} HTTP/1.1\r\nHost: x\r\n{expect}"))
        .await;
    upload.read_until("100 Continue\r\n\r\n").await;
    app.begin_shutdown();
    assert!(!app.shut_down().await);
}

#[tokio::test]
async fn a_request_without_host_is_refused_as_any_other() {
    let app = TestApp::start().await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send("GET /healthz HTTP/1.1\r\n\r\n").await;
    let answer = raw.read_until("Host header").await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("x-trace-id: "),
        "{answer}"
    );
    let mut older = RawConnection::connect(app.address).await;
    older.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(
        older.read_until("alive").await.starts_with("HTTP/1.0 200"),
        "HTTP/1.0 has no Host"
    );
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let app = TestApp::start().await;
    for nonsense in [
        "\r\n\r\n\r\nnonsense\r\n\r\n",
        "GET\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /a b c HTTP/1.1\r\n\r\n",
    ] {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(nonsense).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await;
        let answer = raw.read_all().await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{nonsense:?} {answer}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_needs_no_body_leaves_the_connection_usable() {
    let app = TestApp::start().await;
    let next = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for head in [
        "POST /v3/nowhere HTTP/1.1",
        "DELETE /v3/webhook-subscriptions/x HTTP/1.1",
        "POST /v3/chats HTTP/1.1",
    ] {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(format!("{head}\r\nHost: x\r\nContent-Length: 7\r\n\r\n"))
            .await;
        raw.send("{\"a\":1}").await;
        raw.send(next).await;
        let answers = raw.read_all().await;
        assert!(
            answers.starts_with("HTTP/1.1 401") && answers.ends_with("alive\n"),
            "{answers}"
        );
    }
    // A body that was read leaves nothing, whichever way it is framed.
    let app_key = "acme-key-0123456789";
    let mut raw = RawConnection::connect(app.address).await;
    let head = format!(
        "POST /v3/chats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {app_key}\r\nTransfer-Encoding: chunked"
    );
    raw.send(format!("{head}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{next}"))
        .await;
    let answers = raw.read_all().await;
    assert!(
        answers.starts_with("HTTP/1.1 400") && answers.ends_with("alive\n"),
        "{answers}"
    );
    assert_eq!(
        answers.to_lowercase().matches("connection: close").count(),
        1,
        "the last one only: {answers}"
    );
    // A rest that is long is not waited for, and the client is told.
    let mut raw = RawConnection::connect(app.address).await;
    raw.send("POST /v3/chats HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        .await;
    let answer = raw.read_all().await.to_lowercase();
    assert!(
        answer.starts_with("http/1.1 401") && answer.contains("\r\nconnection: close\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn host_that_is_ambiguous_or_none_is_refused_before_routing() {
    let app = TestApp::with(|flags| flags.cdn_url = Some("http://cdn.example".to_owned())).await;
    for (target, hosts) in [
        ("/metrics", "Host: x\r\nHost: cdn.example\r\n"),
        ("/metrics", "Host: cdn.example\r\nHost: x\r\n"),
        ("/v3/chats", "Host: x\r\nHost: x\r\n"),
        ("/metrics", "Host:\r\n"),
        ("/metrics", "Host: a b\r\n"),
        ("/metrics", "Host: cdn.example/x\r\n"),
        ("/metrics", "Host: http://cdn.example\r\n"),
        ("/metrics", "Host: %63dn.example\r\n"),
        ("/metrics", "Host: x@cdn.example\r\n"),
        ("/metrics", "Host: cdn.example:99999\r\n"),
        ("/metrics", "Host: \u{fc}\r\n"),
        ("/nowhere", "Host: [::1\r\n"),
        ("http://x@cdn.example/metrics", "Host: x\r\n"),
        ("http://x/metrics", "Host: a b\r\n"),
        ("http://x/metrics", ""),
    ] {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(format!(
            "GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"
        ))
        .await;
        let answer = raw.read_all().await;
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("x-trace-id: "),
            "{hosts} {answer}"
        );
        assert!(answer.contains("\"code\":1005"), "{hosts} {answer}");
    }
    for (target, host, status) in [
        ("/metrics", "cdn.example", 404),
        ("http://cdn.example/metrics", "x", 404),
        ("http://x/metrics", "cdn.example", 200),
        ("/metrics", "[::1]:8080", 200),
    ] {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ))
        .await;
        let answer = raw.read_all().await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{target} {host} {answer}"
        );
    }
}

#[tokio::test]
async fn several_keys_are_refused() {
    let app = TestApp::start().await;
    for other in [
        "Bearer rival-key-0123456789",
        "Bearer acme-key-0123456789",
        "Basic eA==",
    ] {
        let answer = app
            .api
            .get_with("/v3/chats", &[("authorization", other)])
            .await;
        assert_eq!(answer.error(), (401, 2004), "{other}");
    }
}
