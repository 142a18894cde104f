//! Downloads: ranges, conditional requests, headers, filenames and hosts.

use serde_json::json;

use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{Response, TestApp, Uploaded, corpus, each_case_async, on_disk, text};

/// Returns 1000 bytes of text in which no two adjacent bytes are equal.
fn bytes() -> Vec<u8> {
    (0..1000_u32)
        .map(|n| b' ' + u8::try_from(n * 7 % 89).expect("less than 89"))
        .collect()
}

async fn file(app: &TestApp) -> Uploaded {
    app.api.upload("data.txt", "text/plain", &bytes()).await
}

/// Describes a response: `304`, `206:0-9/1000` with the range, or `206:MP` for a multipart body.
fn outcome(response: &Response) -> String {
    let status = response.status.as_u16();
    match (
        status,
        response.header("content-range").strip_prefix("bytes "),
    ) {
        (206, Some(range)) => format!("206:{range}"),
        (206, None)
            if response
                .header("content-type")
                .starts_with("multipart/byteranges; boundary=") =>
        {
            "206:MP".into()
        }
        _ => status.to_string(),
    }
}

/// A request with headers and its expected outcome, in the form of [`outcome`].
type Case<'a> = (Vec<(&'a str, &'a str)>, &'a str);

/// Checks status, body and `Cache-Control` of every case.
async fn check(app: &TestApp, file: &Uploaded, cases: Vec<Case<'_>>) {
    let etag = app.anonymous().get(&file.url).await;
    let etag = etag.header("etag");
    each_case_async(cases, async |(headers, expected)| {
        let response = app.anonymous().get_with(&file.url, &headers).await;
        let found = outcome(&response);
        assert_eq!(found, expected);
        if let Some((first, last)) = found
            .strip_prefix("206:")
            .and_then(|range| range.split('/').next()?.split_once('-'))
        {
            let (first, last): (usize, usize) = (
                first.parse().expect("number"),
                last.parse().expect("number"),
            );
            assert_eq!(response.bytes, &bytes()[first..=last]);
        }
        match found.as_str() {
            "200" => assert_eq!(response.bytes, bytes()),
            "304" => {
                assert_eq!(response.bytes, b"");
                assert_eq!(response.header("etag"), etag);
            }
            "416" => assert_eq!(response.header("content-range"), "bytes */1000"),
            _ => {}
        }
        let cache = if matches!(found.as_str(), "412" | "416") {
            "no-store"
        } else {
            "public, max-age=31536000, immutable"
        };
        assert_eq!(response.header("cache-control"), cache);
    })
    .await;
}

#[tokio::test]
async fn range_returns_206_416_or_whole_file() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let many = format!("bytes={}", vec!["0-"; 1300].join(","));
    let cases = vec![
        (vec![], "200"),
        (vec![("range", "bytes=0-0")], "206:0-0/1000"),
        (vec![("range", "bytes=0-499")], "206:0-499/1000"),
        (vec![("range", "bytes=500-")], "206:500-999/1000"),
        (vec![("range", "bytes=999-")], "206:999-999/1000"),
        (vec![("range", "bytes=990-1990")], "206:990-999/1000"),
        (vec![("range", "BYTES=0-5")], "206:0-5/1000"),
        (vec![("range", "bytes=-1")], "206:999-999/1000"),
        (
            vec![("range", "bytes=-18446744073709551615")],
            "206:0-999/1000",
        ),
        (
            vec![("range", "bytes=-18446744073709551616")],
            "206:0-999/1000",
        ),
        (vec![("range", "bytes=-0")], "416"),
        (vec![("range", "bytes=1000-")], "416"),
        (
            vec![("range", "bytes=18446744073709551616-18446744073709551617")],
            "416",
        ),
        (vec![("range", "bytes=20-29,0-9")], "206:MP"),
        (vec![("range", "bytes=0-499,100-599")], "206:MP"),
        (vec![("range", "bytes=0-9,100000-")], "206:0-9/1000"),
        (vec![("range", &many)], "200"),
        (vec![("range", "bytes=-")], "200"),
        (vec![("range", "0-5")], "200"),
        (vec![("range", "items=0-5")], "200"),
        (vec![("range", "bytes = 0-5")], "200"),
        (
            vec![("range", "bytes=0-9"), ("range", "bytes=20-29")],
            "200",
        ),
    ];
    check(&app, &file, cases).await;
}

