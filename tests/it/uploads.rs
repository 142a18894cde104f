//! Presigned PUT requests to this server.

use std::time::Duration;

use serde_json::Value;

use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{Response, TestApp, each_case_async, on_disk, text, until, within};

/// Returns the HTTP status and the S3 error code.
fn code(response: &Response) -> (u16, &str) {
    let text = response.text();
    let code = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    (
        response.status.as_u16(),
        code.unwrap_or_else(|| panic!("not an S3 error: {text}")).0,
    )
}

/// Returns the head of an upload request.
fn head(created: &Value, method: &str, more: &str) -> String {
    let url = request_target(text(created, "upload_url"));
    format!("{method} {url} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n{more}\r\n")
}

/// Counts the files below a folder of the data folder.
fn files_in(app: &TestApp, folder: &str) -> usize {
    fn count(path: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(path)
            .expect("folder")
            .map(|entry| entry.expect("entry").path());
        entries
            .map(|path| if path.is_dir() { count(&path) } else { 1 })
            .sum()
    }
    count(&app.folder.path().join(folder))
}

#[tokio::test]
async fn altered_url_headers_or_length_return_403() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = text(&created, "upload_url").to_owned();
    let plain = [("content-type", "text/plain")];
    let put = async |url: &str, headers: &[(&str, &str)], body: &[u8]| {
        app.anonymous()
            .request("PUT", url, headers, Some(body.into()))
            .await
    };
    let other = app.api.create("b.txt", "text/plain", 5).await;
    let (path, query) = url.split_once('?').expect("query");
    let other_path = text(&other, "upload_url")
        .split_once('?')
        .expect("query")
        .0
        .to_owned();
    each_case_async(
        [
            path.to_owned(),
            format!("{url}&x=1"),
            format!("{url}0"),
            url.replace("expires=1", "expires=2"),
            url.replace("signature=", "Signature="),
            format!("{other_path}?{query}"),
            path.to_uppercase()
                .replace("HTTP", "http")
                .replace("UPLOADS", "uploads")
                + "?"
                + query,
        ],
        async |altered| {
            let response = put(&altered, &plain, b"hello").await;
            assert_eq!(code(&response), (403, "SignatureDoesNotMatch"), "{altered}");
        },
    )
    .await;
    each_case_async(
        [
            (vec![("content-type", "text/html")], b"hello".as_slice()),
            (
                vec![("content-type", "text/plain; charset=utf-8")],
                b"hello",
            ),
            (vec![("content-type", "TEXT/PLAIN")], b"hello"),
            (vec![], b"hello"),
            (plain.to_vec(), b"hell"),
            (plain.to_vec(), b"hello!"),
        ],
        async |(headers, body)| {
            let response = put(&url, &headers, body).await;
            assert_eq!(
                code(&response),
                (403, "SignatureDoesNotMatch"),
                "{headers:?}"
            );
            let names_signed_headers = response
                .text()
                .contains("signed for Content-Type \"text/plain\" and Content-Length 5");
            assert!(names_signed_headers, "{}", response.text());
            assert_eq!(response.header("content-type"), "application/xml");
        },
    )
    .await;
    let odd = put(&app.url("/uploads/%ff"), &plain, b"hello").await;
    assert_eq!(code(&odd), (403, "SignatureDoesNotMatch"));
    assert_eq!(
        files_in(&app, "unfinished-uploads") + files_in(&app, "blobs"),
        0
    );

    let stored = app.api.put(&created, b"hello").await;
    assert_eq!((stored.status.as_u16(), stored.bytes.len()), (200, 0));
    assert_eq!(
        stored.header("etag"),
        "\"5d41402abc4b2a76b9719d911017c592\""
    );
}

