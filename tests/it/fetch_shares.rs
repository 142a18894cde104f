//! Shares of fetches: one partner's slow origins do not delay another's sends, and a disconnected
//! client frees its share.

use std::time::Duration;

use serde_json::json;

use crate::hostile_origins::{expect_nothing, expect_reason, send};
use haversack_testkit::origin::{Step, http_response};
use haversack_testkit::{LINE, Origin, RECIPIENT, RIVAL_LINE, TestApp, until, within};

#[tokio::test]
async fn stalled_fetches_of_one_partner_do_not_block_another() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |settings| {
        settings.fetch.max_concurrent = 3;
        settings.fetch.max_concurrent_per_partner = 2;
        settings.fetch.max_queued_per_partner = 1;
        settings.fetch.queue_timeout = Duration::from_secs(1);
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
    // Of three more, one may wait for a second; the others are refused at once.
    let refused = stalled(3).await.expect("a response");
    assert_eq!(refused.error(), (503, 4004));
    assert_eq!(refused.header("retry-after"), "5");
    assert_eq!(send(&app, &origin.url("/a.txt")).await.error(), (503, 4004));
    let text = json!({"from": LINE, "to": [RECIPIENT],
        "message": {"parts": [{"type": "text", "value": "hi"}]}});
    assert_eq!(
        app.api.post("/v3/chats", &text).await.status,
        201,
        "a send without a fetch does not wait"
    );
    let body = json!({"from": RIVAL_LINE, "to": [RECIPIENT],
        "message": {"parts": [{"type": "media", "url": origin.url("/a.txt")}]}});
    assert_eq!(app.rival.post("/v3/chats", &body).await.status, 201);
    running.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn abandoned_dns_query_still_counts_against_share() {
    let origin = Origin::start();
    origin.file("/a.txt", "text/plain", b"hello");
    let app = TestApp::with_origin(&origin, |settings| {
        settings.fetch.max_concurrent_per_partner = 1;
        settings.fetch.resolve_timeout = Duration::from_secs(1);
        settings.fetch.queue_timeout = Duration::from_secs(1);
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
async fn fetches_beyond_temporary_bytes_of_partner_return_503() {
    let origin = Origin::start();
    origin.script(
        "/large.txt",
        http_response("200 OK", "content-length: 60000", &vec![b'x'; 60_000]),
    );
    let app = TestApp::with_origin(&origin, |settings| {
        settings.attachments.max_temporary_bytes_per_partner = 100_000;
    })
    .await;
    let parts = vec![json!({"type": "media", "url": origin.url("/large.txt")}); 2];
    assert_eq!(app.api.send_parts(json!(parts)).await.error(), (503, 4004));
    for _ in 0..3 {
        assert_eq!(
            app.api.send_parts(json!(parts[..1])).await.status,
            201,
            "files of sent messages do not count"
        );
    }
}

#[tokio::test]
async fn client_disconnect_cancels_the_fetch() {
    let origin = Origin::start();
    // The timeouts are longer than the test waits, so only the disconnect can end the fetch.
    let app = TestApp::with_origin(&origin, |settings| {
        settings.fetch.timeout = Duration::from_mins(1);
        settings.fetch.idle_timeout = Duration::from_mins(1);
    })
    .await;
    let stalled = [
        http_response("200 OK", "content-length: 100000", &vec![b'x'; 50_000]),
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
