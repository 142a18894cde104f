//! Files over HTTP: ranges, conditions, headers, names, hosts.

use serde_json::json;

use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{Response, TestApp, Uploaded, corpus, on_disk};

/// 1000 bytes of text, no two neighbours alike.
fn bytes() -> Vec<u8> {
    (0..1000_u32)
        .map(|n| b' ' + u8::try_from(n * 7 % 89).expect("less than 89"))
        .collect()
}

async fn file(app: &TestApp) -> Uploaded {
    app.api.upload("data.txt", "text/plain", &bytes()).await
}

/// What a table of cases says of an answer: `304`, or `206:0-9/1000`, or `206:MP`.
fn outcome(answer: &Response) -> String {
    let status = answer.status.as_u16();
    match (
        status,
        answer.header("content-range").strip_prefix("bytes "),
    ) {
        (206, Some(range)) => format!("206:{range}"),
        (206, None)
            if answer
                .header("content-type")
                .starts_with("multipart/byteranges; boundary=") =>
        {
            "206:MP".into()
        }
        _ => status.to_string(),
    }
}

#[tokio::test]
async fn ranges_and_conditions() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let first = app.anonymous().get(&file.url).await;
    let (etag, modified) = (
        first.header("etag").to_owned(),
        first.header("last-modified").to_owned(),
    );
    let many = format!("bytes={}", vec!["0-"; 1300].join(","));
    let weak = format!("W/{etag}");
    let later = "Thu, 15 Jan 2099 00:00:00 GMT";
    for (headers, expected) in [
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
        (vec![("if-none-match", &etag)], "304"),
        (vec![("if-none-match", &weak)], "304"),
        (vec![("if-none-match", "*")], "304"),
        (
            vec![("if-none-match", "\"x\""), ("if-modified-since", later)],
            "200",
        ),
        (vec![("if-modified-since", &modified)], "304"),
        (vec![("if-unmodified-since", &modified)], "200"),
        (vec![("if-match", "\"nope\"")], "412"),
        (vec![("if-match", &etag)], "200"),
        (
            vec![("range", "bytes=0-9"), ("if-none-match", &etag)],
            "304",
        ),
        (
            vec![("range", "bytes=0-9"), ("if-match", "\"nope\"")],
            "412",
        ),
        (
            vec![("range", "bytes=0-9"), ("if-range", &etag)],
            "206:0-9/1000",
        ),
        (vec![("range", "bytes=0-9"), ("if-range", &weak)], "200"),
        (
            vec![("range", "bytes=0-9"), ("if-range", &modified)],
            "206:0-9/1000",
        ),
        (vec![("range", "bytes=0-9"), ("if-range", later)], "200"),
    ] {
        let answer = app.anonymous().get_with(&file.url, &headers).await;
        let found = outcome(&answer);
        assert_eq!(found, expected, "{headers:?}");
        if let Some((first, last)) = found
            .strip_prefix("206:")
            .and_then(|r| r.split('/').next()?.split_once('-'))
        {
            let (first, last): (usize, usize) = (
                first.parse().expect("number"),
                last.parse().expect("number"),
            );
            assert_eq!(answer.bytes, &bytes()[first..=last], "{headers:?}");
        }
        match found.as_str() {
            "200" => assert_eq!(answer.bytes, bytes(), "{headers:?}"),
            "304" => assert!(
                answer.bytes.is_empty() && answer.header("etag") == etag,
                "{headers:?}"
            ),
            "416" => assert_eq!(
                answer.header("content-range"),
                "bytes */1000",
                "{headers:?}"
            ),
            _ => {}
        }
        let cache = if matches!(found.as_str(), "412" | "416") {
            "no-store"
        } else {
            "public, max-age=31536000, immutable"
        };
        assert_eq!(answer.header("cache-control"), cache, "{headers:?}");
    }
}

#[tokio::test]
async fn several_ranges_come_in_the_order_asked_for() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let answer = app
        .anonymous()
        .get_with(&file.url, &[("range", "bytes=20-29,0-9,-5")])
        .await;
    let boundary = answer
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
    assert_eq!(answer.bytes, expected);
    assert_eq!(answer.header("content-length"), expected.len().to_string());
}