#[tokio::test]
async fn upload_that_began_before_expiry_succeeds_and_later_one_returns_403() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let begun = app.api.create("b.txt", "text/plain", 5).await;
    let mut slow = RawConnection::connect(app.address).await;
    slow.send(head(
        &begun,
        "PUT",
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
    ))
    .await;
    slow.read_until("100 Continue\r\n\r\n").await;

    app.clock.advance(Duration::from_mins(15));
    let response = app.api.put(&created, b"hello").await;
    assert_eq!(code(&response), (403, "AccessDenied"));
    assert!(response.text().contains("Request has expired"));

    slow.send("hello").await;
    assert!(
        slow.read_until("\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let id = text(&begun, "attachment_id");
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{id}"))
            .await
            .expect(200)["status"],
        "complete"
    );
}

#[tokio::test]
async fn methods_other_than_put_return_405() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = text(&created, "upload_url");
    each_case_async(
        ["GET", "POST", "DELETE", "PATCH", "OPTIONS"],
        async |method| {
            let response = app.anonymous().request(method, url, &[], None).await;
            assert_eq!(code(&response), (405, "MethodNotAllowed"), "{method}");
            assert_eq!(response.header("allow"), "PUT");
        },
    )
    .await;
}

#[tokio::test]
async fn chunked_upload_without_content_length_returns_411() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n")
        .await;
    let response = raw.read_until("</Error>").await;
    assert!(
        response.starts_with("HTTP/1.1 411")
            && response.contains("<Code>MissingContentLength</Code>"),
        "{response}"
    );
    assert_eq!(files_in(&app, "blobs"), 0);
}

#[tokio::test]
async fn content_length_with_transfer_encoding_returns_4xx() {
    // A form of request smuggling (RFC 9112 section 6.1).
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let mut raw = RawConnection::connect(app.address).await;
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    raw.send(head(&created, "PUT", both) + "9\r\nhello you\r\n0\r\n\r\n")
        .await;
    assert!(raw.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 4"));
    assert_eq!(files_in(&app, "blobs"), 0);
}

#[tokio::test]
async fn expect_100_continue_is_answered_only_if_request_is_acceptable() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let expect = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    each_case_async(
        [
            head(&created, "PUT", expect).replace("text/plain", "text/html"),
            head(&created, "PUT", expect).replace("Length: 5", "Length: 6"),
            head(&created, "PUT", expect).replace("signature=", "signature=0"),
            head(&created, "POST", expect),
        ],
        async |altered| {
            let mut raw = RawConnection::connect(app.address).await;
            raw.send(&altered).await;
            let response = raw.read_until("\r\n\r\n").await;
            assert!(
                response.starts_with("HTTP/1.1 40"),
                "refused before 100 Continue: {response}"
            );
        },
    )
    .await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", expect)).await;
    assert_eq!(
        raw.read_until("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    raw.send("hello").await;
    assert!(raw.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn rejected_upload_is_drained_so_that_client_reads_403() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 20_000_000).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(
        head(&created, "PUT", "Content-Length: 20000000\r\n").replace("text/plain", "text/html"),
    )
    .await;
    // Simple clients write the whole body before they read; a reset would lose the response.
    raw.send(vec![b'x'; 5_000_000]).await;
    let response = raw.read_until("</Error>").await;
    assert!(response.starts_with("HTTP/1.1 403"), "{response}");
}

#[tokio::test]
async fn aborted_upload_leaves_no_file_and_can_be_repeated() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 300_000).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 300000\r\n"))
        .await;
    raw.send(vec![b'x'; 200_000]).await;
    until(async || (files_in(&app, "unfinished-uploads") == 1).then_some(())).await;
    drop(raw);
    until(async || (files_in(&app, "unfinished-uploads") == 0).then_some(())).await;
    let path = format!("/v3/attachments/{}", text(&created, "attachment_id"));
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "pending");
    assert_eq!(
        app.api.get(text(&created, "download_url")).await.status,
        404
    );

    let whole = vec![b'y'; 300_000];
    assert_eq!(app.api.put(&created, &whole).await.status, 200);
    assert_eq!(
        app.api.get(text(&created, "download_url")).await.bytes,
        whole
    );
}

