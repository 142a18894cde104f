//! The presigned PUT.

use std::time::Duration;

use serde_json::Value;

use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{TestApp, on_disk, until};

fn code(answer: &haversack_testkit::Response) -> (u16, &str) {
    let text = answer.text();
    let code = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    (
        answer.status.as_u16(),
        code.unwrap_or_else(|| panic!("no XML but {text}")).0,
    )
}

fn head(created: &Value, method: &str, more: &str) -> String {
    let url = request_target(created["upload_url"].as_str().expect("URL"));
    format!("{method} {url} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n{more}\r\n")
}

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
async fn what_is_not_signed_is_refused() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = created["upload_url"].as_str().expect("URL").to_owned();
    let text = [("content-type", "text/plain")];
    let put = async |url: &str, headers: &[(&str, &str)], body: &[u8]| {
        app.anonymous()
            .request("PUT", url, headers, Some(body.into()))
            .await
    };
    let other = app.api.create("b.txt", "text/plain", 5).await;
    let (path, query) = url.split_once('?').expect("query");
    let other_path = other["upload_url"]
        .as_str()
        .expect("URL")
        .split_once('?')
        .expect("query")
        .0
        .to_owned();
    for altered in [
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
    ] {
        let answer = put(&altered, &text, b"hello").await;
        assert_eq!(code(&answer), (403, "SignatureDoesNotMatch"), "{altered}");
    }
    for (headers, body) in [
        (vec![("content-type", "text/html")], b"hello".as_slice()),
        (
            vec![("content-type", "text/plain; charset=utf-8")],
            b"hello",
        ),
        (vec![("content-type", "TEXT/PLAIN")], b"hello"),
        (vec![], b"hello"),
        (text.to_vec(), b"hell"),
        (text.to_vec(), b"hello!"),
    ] {
        let answer = put(&url, &headers, body).await;
        assert_eq!(code(&answer), (403, "SignatureDoesNotMatch"), "{headers:?}");
        let told = answer
            .text()
            .contains("signed for Content-Type \"text/plain\" and Content-Length 5");
        assert!(told, "{}", answer.text());
        assert_eq!(answer.header("content-type"), "application/xml");
    }
    let odd = put(&app.url("/uploads/%ff"), &text, b"hello").await;
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
async fn the_url_ends_with_its_window_and_an_upload_under_way_does_not() {
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
    let answer = app.api.put(&created, b"hello").await;
    assert_eq!(code(&answer), (403, "AccessDenied"));
    assert!(answer.text().contains("Request has expired"));

    slow.send("hello").await;
    assert!(
        slow.read_until("\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let id = begun["attachment_id"].as_str().expect("id");
    assert_eq!(
        app.api
            .get(&format!("/v3/attachments/{id}"))
            .await
            .expect(200)["status"],
        "complete"
    );
}

#[tokio::test]
async fn other_methods_and_bodies_without_length_are_refused() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = created["upload_url"].as_str().expect("URL");
    for method in ["GET", "POST", "DELETE", "PATCH", "OPTIONS"] {
        let answer = app.anonymous().request(method, url, &[], None).await;
        assert_eq!(code(&answer), (405, "MethodNotAllowed"), "{method}");
        assert_eq!(answer.header("allow"), "PUT");
    }
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n")
        .await;
    let answer = raw.read_until("</Error>").await;
    assert!(
        answer.starts_with("HTTP/1.1 411") && answer.contains("<Code>MissingContentLength</Code>"),
        "{answer}"
    );

    // Both is how requests are smuggled (RFC 9112 section 6.1).
    let mut raw = RawConnection::connect(app.address).await;
    let both = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n";
    raw.send(head(&created, "PUT", both) + "9\r\nhello you\r\n0\r\n\r\n")
        .await;
    assert!(raw.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 4"));
    assert_eq!(files_in(&app, "blobs"), 0);
}

#[tokio::test]
async fn nothing_is_sent_in_vain_by_a_client_that_waits() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let expect = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    for altered in [
        head(&created, "PUT", expect).replace("text/plain", "text/html"),
        head(&created, "PUT", expect).replace("Length: 5", "Length: 6"),
        head(&created, "PUT", expect).replace("signature=", "signature=0"),
        head(&created, "POST", expect),
    ] {
        let mut raw = RawConnection::connect(app.address).await;
        raw.send(&altered).await;
        let answer = raw.read_until("\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 40"),
            "refused before 100 Continue: {answer}"
        );
    }
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
async fn a_large_body_that_is_refused_still_gets_its_answer() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 20_000_000).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(
        head(&created, "PUT", "Content-Length: 20000000\r\n").replace("text/plain", "text/html"),
    )
    .await;
    // Written without looking at the answer, as simple clients do; a reset would lose it.
    raw.send(vec![b'x'; 5_000_000]).await;
    let answer = raw.read_until("</Error>").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn a_cut_connection_leaves_nothing_and_the_url_works_again() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 300_000).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 300000\r\n"))
        .await;
    raw.send(vec![b'x'; 200_000]).await;
    until(async || (files_in(&app, "unfinished-uploads") == 1).then_some(())).await;
    drop(raw);
    until(async || (files_in(&app, "unfinished-uploads") == 0).then_some(())).await;
    let path = format!(
        "/v3/attachments/{}",
        created["attachment_id"].as_str().expect("id")
    );
    assert_eq!(app.api.get(&path).await.expect(200)["status"], "pending");
    assert_eq!(
        app.api
            .get(created["download_url"].as_str().expect("URL"))
            .await
            .status,
        404
    );

    let whole = vec![b'y'; 300_000];
    assert_eq!(app.api.put(&created, &whole).await.status, 200);
    assert_eq!(
        app.api
            .get(created["download_url"].as_str().expect("URL"))
            .await
            .bytes,
        whole
    );
}