#[tokio::test]
async fn head_tells_what_get_would_give() {
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
async fn a_file_is_never_a_page_of_ours() {
    let app = TestApp::start().await;
    for (name, content_type, disposition) in [
        ("tiny.jpg", "image/jpeg", "inline"),
        ("report.pdf", "application/pdf", "inline"),
        ("page.html", "text/html", "attachment"),
        ("logo-with-script.svg", "image/svg+xml", "attachment"),
        ("feed.xml", "text/xml", "attachment"),
        ("data.json", "application/json", "attachment"),
    ] {
        let file = app.api.upload(name, content_type, &corpus(name)).await;
        let answer = app.anonymous().get(&file.url).await;
        assert_eq!(answer.header("content-type"), content_type);
        let expected = format!("{disposition}; filename=\"{name}\"; filename*=UTF-8''{name}");
        assert_eq!(answer.header("content-disposition"), expected);
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(
            answer.header("content-security-policy"),
            "default-src 'none'; sandbox"
        );
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
    for path in [
        "/attachments/partners/a/b/c",
        "/attachments/x",
        "/attachments/partners/a/b/c/d",
        "/attachments/partners/a/b/%ff",
        "/attachments/a/%ff/b/c/d",
    ] {
        let nothing = app.anonymous().get(path).await;
        assert_eq!(nothing.status, 404, "{path}");
        assert_eq!(nothing.header("cache-control"), "no-store", "{path}");
        assert_eq!(
            nothing.header("x-content-type-options"),
            "nosniff",
            "{path}"
        );
    }
}

#[tokio::test]
async fn deprecated_names_are_delivered_under_the_current_one() {
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
async fn every_filename_can_be_downloaded() {
    let app = TestApp::on_disk().await;
    for name in [
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
    ] {
        let file = app.api.upload(name, "text/plain", b"hello").await;
        let answer = app.anonymous().get(&file.url).await;
        assert_eq!(answer.status, 200, "{name:?} {}", file.url);
        assert_eq!(answer.bytes, b"hello", "{name:?}");
        assert_eq!(answer.headers.get("x-evil"), None);
        assert!(
            answer
                .header("content-disposition")
                .contains("filename*=UTF-8''"),
            "{name:?}"
        );
    }
    let longest = "é".repeat(255);
    let file = app.api.upload(&longest, "text/plain", b"x").await;
    assert_eq!(app.anonymous().get(&file.url).await.status, 200);
}

#[tokio::test]
async fn only_the_exact_url_finds_a_file() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    let rival = app.rival.upload("data.txt", "text/plain", b"rival").await;
    let partner = |url: &str| url.split('/').nth(5).expect("partner").to_owned();
    let pending = app.api.create("p.txt", "text/plain", 5).await;
    for url in [
        file.url.replace("data.txt", "other.txt"),
        file.url.replace("data.txt", ""),
        file.url.replace("data.txt", "data.txt/"),
        file.url.replace(&partner(&file.url), &partner(&rival.url)),
        file.url
            .replace(&file.id, "01990000-0000-7000-8000-000000000001"),
        file.url.replace(&file.id, "x"),
        pending["download_url"].as_str().expect("URL").to_owned(),
    ] {
        let answer = app.anonymous().get(&url).await;
        assert_eq!(answer.status, 404, "{url}");
    }
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

    let path = request_target(&file.url)
        .rsplit_once('/')
        .expect("path")
        .0
        .to_owned();
    for traversal in [
        "../../../../haversack.db",
        "%2e%2e%2f%2e%2e%2fhaversack.db",
        "..%5c..%5cx",
        "%00",
        "%ff",
        "/etc/passwd",
    ] {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(format!(
            "GET {path}/{traversal} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
        .await;
        let answer = raw.read_all().await;
        assert!(
            answer.starts_with("HTTP/1.1 404") || answer.starts_with("HTTP/1.1 400"),
            "{traversal} {answer}"
        );
    }
}

#[tokio::test]
async fn other_methods_are_refused() {
    let app = TestApp::start().await;
    let file = file(&app).await;
    for method in ["PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
        let answer = app.anonymous().request(method, &file.url, &[], None).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), "GET, HEAD", "{method}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn a_cdn_host_of_its_own_gives_files_only() {
    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.public_url = Some("http://api.example.com".to_owned());
        flags.cdn_url = Some("http://cdn.example.com/files".to_owned());
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let upload = created["upload_url"].as_str().expect("URL");
    let download = created["download_url"].as_str().expect("URL");
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
    // The proxy in front takes the base's path away, as it does for the API.
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