#[tokio::test]
async fn short_body_returns_400_incomplete_body() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 5\r\n") + "hel")
        .await;
    tokio::io::AsyncWriteExt::shutdown(&mut raw.0)
        .await
        .expect("half close");
    let response = raw.read_all().await;
    assert!(
        response.starts_with("HTTP/1.1 400") && response.contains("<Code>IncompleteBody</Code>"),
        "{response}"
    );
}

#[tokio::test]
async fn second_upload_with_other_bytes_returns_409() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    assert_eq!(app.api.put(&created, b"hello").await.status, 200);
    let again = app.api.put(&created, b"hello").await;
    assert_eq!(
        (again.status.as_u16(), again.header("etag")),
        (200, "\"5d41402abc4b2a76b9719d911017c592\"")
    );
    assert_eq!(
        code(&app.api.put(&created, b"world").await),
        (409, "OperationAborted")
    );
    assert_eq!(
        app.api.get(text(&created, "download_url")).await.bytes,
        b"hello"
    );
    assert_eq!(files_in(&app, "unfinished-uploads"), 0);
}

#[tokio::test]
async fn concurrent_uploads_store_exactly_one_body() {
    let app = TestApp::on_disk().await;
    let size = 400_000;
    let created = app.api.create("a.txt", "text/plain", size).await;
    let bodies: Vec<Vec<u8>> = (0..16).map(|n| vec![b'a' + n; size]).collect();
    let responses =
        futures_util::future::join_all(bodies.iter().map(|body| app.api.put(&created, body))).await;
    let winners: Vec<usize> = (0..16).filter(|n| responses[*n].status == 200).collect();
    assert_eq!(winners.len(), 1, "{responses:?}");
    assert_eq!(
        responses
            .iter()
            .filter(|response| response.status == 409)
            .count(),
        15
    );
    let file = app.api.get(text(&created, "download_url")).await;
    assert!(file.bytes == bodies[winners[0]]);
    assert_eq!(
        (
            files_in(&app, "unfinished-uploads"),
            files_in(&app, "blobs")
        ),
        (0, 1)
    );
}

#[tokio::test]
async fn idle_upload_returns_request_timeout() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.server.idle_timeout = Duration::from_secs(1);
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 5\r\n") + "hel")
        .await;
    let response = raw.read_all().await;
    assert!(
        response.starts_with("HTTP/1.1 400") && response.contains("<Code>RequestTimeout</Code>"),
        "{response}"
    );
    assert_eq!(files_in(&app, "unfinished-uploads"), 0);
}

#[tokio::test]
async fn upload_below_minimum_rate_returns_request_timeout() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.attachments.upload_grace = Duration::from_secs(0);
        settings.attachments.upload_min_bytes_per_second = 1_000_000_000;
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5_000_000).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 5000000\r\n") + "hel")
        .await;
    let response = raw.read_until("</Error>").await;
    assert!(
        response.contains("<Code>RequestTimeout</Code>"),
        "below the minimum rate, though never idle: {response}"
    );
}

#[tokio::test]
async fn authorization_header_is_ignored() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = text(&created, "upload_url");
    let headers = [
        ("content-type", "text/plain"),
        ("authorization", "Bearer nonsense"),
    ];
    let response = app
        .anonymous()
        .request("PUT", url, &headers, Some(b"hello".into()))
        .await;
    assert_eq!(response.status, 200);
}

#[tokio::test]
async fn repeated_content_type_header_returns_403() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = text(&created, "upload_url");
    for other in ["text/html", "text/plain"] {
        let headers = [("content-type", "text/plain"), ("content-type", other)];
        let response = app
            .anonymous()
            .request("PUT", url, &headers, Some(b"hello".into()))
            .await;
        assert_eq!(code(&response), (403, "SignatureDoesNotMatch"), "{other}");
    }
    assert_eq!(app.api.put(&created, b"hello").await.status, 200);
}