#[tokio::test]
async fn a_body_that_ends_early_is_told_if_the_client_still_listens() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 5\r\n") + "hel")
        .await;
    tokio::io::AsyncWriteExt::shutdown(&mut raw.0)
        .await
        .expect("half close");
    let answer = raw.read_all().await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("<Code>IncompleteBody</Code>"),
        "{answer}"
    );
}

#[tokio::test]
async fn the_first_complete_body_is_the_file_for_ever() {
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
        app.api
            .get(created["download_url"].as_str().expect("URL"))
            .await
            .bytes,
        b"hello"
    );
    assert_eq!(files_in(&app, "unfinished-uploads"), 0);
}

#[tokio::test]
async fn of_many_bodies_at_once_one_wins_whole() {
    let app = TestApp::on_disk().await;
    let size = 400_000;
    let created = app.api.create("a.txt", "text/plain", size).await;
    let bodies: Vec<Vec<u8>> = (0..16).map(|n| vec![b'a' + n; size]).collect();
    let answers =
        futures_util::future::join_all(bodies.iter().map(|body| app.api.put(&created, body))).await;
    let winners: Vec<usize> = (0..16).filter(|n| answers[*n].status == 200).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert_eq!(
        answers.iter().filter(|answer| answer.status == 409).count(),
        15
    );
    let file = app
        .api
        .get(created["download_url"].as_str().expect("URL"))
        .await;
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
async fn a_body_that_comes_too_slowly_is_given_up() {
    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.idle_timeout_seconds = Some(1);
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 5\r\n") + "hel")
        .await;
    let answer = raw.read_all().await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("<Code>RequestTimeout</Code>"),
        "{answer}"
    );
    assert_eq!(files_in(&app, "unfinished-uploads"), 0);

    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.upload_grace_seconds = Some(0);
        flags.upload_min_bytes_per_second = Some(1_000_000_000);
    })
    .await;
    let created = app.api.create("a.txt", "text/plain", 5_000_000).await;
    let mut raw = RawConnection::connect(app.address).await;
    raw.send(head(&created, "PUT", "Content-Length: 5000000\r\n") + "hel")
        .await;
    let answer = raw.read_until("</Error>").await;
    assert!(
        answer.contains("<Code>RequestTimeout</Code>"),
        "never idle for long, but below the least rate: {answer}"
    );
}

#[tokio::test]
async fn a_key_is_not_needed_and_ignored() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = created["upload_url"].as_str().expect("URL");
    let headers = [
        ("content-type", "text/plain"),
        ("authorization", "Bearer nonsense"),
    ];
    let answer = app
        .anonymous()
        .request("PUT", url, &headers, Some(b"hello".into()))
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn several_content_types_are_refused() {
    let app = TestApp::on_disk().await;
    let created = app.api.create("a.txt", "text/plain", 5).await;
    let url = created["upload_url"].as_str().expect("URL");
    for other in ["text/html", "text/plain"] {
        let headers = [("content-type", "text/plain"), ("content-type", other)];
        let answer = app
            .anonymous()
            .request("PUT", url, &headers, Some(b"hello".into()))
            .await;
        assert_eq!(code(&answer), (403, "SignatureDoesNotMatch"), "{other}");
    }
    assert_eq!(app.api.put(&created, b"hello").await.status, 200);
}

#[tokio::test]
async fn newer_upload_replaces_one_that_stalls() {
    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.upload_stall_seconds = Some(0);
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
    let answer = older.read_until("</Error>").await;
    assert!(
        answer.starts_with("HTTP/1.1 409") && answer.contains("<Code>OperationAborted</Code>"),
        "{answer}"
    );
    assert_eq!(
        app.api
            .get(created["download_url"].as_str().expect("URL"))
            .await
            .bytes,
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
        "never two bodies"
    );
}

#[tokio::test]
async fn newer_upload_is_refused_while_the_older_keeps_coming() {
    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.upload_stall_seconds = Some(1);
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
        "never two bodies"
    );
}

#[tokio::test]
async fn client_that_lost_its_connection_can_upload_again_at_once() {
    let app = TestApp::with(|flags| {
        on_disk(flags);
        // Not because the first one stalls.
        flags.upload_stall_seconds = Some(600);
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
        haversack_testkit::within(app.api.put(&created, &vec![b'y'; 300_000]))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn upload_beyond_the_temporary_bytes_of_its_partner_is_refused() {
    let app = TestApp::with(|flags| {
        on_disk(flags);
        flags.max_temporary_bytes_per_partner = Some(200_000);
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
