//! Redirects of origins.

use crate::hostile_origins::{expect_nothing, expect_reason, send};
use haversack_testkit::origin::http_response;
use haversack_testkit::{Origin, TestApp, each_case_async};
use serde_json::json;

#[tokio::test]
async fn redirect_statuses_are_followed() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.file("/end.txt", "text/plain", b"hello");
    each_case_async(
        [
            "301 Moved",
            "302 Found",
            "303 See Other",
            "307 Temporary",
            "308 Permanent",
        ],
        async |status| {
            origin.script(
                "/r.txt",
                http_response(status, "location: end.txt\ncontent-length: 0", b""),
            );
            let sent = send(&app, &origin.url("/r.txt")).await.expect(201);
            let part = &sent["chat"]["message"]["parts"][0];
            assert_eq!(
                (&part["filename"], &part["size_bytes"]),
                (&json!("r.txt"), &json!(5)),
                "{status}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn sixth_redirect_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    origin.file("/end.txt", "text/plain", b"hello");
    for hop in 1..=6 {
        let target = if hop == 6 {
            "/end.txt".to_owned()
        } else {
            format!("/{}.txt", hop + 1)
        };
        let headers = format!("location: {}\ncontent-length: 0", origin.url(&target));
        origin.script(
            &format!("/{hop}.txt"),
            http_response("302 Found", &headers, b""),
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
}

#[tokio::test]
async fn redirect_to_invalid_location_returns_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    each_case_async([
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
    ], async |(location, reason)| {
        origin.script(
            "/bad.txt",
            http_response(
                "302 Found",
                &format!("location: {location}\ncontent-length: 0"),
                b"",
            ),
        );
        expect_reason(&send(&app, &origin.url("/bad.txt")).await, reason);
    })
    .await;
    origin.script(
        "/none.txt",
        http_response("302 Found", "content-length: 0", b""),
    );
    expect_reason(
        &send(&app, &origin.url("/none.txt")).await,
        "it redirects without saying where to",
    );
}

#[tokio::test]
async fn redirects_of_the_url_list_return_500() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let list = include_str!("data/fetch_urls.tsv");
    let redirects: Vec<_> = list
        .lines()
        .filter_map(|line| line.split_once("[redirect 302 ")?.1.split_once("] "))
        .map(|(location, _)| location)
        .collect();
    assert!(redirects.len() >= 7, "{redirects:?}");
    each_case_async(redirects, async |location| {
        let location = location.replace(
            "redirect.test",
            &format!("origin.test:{}", origin.address.port()),
        );
        let headers = format!("location: {location}\ncontent-length: 0");
        let redirect = http_response("302 Found", &headers, b"");
        origin.script("/r", redirect.clone());
        origin.script("/loop", redirect);
        let refused = send(&app, &origin.url("/r")).await;
        assert_eq!(refused.error(), (500, 5002));
        assert!(
            !refused.message().contains("169.254"),
            "{}",
            refused.message()
        );
    })
    .await;
    expect_nothing(&app).await;
}
