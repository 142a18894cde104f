//! SSRF to this server: media URLs that lead back to it by a redirect, under another name, or
//! through a proxy.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::hostile_origins::{expect_reason, send};
use haversack_testkit::origin::{Step, http_response};
use haversack_testkit::{Api, Origin, TestApp, corpus, each_case_async, text};

const CDN: &str = "https://cdn.example.com/files";
const NO_FILE: &str =
    "after a redirect: it redirects to this server, but not to a file that is stored here";

/// Makes a path of the origin redirect, and returns its URL.
fn redirect(origin: &Origin, path: &str, location: &str) -> String {
    origin.script(
        path,
        http_response(
            "302 Found",
            &format!("location: {location}\ncontent-length: 0"),
            b"",
        ),
    );
    origin.url(path)
}

async fn with_cdn(origin: &Origin) -> TestApp {
    TestApp::with_origin(origin, |settings| {
        settings.urls.cdn_url = Some(CDN.parse().expect("URL"));
    })
    .await
}

#[tokio::test]
async fn redirect_to_own_file_resolves_to_it() {
    let origin = Origin::start();
    let app = with_cdn(&origin).await;
    let file = app.api.upload("a b.txt", "text/plain", b"hello").await;
    let path = file.url.strip_prefix(CDN).expect("a URL below the CDN");
    let stored = app.stored_files().await.len();
    each_case_async(
        [
            file.url.clone(),
            app.url(path),
            app.url(path).replace("http:", "https:"),
            format!("http://cdn.example.com/files{path}"),
            format!("https://CDN.Example.com.:443/files{path}?a=b"),
            format!("https://cdn.example.com/x/../files{path}"),
            format!("https://cdn.example.com/%66iles{path}"),
        ],
        async |url| {
            let sent = send(&app, &redirect(&origin, "/r.txt", &url))
                .await
                .expect(201);
            let part = &sent["chat"]["message"]["parts"][0];
            assert_eq!(
                (&part["id"], &part["url"]),
                (&json!(file.id), &json!(file.url)),
                "{url}"
            );
        },
    )
    .await;
    assert_eq!(app.stored_files().await.len(), stored, "no new file");
    let metrics = app.anonymous().get("/metrics").await;
    assert!(
        metrics
            .text()
            .contains("haversack_fetches_total{outcome=\"own\"} 7"),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn redirects_to_own_file_mix_with_fetched_files() {
    let origin = Origin::start();
    let app = with_cdn(&origin).await;
    let file = app.api.upload("a b.txt", "text/plain", b"hello").await;
    redirect(&origin, "/r.txt", &file.url);
    redirect(
        &origin,
        "/first.txt",
        &redirect(&origin, "/second.txt", &file.url),
    );
    origin.file("/b.txt", "text/plain", b"another");
    let media = |path: &str| json!({"type": "media", "url": origin.url(path)});
    let sent = app
        .api
        .send_parts(json!([
            media("/first.txt"),
            media("/b.txt"),
            media("/r.txt")
        ]))
        .await
        .expect(201);
    let parts = &sent["chat"]["message"]["parts"];
    assert_eq!(
        (&parts[0]["id"], &parts[2]["id"]),
        (&json!(file.id), &json!(file.id))
    );
    assert_eq!(
        (&parts[1]["filename"], &parts[1]["size_bytes"]),
        (&json!("b.txt"), &json!(7))
    );
}

#[tokio::test]
async fn redirect_to_unavailable_file_returns_same_error_as_its_url() {
    let origin = Origin::start();
    let app = with_cdn(&origin).await;
    let own = app.api.upload("a.txt", "text/plain", b"hello").await;
    let foreign = app.rival.upload("a.txt", "text/plain", b"secret").await;
    let pending = app.api.create("b.txt", "text/plain", 5).await;
    let pending = text(&pending, "download_url");
    origin.file("/fetched.txt", "text/plain", b"beside it");
    let stored = app.stored_files().await;
    each_case_async(
        [
            (foreign.url.clone(), (404, 2003)),
            (
                foreign
                    .url
                    .replace("https://cdn.example.com", "http://CDN.example.com."),
                (404, 2003),
            ),
            (own.url.replace("a.txt", "b.txt"), (404, 2003)),
            (
                own.url
                    .replace(&own.id, "01890a5d-ac96-774b-bcce-b302099a8057"),
                (404, 2003),
            ),
            (pending.to_owned(), (404, 2007)),
        ],
        async |(url, error)| {
            let redirected = send(&app, &redirect(&origin, "/r.txt", &url)).await;
            assert_eq!(redirected.error(), error, "{url}");
            let direct = send(&app, &url.replace("http://", "https://")).await;
            assert_eq!(
                (direct.error(), direct.message()),
                (error, redirected.message()),
                "{url}"
            );
            let parts = ["/fetched.txt", "/r.txt"]
                .map(|path| json!({"type": "media", "url": origin.url(path)}));
            assert_eq!(
                app.api.send_parts(json!(parts)).await.error(),
                error,
                "{url}"
            );
        },
    )
    .await;
    assert_eq!(
        app.stored_files().await,
        stored,
        "the other fetched file is discarded"
    );
    assert_eq!(
        app.api.get("/v3/chats").await.expect(200)["chats"],
        json!([])
    );
}

#[tokio::test]
async fn voice_memo_redirect_to_own_file_resolves_to_it() {
    let origin = Origin::start();
    let app = with_cdn(&origin).await;
    let sound = app
        .api
        .upload("a.mp3", "audio/mpeg", &corpus("song-cbr-id3v1.mp3"))
        .await;
    let foreign = app
        .rival
        .upload("a.mp3", "audio/mpeg", &corpus("song-cbr-id3v1.mp3"))
        .await;
    let document = app.api.upload("a.txt", "text/plain", b"hello").await;
    let chat = app.api.send_text(&["+12025550199"], "hi").await;
    let path = format!("/v3/chats/{}/voicememo", text(&chat, "id"));
    let memo = async |location: &str| {
        let url = redirect(&origin, "/r.mp3", location);
        app.api.post(&path, &json!({"voice_memo_url": url})).await
    };
    assert_eq!(
        memo(&sound.url).await.expect(202)["voice_memo"]["voice_memo"]["id"],
        json!(sound.id)
    );
    assert_eq!(memo(&foreign.url).await.error(), (404, 2003));
    assert_eq!(memo(&document.url).await.error(), (400, 5004));
    expect_reason(&memo(&app.url("/metrics")).await, NO_FILE);
}

#[tokio::test]
async fn redirect_to_this_server_returns_500_without_request() {
    let origin = Origin::start();
    let app = with_cdn(&origin).await;
    let host = app.address.to_string();
    each_case_async(
        [
            app.url("/metrics"),
            app.url("//metrics"),
            app.url("/v3/chats"),
            app.url(""),
            format!("https://{host}/metrics"),
            format!("//{host}/metrics"),
            format!("http://[::ffff:127.0.0.1]:{}/metrics", app.address.port()),
            format!("http://0x7f.1:{}/metrics", app.address.port()),
            format!("http://user@{host}/metrics"),
            format!("http:\\\\{host}\\metrics"),
            CDN.to_owned(),
            format!("{CDN}/attachments/partners"),
            "http://cdn.example.com.:80//FILES/%2561".to_owned(),
        ],
        async |location| {
            expect_reason(
                &send(&app, &redirect(&origin, "/r.txt", &location)).await,
                NO_FILE,
            );
        },
    )
    .await;
    let queries = origin.dns.queries();
    assert!(
        queries.iter().all(|name| name == "origin.test"),
        "{queries:?}"
    );
    let metrics = app.anonymous().get("/metrics").await;
    assert!(
        !metrics.text().contains("route=\"/metrics\""),
        "{}",
        metrics.text()
    );
    assert!(
        metrics
            .text()
            .contains("haversack_fetches_total{outcome=\"forbidden\"} 13"),
        "{}",
        metrics.text()
    );
}

#[tokio::test]
async fn foreign_name_of_this_server_returns_500() {
    let origin = Origin::start();
    // No other test listens on this address.
    let [.., high, low] = std::process::id().to_be_bytes();
    let (ip, port) = (format!("127.77.{high}.{low}"), 18_443);
    let app = TestApp::with_origin(&origin, |settings| {
        settings.server.listen = format!("{ip}:{port}").parse().expect("address");
        settings.fetch.allow_nets = "127.0.0.0/8".parse().expect("a list");
        settings.fetch.allow_ports = format!("{port},{}", origin.address.port())
            .parse()
            .expect("a list");
    })
    .await;
    origin.dns.set("alias.test", &[&[&ip]]);
    let reason = "its host is this server under another name; use the URL that this server gave";
    let url = format!("https://alias.test:{port}/metrics");
    expect_reason(&send(&app, &url).await, reason);
    let after = format!("after a redirect: {reason}");
    expect_reason(
        &send(&app, &redirect(&origin, "/r.txt", &url)).await,
        &after,
    );
}

/// Forwards a request to a server and returns its response, as a reverse proxy does.
fn proxy_to(app: &TestApp) -> impl Fn(&str) -> Vec<Step> + Send + Sync + 'static {
    let address = app.address;
    let exchange = move |head: &str| -> std::io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(address)?;
        let target = head
            .split(' ')
            .nth(1)
            .expect("a request target")
            .replace("/proxied", "");
        let (_, headers) = head.split_once("\r\n").expect("a request line");
        write!(
            server,
            "GET {target} HTTP/1.1\r\nConnection: close\r\n{headers}"
        )?;
        let mut response = Vec::new();
        server.read_to_end(&mut response)?;
        Ok(response)
    };
    move |head| {
        vec![Step::Send(
            tokio::task::block_in_place(|| exchange(head)).expect("a response"),
        )]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn request_looped_through_a_proxy_returns_508() {
    let origin = Origin::start();
    let app = TestApp::with_origin(&origin, |_| {}).await;
    let foreign = app.rival.upload("a.txt", "text/plain", b"secret").await;
    let path = foreign
        .url
        .strip_prefix(&app.url(""))
        .expect("a path")
        .to_owned();
    each_case_async(
        [
            "/metrics".to_owned(),
            "/openapi.json".to_owned(),
            "/nowhere".to_owned(),
            path.clone(),
        ],
        async |target| {
            origin.on(&format!("/proxied{target}"), proxy_to(&app));
            expect_reason(
                &send(&app, &origin.url(&format!("/proxied{target}"))).await,
                "the host answered 508",
            );
        },
    )
    .await;
    let sent = origin.requests().into_iter().find_map(|head| {
        head.lines()
            .find_map(|line| line.strip_prefix("cdn-loop: ").map(str::to_owned))
    });
    let sent = sent.expect("each request carries CDN-Loop");
    let looped = app
        .anonymous()
        .get_with("/healthz", &[("cdn-loop", &sent)])
        .await;
    assert_eq!(looped.error(), (508, 1005));
    for other in ["cdn.example", "haversack-0123456789abcdef0123456789abcdef"] {
        assert_eq!(
            app.anonymous()
                .get_with(&path, &[("cdn-loop", other)])
                .await
                .status,
            200,
            "{other}"
        );
    }

    // The pseudonym belongs to the database, so another server accepts the request.
    let other = TestApp::with_origin(&origin, |_| {}).await;
    assert_eq!(
        Api::anonymous(other.address)
            .get_with("/healthz", &[("cdn-loop", &sent)])
            .await
            .status,
        200
    );
}
