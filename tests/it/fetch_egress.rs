//! The egress policy: addresses (SSRF and DNS rebinding), URLs and certificates of fetches.

use tokio::net::TcpListener;

use crate::hostile_origins::{expect_reason, send};
use haversack_testkit::origin::{Certificate, http_response};
use haversack_testkit::{Origin, TestApp, each_case_async};

/// Listens on an address that is not allowed, at the port that is.
async fn forbidden(origin: &Origin) -> TcpListener {
    TcpListener::bind(("127.0.0.2", origin.address.port()))
        .await
        .expect("listen")
}

/// Returns true if there was no connection.
async fn untouched(listener: &TcpListener) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(listener.poll_accept(context).is_pending())
    })
    .await
}

#[tokio::test]
async fn dns_rebinding_never_reaches_a_private_address() {
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
        "one DNS query per connection"
    );
    expect_reason(
        &send(&app, &origin.url("/a.txt")).await,
        "its address is not public",
    );
    assert!(untouched(&inside).await);
}

#[tokio::test]
async fn dns_rebinding_before_a_redirect_never_reaches_a_private_address() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let inside = forbidden(&origin).await;
    origin.file("/a.txt", "text/plain", b"hello");
    origin
        .dns
        .set("origin.test", &[&["127.0.0.1"], &["127.0.0.2"]]);
    origin.script(
        "/r.txt",
        http_response("302 Found", "location: /a.txt\ncontent-length: 0", b""),
    );
    expect_reason(
        &send(&app, &origin.url("/r.txt")).await,
        "after a redirect: its address is not public",
    );
    assert!(untouched(&inside).await);
}

#[tokio::test]
async fn private_address_is_refused_before_any_connection() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let inside = forbidden(&origin).await;
    origin.file("/a.txt", "text/plain", b"hello");
    let connections = origin.connections();
    origin.dns.set("mixed.test", &[&["127.0.0.1", "127.0.0.2"]]);
    expect_reason(
        &send(&app, &origin.url_with_host("mixed.test", "/a.txt")).await,
        "its address is not public",
    );
    each_case_async(
        ["127.0.0.2", "[::ffff:127.0.0.2]", "[::1]", "10.0.0.1"],
        async |host| {
            expect_reason(
                &send(&app, &origin.url_with_host(host, "/a.txt")).await,
                "its address is not public",
            );
        },
    )
    .await;
    origin.dns.set("printer.local", &[&["93.184.215.14"]]);
    let local = send(&app, &origin.url_with_host("printer.local", "/a.txt")).await;
    expect_reason(&local, "its host is a name for local use, not a public one");
    assert_eq!(
        origin.connections(),
        connections,
        "refused before any connection"
    );
    assert!(untouched(&inside).await);
}

#[tokio::test]
async fn private_address_that_operator_allows_is_fetched() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.file("/a.txt", "text/plain", b"hello");
    assert_eq!(
        send(&app, &origin.url_with_host("127.0.0.1", "/a.txt"))
            .await
            .status,
        201,
        "the operator allows this address"
    );
}

#[tokio::test]
async fn invalid_url_returns_400_without_dns_query() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    each_case_async(
        [
            "http://origin.test/a.jpg",
            "ftp://origin.test/a.jpg",
            "https://u@origin.test/a.jpg",
            "https://127.1/a.jpg",
            "https://0x7f000001/",
            "https:\\\\origin.test\\a.jpg",
            "https://",
            "a.jpg",
            "https://origin.test:x/",
        ],
        async |url| {
            let refused = send(&app, url).await;
            assert_eq!(refused.error(), (400, 1005), "{url}");
        },
    )
    .await;
    assert!(origin.dns.queries().is_empty());
}

#[tokio::test]
async fn invalid_certificate_returns_500_without_request() {
    each_case_async(
        [
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
        ],
        async |(certificate, reason)| {
            let origin = Origin::with_certificate(&certificate);
            origin.file("/a.txt", "text/plain", b"hello");
            let app = TestApp::with_origin(&origin, |_| {}).await;
            expect_reason(&send(&app, &origin.url("/a.txt")).await, reason);
            assert!(
                origin.requests().is_empty(),
                "no request to an unverified host"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn origin_with_unknown_authority_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |settings| settings.fetch.ca_file = None).await;
    let untrusted = "the host's certificate is not signed by an authority that is trusted here";
    expect_reason(&send(&app, &origin.url("/a.txt")).await, untrusted);
    drop(origin);
}

#[tokio::test]
async fn unreachable_host_returns_500() {
    let origin = Origin::start();
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("listen")
        .local_addr()
        .expect("address")
        .port();
    let app = TestApp::with_origin(&origin, |settings| {
        settings.fetch.allow_ports = std::iter::once(closed).collect();
    })
    .await;
    let url = format!("https://origin.test:{closed}/a.txt");
    expect_reason(
        &send(&app, &url).await,
        "the host does not accept connections",
    );
}

#[tokio::test]
async fn unresolvable_host_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.dns.set("nowhere.test", &[&[]]);
    expect_reason(
        &send(&app, &origin.url_with_host("nowhere.test", "/a.txt")).await,
        "its host name could not be resolved",
    );
}