#[tokio::test]
async fn newer_upload_replaces_stalled_one() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.attachments.upload_stall = Duration::from_secs(0);
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 300_000).await;
    let mut older = RawConnection::connect(app.address).await;
    older
        .send(head(&created, "PUT", "Content-Length: 300000\r\n"))
        .await;
    older.send(vec![b'x'; 200_000]).await;
    until(async || (app.budget_used("temporary_bytes") == 200_000).then_some(())).await;
    let whole = vec![b'y'; 300_000];
    assert_eq!(app.api.put(&created, &whole).await.status, 200);
    let response = older.read_until("</Error>").await;
    assert!(
        response.starts_with("HTTP/1.1 409") && response.contains("<Code>OperationAborted</Code>"),
        "{response}"
    );
    assert_eq!(
        app.api.get(text(&created, "download_url")).await.bytes,
        whole
    );
    assert_eq!(
        (
            files_in(&app, "unfinished-uploads"),
            files_in(&app, "blobs")
        ),
        (0, 1)
    );
    assert_eq!(
        app.budget_peak("temporary_bytes"),
        300_000,
        "never two bodies at once"
    );
}

#[tokio::test]
async fn newer_upload_returns_409_while_older_one_makes_progress() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.attachments.upload_stall = Duration::from_secs(1);
    })
    .await;
    let size = 20_000_000;
    let created = app.api.create("a.txt", "text/plain", size).await;
    let mut older = RawConnection::connect(app.address).await;
    older
        .send(head(
            &created,
            "PUT",
            &format!("Content-Length: {size}\r\n"),
        ))
        .await;
    older.send("x").await;
    until(async || (app.budget_used("temporary_bytes") == 1).then_some(())).await;
    let mut sent = 1;
    let body = vec![b'y'; size];
    let newer = app.api.put(&created, &body);
    let drip = async {
        loop {
            older.send("x").await;
            sent += 1;
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::select! {
        refused = newer => refused,
        () = drip => unreachable!(),
    };
    assert_eq!(code(&refused), (409, "OperationAborted"));
    assert!(refused.text().contains("under way"), "{refused:?}");
    assert_eq!(files_in(&app, "unfinished-uploads"), 1);
    older.send(vec![b'x'; size - sent]).await;
    assert!(
        older
            .read_until("\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert_eq!(
        app.budget_peak("temporary_bytes"),
        size as u64,
        "never two bodies at once"
    );
}

#[tokio::test]
async fn upload_after_lost_connection_succeeds_at_once() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        // Excludes a stall as the reason.
        settings.attachments.upload_stall = Duration::from_mins(10);
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 300_000).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 300000\r\n"))
        .await;
    raw.send(vec![b'x'; 200_000]).await;
    until(async || (app.budget_used("temporary_bytes") == 200_000).then_some(())).await;
    drop(raw);
    assert_eq!(
        within(app.api.put(&created, &vec![b'y'; 300_000]))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn upload_beyond_temporary_bytes_of_partner_returns_503() {
    let app = TestApp::with(|settings| {
        on_disk(settings);
        settings.attachments.max_temporary_bytes_per_partner = 200_000;
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 300_000).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 300000\r\n"))
        .await;
    raw.send(vec![b'x'; 150_000]).await;
    until(async || (app.budget_used("temporary_bytes") == 150_000).then_some(())).await;
    let second = app.api.create("b.txt", "text/plain", 100_000).await;
    let refused = app.api.put(&second, &vec![b'y'; 100_000]).await;
    assert_eq!(code(&refused), (503, "SlowDown"));
    assert!(
        refused
            .header("retry-after")
            .parse::<u64>()
            .is_ok_and(|seconds| seconds > 0),
        "{refused:?}"
    );
    app.rival
        .upload("c.txt", "text/plain", &vec![b'z'; 100_000])
        .await;
    drop(raw);
    until(async || (app.budget_used("temporary_bytes") == 0).then_some(())).await;
    assert_eq!(app.api.put(&second, &vec![b'y'; 100_000]).await.status, 200);
    assert_eq!(
        (
            app.budget_used("temporary_bytes"),
            files_in(&app, "unfinished-uploads")
        ),
        (0, 0)
    );
}
