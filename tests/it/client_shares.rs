//! Shares of clients: one that holds too much is limited, and others are still served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{TestApp, each_case_async, until, within};

/// Another source address, which the server counts as another client.
const NEIGHBOUR: &str = "127.0.0.2";
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// Returns the head of a send with more headers.
fn send_head(size: usize, more: &str) -> String {
    format!(
        "POST /v3/chats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acme-key-0123456789\r\n{more}Content-Length: {size}\r\n\r\n"
    )
}

#[tokio::test]
async fn unfinished_json_bodies_use_only_the_share_of_their_address() {
    const SIZE: u64 = 1024 * 1024;
    let app = TestApp::with(|settings| {
        settings.json.max_bytes = SIZE;
        settings.json.max_bytes_per_address = 4 * SIZE;
    })
    .await;
    let size = usize::try_from(SIZE).expect("size");
    let mut held = Vec::new();
    for count in 1..=4 {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(send_head(size, "")).await;
        raw.send(vec![b' '; size - 1]).await;
        until(async || (app.budget_used("json_bytes") == count * SIZE).then_some(())).await;
        held.push(raw);
    }
    let mut refused = RawConnection::connect(app.address).await;
    refused.send(send_head(size, "")).await;
    refused.send(vec![b' '; 100_000]).await;
    let response = refused.read_all().await.to_lowercase();
    assert!(
        response.starts_with("http/1.1 503") && response.contains("\"code\":4004"),
        "{response}"
    );
    assert!(
        response.contains("\r\nretry-after: ") && response.contains("\r\nconnection: close\r\n"),
        "{response}"
    );
    assert_eq!(app.budget_refusals("json_bytes", "share"), 1);

    let mut neighbour = RawConnection::connect_from(NEIGHBOUR, app.address).await;
    neighbour.send(send_head(2, "")).await;
    neighbour.send("{}").await;
    assert!(
        neighbour
            .read_until("\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400"),
        "the body was read"
    );

    drop(held);
    until(async || (app.budget_used("json_bytes") == 0).then_some(())).await;
    app.api.create("a.txt", "text/plain", 5).await;
    assert_eq!(app.budget_used("json_bytes"), 0);
    assert!(
        app.budget_peak("json_bytes") <= 4 * SIZE + 4096,
        "{}",
        app.budget_peak("json_bytes")
    );
}

#[tokio::test]
async fn json_lists_count_against_budget_until_response() {
    let app = TestApp::start().await;
    let to: Vec<String> = (0..1001).map(|_| "x".to_owned()).collect();
    let body = serde_json::json!({"from": "x", "to": to, "message": {"parts": []}}).to_string();
    assert_eq!(app.api.post_raw("/v3/chats", &body).await.status, 400);
    assert!(
        app.budget_peak("json_bytes") >= 16 * body.len() as u64,
        "the budget covers the text and its lists"
    );
    assert_eq!(app.budget_used("json_bytes"), 0);
}

#[tokio::test]
async fn stalled_json_body_returns_400_after_grace_time() {
    let app = TestApp::with(|settings| {
        settings.json.grace = Duration::from_secs(1);
        settings.json.min_bytes_per_second = 1_000_000_000;
    })
    .await;
    let mut stalled = RawConnection::connect(app.address).await;
    stalled.send(send_head(5_000_000, "")).await;
    stalled.send(vec![b' '; 4_999_999]).await;
    let response = stalled.read_all().await;
    assert!(
        response.starts_with("HTTP/1.1 400") && response.contains("in time"),
        "long before the idle timeout: {response}"
    );
}

#[tokio::test]
async fn dripping_json_body_returns_400_after_grace_time() {
    let app = TestApp::with(|settings| {
        settings.json.grace = Duration::from_secs(1);
        settings.json.min_bytes_per_second = 1_000_000_000;
    })
    .await;
    let mut dripping = RawConnection::connect(app.address).await;
    dripping.send(send_head(8_000_000, "")).await;
    let (mut read, mut write) = dripping.0.into_split();
    let drip = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let mut response = Vec::new();
    let _ = within(read.read_to_end(&mut response)).await;
    let response = String::from_utf8_lossy(&response);
    assert!(
        response.starts_with("HTTP/1.1 400") && response.contains("in time"),
        "never idle: {response}"
    );
    drip.abort();
}

