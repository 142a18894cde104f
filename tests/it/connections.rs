//! Connections: slow and silent clients, limits, malformed requests, and graceful shutdown.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{TestApp, each_case_async, on_disk, text, until, within};

#[tokio::test]
async fn connection_without_complete_header_is_closed_at_timeout() {
    let app =
        TestApp::with(|settings| settings.server.header_timeout = Duration::from_secs(1)).await;
    let start = tokio::time::Instant::now();
    let mut silent = RawConnection::connect(app.address).await;
    let mut half = RawConnection::connect(app.address).await;
    half.send("GET /healthz HTTP/1.1\r\nHost: x\r\nX-").await;
    let mut idle = RawConnection::connect(app.address).await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let response = idle.read_until("alive").await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert_eq!(silent.read_all().await, "");
    let response = half.read_all().await;
    assert!(
        response.is_empty() || response.starts_with("HTTP/1.1 4"),
        "{response}"
    );
    assert_eq!(idle.read_all().await.trim(), "");
    assert!(
        start.elapsed() >= Duration::from_millis(900),
        "closed before the timeout"
    );
}

#[tokio::test]
async fn header_of_20_kb_returns_431() {
    let app = TestApp::start().await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "x".repeat(20_000)
    ))
    .await;
    let response = raw.read_all().await;
    assert!(response.starts_with("HTTP/1.1 431"), "{response}");
}

#[tokio::test]
async fn header_of_12_kb_is_accepted() {
    let app = TestApp::start().await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n",
        "x".repeat(12_000)
    ))
    .await;
    assert!(raw.read_until("alive").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn connection_beyond_limit_waits_for_a_slot() {
    let app = TestApp::with(|settings| settings.server.max_connections = 2).await;
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

/// Counts the server's connections in /proc/net/tcp, because a request to `/metrics` would need a
/// connection.
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
async fn download_that_client_does_not_read_is_aborted() {
    let app = TestApp::with(|settings| settings.server.idle_timeout = Duration::from_secs(1)).await;
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
    assert!(rest.len() < 30_000_000, "the download is incomplete");
}

#[tokio::test]
async fn graceful_shutdown_lets_upload_finish() {
    let mut app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = request_target(text(&created, "upload_url"));
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
    assert!(app.shut_down().await, "all requests finished in time");
}

#[tokio::test]
async fn graceful_shutdown_ends_after_grace_time() {
    let mut app = TestApp::with(|settings| {
        on_disk(settings);
        settings.server.shutdown_grace = Duration::from_secs(0);
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = request_target(text(&created, "upload_url"));
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
async fn http1_1_request_without_host_returns_400() {
    let app = TestApp::start().await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send("GET /healthz HTTP/1.1\r\n\r\n").await;
    let response = raw.read_until("Host header").await;
    assert!(
        response.starts_with("HTTP/1.1 400") && response.contains("x-trace-id: "),
        "{response}"
    );
}

#[tokio::test]
async fn http1_0_request_without_host_succeeds() {
    let app = TestApp::start().await;
    let mut older = RawConnection::connect(app.address).await;
    older.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(
        older.read_until("alive").await.starts_with("HTTP/1.0 200"),
        "HTTP/1.0 does not require Host"
    );
}

#[tokio::test]
async fn malformed_http_is_closed_or_returns_4xx() {
    let app = TestApp::start().await;
    each_case_async(
        [
            "\r\n\r\n\r\nnonsense\r\n\r\n",
            "GET\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /a b c HTTP/1.1\r\n\r\n",
        ],
        async |nonsense| {
            let mut raw = RawConnection::connect(app.address).await;
            raw.send(nonsense).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await;
            let response = raw.read_all().await;
            assert!(
                response.is_empty() || response.starts_with("HTTP/1.1 4"),
                "{nonsense:?} {response}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn rejected_request_with_short_body_keeps_connection_usable() {
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
        let responses = raw.read_all().await;
        assert!(
            responses.starts_with("HTTP/1.1 401") && responses.ends_with("alive\n"),
            "{responses}"
        );
    }
}

#[tokio::test]
async fn chunked_body_is_read_to_its_end_on_kept_connection() {
    let app = TestApp::start().await;
    let next = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let app_key = "acme-key-0123456789";
    let mut raw = RawConnection::connect(app.address).await;
    let head = format!(
        "POST /v3/chats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {app_key}\r\nTransfer-Encoding: chunked"
    );
    raw.send(format!("{head}\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{next}"))
        .await;
    let responses = raw.read_all().await;
    assert!(
        responses.starts_with("HTTP/1.1 400") && responses.ends_with("alive\n"),
        "{responses}"
    );
    assert_eq!(
        responses
            .to_lowercase()
            .matches("connection: close")
            .count(),
        1,
        "only the last response closes: {responses}"
    );
}

#[tokio::test]
async fn rejected_request_with_long_body_closes_connection() {
    let app = TestApp::start().await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send("POST /v3/chats HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        .await;
    let response = raw.read_all().await.to_lowercase();
    assert!(
        response.starts_with("http/1.1 401") && response.contains("\r\nconnection: close\r\n"),
        "{response}"
    );
}

#[tokio::test]
async fn invalid_or_ambiguous_host_returns_400_before_routing() {
    let app = TestApp::with(|settings| {
        settings.urls.cdn_url = Some("http://cdn.example".parse().expect("URL"));
    })
    .await;
    each_case_async(
        [
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
        ],
        async |(target, hosts)| {
            let mut raw = RawConnection::connect(app.address).await;
            raw.send(format!(
                "GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"
            ))
            .await;
            let response = raw.read_all().await;
            assert!(
                response.starts_with("HTTP/1.1 400") && response.contains("x-trace-id: "),
                "{hosts} {response}"
            );
            assert!(response.contains("\"code\":1005"), "{hosts} {response}");
        },
    )
    .await;
}

#[tokio::test]
async fn request_is_routed_by_target_before_host() {
    let app = TestApp::with(|settings| {
        settings.urls.cdn_url = Some("http://cdn.example".parse().expect("URL"));
    })
    .await;
    each_case_async(
        [
            ("/metrics", "cdn.example", 404),
            ("http://cdn.example/metrics", "x", 404),
            ("http://x/metrics", "cdn.example", 200),
            ("/metrics", "[::1]:8080", 200),
        ],
        async |(target, host, status)| {
            let mut raw = RawConnection::connect(app.address).await;
            raw.send(format!(
                "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            ))
            .await;
            let response = raw.read_all().await;
            assert!(
                response.starts_with(&format!("HTTP/1.1 {status}")),
                "{target} {host} {response}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn repeated_authorization_header_returns_401() {
    let app = TestApp::start().await;
    for other in [
        "Bearer rival-key-0123456789",
        "Bearer acme-key-0123456789",
        "Basic eA==",
    ] {
        let response = app
            .api
            .get_with("/v3/chats", &[("authorization", other)])
            .await;
        assert_eq!(response.error(), (401, 2004), "{other}");
    }
}