#[tokio::test]
async fn condition_returns_304_or_412_before_range_applies() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let first = app.anonymous().get(&file.url).await;
    let (etag, modified) = (first.header("etag"), first.header("last-modified"));
    let weak = format!("W/{etag}");
    let later = "Thu, 15 Jan 2099 00:00:00 GMT";
    let cases = vec![
        (vec![("if-none-match", etag)], "304"),
        (vec![("if-none-match", &weak)], "304"),
        (vec![("if-none-match", "*")], "304"),
        (
            vec![("if-none-match", "\"x\""), ("if-modified-since", later)],
            "200",
        ),
        (vec![("if-modified-since", modified)], "304"),
        (vec![("if-unmodified-since", modified)], "200"),
        (vec![("if-match", "\"nope\"")], "412"),
        (vec![("if-match", etag)], "200"),
        (vec![("range", "bytes=0-9"), ("if-none-match", etag)], "304"),
        (
            vec![("range", "bytes=0-9"), ("if-match", "\"nope\"")],
            "412",
        ),
        (
            vec![("range", "bytes=0-9"), ("if-range", etag)],
            "206:0-9/1000",
        ),
        (vec![("range", "bytes=0-9"), ("if-range", &weak)], "200"),
        (
            vec![("range", "bytes=0-9"), ("if-range", modified)],
            "206:0-9/1000",
        ),
        (vec![("range", "bytes=0-9"), ("if-range", later)], "200"),
    ];
    check(&app, &file, cases).await;
}

#[tokio::test]
async fn multiple_ranges_return_multipart_in_requested_order() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let response = app
        .anonymous()
        .get_with(&file.url, &[("range", "bytes=20-29,0-9,-5")])
        .await;
    let boundary = response
        .header("content-type")
        .split_once("boundary=")
        .expect("boundary")
        .1
        .to_owned();
    let mut expected = Vec::new();
    for (first, last) in [(20, 29), (0, 9), (995, 999)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {first}-{last}/1000\r\n\r\n"
        );
        expected.extend(head.bytes());
        expected.extend(&bytes()[first..=last]);
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").bytes());
    assert_eq!(response.bytes, expected);
    assert_eq!(
        response.header("content-length"),
        expected.len().to_string()
    );
}

#[tokio::test]
async fn head_returns_headers_of_get() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let get = app.anonymous().get(&file.url).await;
    for headers in [vec![], vec![("range", "bytes=0-9")]] {
        let head = app
            .anonymous()
            .request("HEAD", &file.url, &headers, None)
            .await;
        assert_eq!(head.status, 200, "Range is for GET only");
        assert!(head.bytes.is_empty());
        for name in [
            "content-length",
            "content-type",
            "etag",
            "last-modified",
            "accept-ranges",
            "content-disposition",
        ] {
            assert!(!head.header(name).is_empty(), "{name}");
            assert_eq!(head.header(name), get.header(name), "{name}");
        }
    }
    let head = app
        .anonymous()
        .request(
            "HEAD",
            &file.url,
            &[("if-none-match", get.header("etag"))],
            None,
        )
        .await;
    assert_eq!(head.status, 304);
}