#[tokio::test]
async fn connections_above_share_of_address_get_503_and_are_closed() {
    let app = TestApp::with(|settings| settings.server.max_connections_per_address = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut raw = RawConnection::connect(app.address).await;
        // The incomplete header keeps the connection open.
        raw.send("GET /healthz HTTP/1.1\r\n").await;
        open.push(raw);
    }
    until(async || (app.budget_used("connections") == 3).then_some(())).await;
    for _ in 0..20 {
        let response = RawConnection::connect(app.address).await.read_all().await;
        assert!(
            response.starts_with("HTTP/1.1 503") && response.contains("Retry-After: "),
            "{response}"
        );
    }
    let mut neighbour = RawConnection::connect_from(NEIGHBOUR, app.address).await;
    neighbour.send(HEALTH).await;
    assert!(
        neighbour
            .read_until("alive")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert_eq!(app.budget_peak("connections"), 4);
    assert_eq!(app.budget_refusals("connections", "share"), 20);

    open.pop();
    until(async || (app.budget_used("connections") == 3).then_some(())).await;
    let mut again = RawConnection::connect(app.address).await;
    again.send(HEALTH).await;
    assert!(again.read_until("alive").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn clients_behind_trusted_proxy_have_separate_shares() {
    let app = TestApp::with(|settings| {
        settings.server.trusted_proxies = "127.0.0.1/32".parse().expect("a list");
        settings.server.max_connections_per_address = 2;
    })
    .await;
    let mut running = Vec::new();
    for count in 1..=2 {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(send_head(
            2,
            "X-Forwarded-For: 203.0.113.1, 198.51.100.1\r\n",
        ))
        .await;
        until(async || (app.budget_used("proxied_requests") == count).then_some(())).await;
        running.push(raw);
    }
    let ask = async |from: &str, header: &str| {
        let mut raw = RawConnection::connect_from(from, app.address).await;
        raw.send(format!(
            "GET /healthz HTTP/1.1\r\nHost: x\r\n{header}\r\nConnection: close\r\n\r\n"
        ))
        .await;
        raw.read_all().await
    };
    for header in [
        "X-Forwarded-For: 198.51.100.1",
        "Forwarded: for=198.51.100.1;proto=https",
    ] {
        let refused = ask("127.0.0.1", header).await.to_lowercase();
        assert!(
            refused.starts_with("http/1.1 503") && refused.contains("\"code\":4004"),
            "{refused}"
        );
        assert!(refused.contains("\r\nretry-after: "), "{refused}");
    }
    each_case_async(
        [
            ("127.0.0.1", "X-Forwarded-For: 198.51.100.2"),
            ("127.0.0.1", "Forwarded: for=\"[2001:db8::1]:1\""),
            // The proxy itself is not limited.
            ("127.0.0.1", "X-Other: x"),
            // The header of an untrusted client is ignored.
            (NEIGHBOUR, "X-Forwarded-For: 198.51.100.1"),
        ],
        async |(from, header)| {
            assert!(
                ask(from, header).await.starts_with("HTTP/1.1 200"),
                "{from} {header}"
            );
        },
    )
    .await;
    running[0].send("{}").await;
    assert!(
        running[0]
            .read_until("\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400")
    );
    until(async || (app.budget_used("proxied_requests") == 1).then_some(())).await;
    assert!(
        ask("127.0.0.1", "X-Forwarded-For: 198.51.100.1")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn unread_download_behind_trusted_proxy_keeps_its_permit() {
    let app = TestApp::with(|settings| {
        settings.server.trusted_proxies = "127.0.0.1/32".parse().expect("a list");
    })
    .await;
    let file = app
        .api
        .upload("a.txt", "text/plain", &vec![b'x'; 30_000_000])
        .await;
    let mut raw = RawConnection::connect(app.address).await;
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n",
        request_target(&file.url)
    );
    raw.send(head).await;
    raw.read_until("\r\n\r\n").await;
    assert_eq!(app.budget_used("proxied_requests"), 1);
    drop(raw);
    until(async || (app.budget_used("proxied_requests") == 0).then_some(())).await;
}

#[tokio::test]
async fn download_below_minimum_rate_is_aborted() {
    let app = TestApp::with(|settings| {
        settings.server.download_grace = Duration::from_secs(0);
        settings.server.download_min_bytes_per_second = 1_000_000_000;
    })
    .await;
    let file = app
        .api
        .upload("a.txt", "text/plain", &vec![b'x'; 30_000_000])
        .await;
    let others = app.budget_used("connections");
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(format!(
        "GET {} HTTP/1.1\r\nHost: x\r\n\r\n",
        request_target(&file.url)
    ))
    .await;
    raw.read_until("\r\n\r\n").await;
    // The idle timeout is longer than this waits.
    until(async || (app.budget_used("connections") <= others).then_some(())).await;
    let (mut piece, mut taken) = (vec![0; 64 * 1024], 0);
    while let Ok(read @ 1..) = within(raw.0.read(&mut piece)).await {
        taken += read;
    }
    assert!(taken < 30_000_000, "the download is incomplete");
}