#[tokio::test]
async fn file_is_served_sandboxed_and_active_types_as_attachment() {
    let app = TestApp::start().await;
    each_case_async(
        [
            ("tiny.jpg", "image/jpeg", "inline"),
            ("report.pdf", "application/pdf", "inline"),
            ("page.html", "text/html", "attachment"),
            ("logo-with-script.svg", "image/svg+xml", "attachment"),
            ("feed.xml", "text/xml", "attachment"),
            ("data.json", "application/json", "attachment"),
        ],
        async |(name, content_type, disposition)| {
            let file = app.api.upload(name, content_type, &corpus(name)).await;
            let response = app.anonymous().get(&file.url).await;
            assert_eq!(response.header("content-type"), content_type);
            let expected = format!("{disposition}; filename=\"{name}\"; filename*=UTF-8''{name}");
            assert_eq!(response.header("content-disposition"), expected);
            assert_eq!(response.header("x-content-type-options"), "nosniff");
            assert_eq!(
                response.header("content-security-policy"),
                "default-src 'none'; sandbox"
            );
            assert_eq!(response.header("access-control-allow-origin"), "*");
        },
    )
    .await;
}

#[tokio::test]
async fn unknown_path_of_files_returns_404_with_safe_headers() {
    let app = TestApp::start().await;
    each_case_async(
        [
            "/attachments/partners/a/b/c",
            "/attachments/x",
            "/attachments/partners/a/b/c/d",
            "/attachments/partners/a/b/%ff",
            "/attachments/a/%ff/b/c/d",
        ],
        async |path| {
            let nothing = app.anonymous().get(path).await;
            assert_eq!(nothing.status, 404, "{path}");
            assert_eq!(nothing.header("cache-control"), "no-store", "{path}");
            assert_eq!(
                nothing.header("x-content-type-options"),
                "nosniff",
                "{path}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn deprecated_media_type_is_served_as_current_one() {
    let app = TestApp::start().await;
    let file = app
        .api
        .upload("a.mp3", "audio/mp3", &corpus("tagged.mp3"))
        .await;
    assert_eq!(
        app.anonymous().get(&file.url).await.header("content-type"),
        "audio/mpeg"
    );
    let attachment = app
        .api
        .get(&format!("/v3/attachments/{}", file.id))
        .await
        .expect(200);
    assert_eq!(attachment["content_type"], "audio/mp3");
    let sent = app
        .api
        .send_parts(json!([{"type": "media", "attachment_id": file.id}]))
        .await
        .expect(201);
    assert_eq!(
        sent["chat"]["message"]["parts"][0]["mime_type"],
        "audio/mpeg"
    );
}

#[tokio::test]
async fn hostile_filenames_can_be_downloaded() {
    let app = TestApp::on_disk().await;
    each_case_async(
        [
            "..",
            ".",
            "a/b.txt",
            "..\\..\\x.txt",
            "C:\\x.txt",
            "a b+c&d=e?f#g.txt",
            "100%.txt",
            "%2e%2e%2f.txt",
            "\u{202e}gpj.txt",
            "a\0b\r\nX-Evil: 1.txt",
            "naïve \"quoted\" 'single'; filename=x.txt",
            "写真.txt",
            "👩‍👩‍👧.txt",
            "~`!@$^*()_-=[]{}|<>,.txt",
        ],
        async |name| {
            let file = app.api.upload(name, "text/plain", b"hello").await;
            let response = app.anonymous().get(&file.url).await;
            assert_eq!(response.status, 200, "{name:?} {}", file.url);
            assert_eq!(response.bytes, b"hello", "{name:?}");
            assert_eq!(response.headers.get("x-evil"), None);
            assert!(
                response
                    .header("content-disposition")
                    .contains("filename*=UTF-8''"),
                "{name:?}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn filename_of_255_characters_can_be_downloaded() {
    let app = TestApp::on_disk().await;
    let longest = "é".repeat(255);
    let file = app.api.upload(&longest, "text/plain", b"x").await;
    assert_eq!(app.anonymous().get(&file.url).await.status, 200);
}

#[tokio::test]
async fn altered_url_returns_404() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let rival = app.rival.upload("data.txt", "text/plain", b"rival").await;
    let partner = |url: &str| url.split('/').nth(5).expect("partner").to_owned();
    let pending = app.api.create("p.txt", "text/plain", 5).await;
    each_case_async(
        [
            file.url.replace("data.txt", "other.txt"),
            file.url.replace("data.txt", ""),
            file.url.replace("data.txt", "data.txt/"),
            file.url.replace(&partner(&file.url), &partner(&rival.url)),
            file.url
                .replace(&file.id, "01990000-0000-7000-8000-000000000001"),
            file.url.replace(&file.id, "x"),
            text(&pending, "download_url").to_owned(),
        ],
        async |url| {
            let response = app.anonymous().get(&url).await;
            assert_eq!(response.status, 404, "{url}");
        },
    )
    .await;
    assert_eq!(
        app.anonymous()
            .get(&format!("{}?x=1", file.url))
            .await
            .status,
        200,
        "a query is ignored"
    );
    assert_eq!(
        app.anonymous()
            .get_with(&file.url, &[("authorization", "Bearer x")])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn path_traversal_returns_4xx() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let path = request_target(&file.url)
        .rsplit_once('/')
        .expect("path")
        .0
        .to_owned();
    each_case_async(
        [
            "../../../../haversack.db",
            "%2e%2e%2f%2e%2e%2fhaversack.db",
            "..%5c..%5cx",
            "%00",
            "%ff",
            "/etc/passwd",
        ],
        async |traversal| {
            let mut raw = RawConnection::connect(app.address).await;
            raw.send(format!(
                "GET {path}/{traversal} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            ))
            .await;
            let response = raw.read_all().await;
            assert!(
                response.starts_with("HTTP/1.1 404") || response.starts_with("HTTP/1.1 400"),
                "{traversal} {response}"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn methods_other_than_get_and_head_return_405() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    each_case_async(
        ["PUT", "POST", "DELETE", "PATCH", "OPTIONS"],
        async |method| {
            let response = app.anonymous().request(method, &file.url, &[], None).await;
            assert_eq!(response.status, 405, "{method}");
            assert_eq!(response.header("allow"), "GET, HEAD", "{method}");
            assert_eq!(response.header("cache-control"), "no-store");
        },
    )
    .await;
}

#[tokio::test]
async fn separate_cdn_host_serves_only_files() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.urls.public_url = Some("http://api.example.com".parse().expect("URL"));
        settings.urls.cdn_url = Some("http://cdn.example.com/files".parse().expect("URL"));
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let upload = text(&created, "upload_url");
    let download = text(&created, "download_url");
    assert!(
        upload.starts_with("http://api.example.com/uploads/"),
        "{upload}"
    );
    assert!(
        download.starts_with("http://cdn.example.com/files/attachments/partners/"),
        "{download}"
    );
    let put = app
        .anonymous()
        .request(
            "PUT",
            request_target(upload),
            &[("content-type", "text/plain")],
            Some(b"hello".into()),
        )
        .await;
    assert_eq!(put.status, 200);

    let on = async |host: &'static str, path: &str| app.api.get_with(path, &[("host", host)]).await;
    // The reverse proxy strips the path of the base URL, as it does for the API.
    let path = request_target(download)
        .strip_prefix("/files")
        .expect("base path")
        .to_owned();
    for host in [
        "cdn.example.com",
        "CDN.example.com:8080",
        "cdn.example.com.",
    ] {
        assert_eq!(on(host, &path).await.bytes, b"hello", "{host}");
        for other in [
            "/v3/phone_numbers",
            "/api/partner/v3/phone_numbers",
            "/healthz",
            "/metrics",
            "/openapi.json",
        ] {
            assert_eq!(on(host, other).await.status, 404, "{host} {other}");
        }
        let nothing = on(host, request_target(upload)).await;
        assert_eq!(
            (nothing.status.as_u16(), nothing.header("cache-control")),
            (404, "no-store"),
            "{host}"
        );
    }
    assert_eq!(on("api.example.com", "/v3/phone_numbers").await.status, 200);
}
