//! `haversack send` against a malicious server: limits of size and time, terminal output, and where
//! the API key goes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use haversack_testkit::each_case;
use haversack_testkit::program::{haversack, run, stderr, stdout};

const KEY: &str = "secret-key-0123456789";
const MEBIBYTE: u64 = 1024 * 1024;

/// A server that handles each request by a function of its head and the connection.
#[derive(Debug)]
struct Hostile {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    /// Number of bytes sent so far.
    sent: Arc<AtomicU64>,
}

/// A connection that counts the bytes written.
struct Counted<'a>(TcpStream, &'a AtomicU64);

impl Counted<'_> {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(bytes.as_ref())?;
        self.1
            .fetch_add(bytes.as_ref().len() as u64, Ordering::SeqCst);
        Ok(())
    }

    fn response(
        &mut self,
        status: &str,
        headers: &str,
        body: impl AsRef<[u8]>,
    ) -> std::io::Result<()> {
        let length = body.as_ref().len();
        self.send(format!(
            "HTTP/1.1 {status}\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n"
        ))?;
        self.send(body)
    }

    /// Sends these bytes repeatedly until the client disconnects.
    fn flood(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        loop {
            self.send(bytes)?;
        }
    }

    /// Neither reads nor writes any more.
    fn hang() -> ! {
        loop {
            thread::park();
        }
    }
}

impl Hostile {
    fn start(
        handler: impl Fn(&str, &mut Counted<'_>) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address");
        let (requests, sent): (Arc<Mutex<Vec<String>>>, Arc<AtomicU64>) = Default::default();
        let (seen, counter, handler) =
            (Arc::clone(&requests), Arc::clone(&sent), Arc::new(handler));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let (seen, counter, handler) = (
                    Arc::clone(&seen),
                    Arc::clone(&counter),
                    Arc::clone(&handler),
                );
                thread::spawn(move || {
                    let head = read_head(&mut stream);
                    seen.lock().expect("lock").push(head.clone());
                    // The handler fails once the client disconnects.
                    let _ = handler(&head, &mut Counted(stream, &counter));
                });
            }
        });
        Self {
            address,
            requests,
            sent,
        }
    }

    /// Starts a server that creates attachments with this upload URL and headers, and handles all
    /// else by `rest`.
    fn with_upload(
        url: impl Fn(SocketAddr) -> String + Send + Sync + 'static,
        headers: serde_json::Value,
        rest: impl Fn(&str, &mut Counted<'_>) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |head, stream| {
            if !head.starts_with("POST /v3/attachments ") {
                return rest(head, stream);
            }
            let url = url(stream.0.local_addr()?);
            let upload =
                json!({"attachment_id": "a", "upload_url": url, "required_headers": headers});
            stream.response("200 OK", "", upload.to_string())
        })
    }

    /// Returns the heads of all requests so far.
    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("lock").clone()
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Sends a file of this size to the server by the program.
fn send(server: &Hostile, size: u64) -> Output {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("a.txt");
    std::fs::File::create(&file)
        .and_then(|file| file.set_len(size))
        .expect("file");
    let base = format!("http://{}", server.address);
    let mut command = haversack(folder.path());
    command.arg("send").arg(&file).args([
        "--to",
        "+12025550199",
        "--from",
        "+12025550100",
        "--timeout-seconds",
        "1",
    ]);
    let output = run(command
        .args(["--base-url", &base, "--api-key", KEY])
        .env("NO_PROXY", "*"));
    assert!(!stderr(&output).contains(KEY) && !stdout(&output).contains(KEY));
    output
}

/// Asserts that a send fails for this reason.
#[track_caller]
fn expect_failure(server: &Hostile, size: u64, reason: &str) {
    let output = send(server, size);
    assert!(
        !output.status.success() && stderr(&output).contains(reason),
        "{}",
        stderr(&output)
    );
}

fn own_upload(address: SocketAddr) -> String {
    format!("http://{address}/uploads/a?signature=b")
}

#[test]
fn endless_response_is_rejected_at_1_mib() {
    let endless = |status: &'static str| {
        move |_: &str, stream: &mut Counted<'_>| {
            stream.send(format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n\r\n"
            ))?;
            stream.flood(&b" ".repeat(65_536))
        }
    };
    for server in [
        Hostile::start(endless("200 OK")),
        Hostile::start(endless("400 Bad Request")),
        Hostile::with_upload(own_upload, json!({}), endless("403 Forbidden")),
    ] {
        expect_failure(&server, 5, "the server's response is larger than 1 MiB");
        // The socket buffers take more than the client reads.
        let sent = server.sent.load(Ordering::SeqCst);
        assert!(sent < 32 * MEBIBYTE, "{sent}");
    }
}

#[test]
fn endless_response_header_is_rejected() {
    let header = Hostile::start(|_, stream| {
        stream.send("HTTP/1.1 200 OK\r\n")?;
        stream.flood(&b"x: yyyyyyyyyyyyyyyy\r\n".repeat(1000))
    });
    expect_failure(&header, 5, "cannot reach");
}

#[test]
fn absurd_content_length_is_rejected() {
    let length = Hostile::start(|_, stream| {
        stream.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            u64::MAX
        ))?;
        stream.flood(&b" ".repeat(65_536))
    });
    assert!(!send(&length, 5).status.success());
    assert!(length.sent.load(Ordering::SeqCst) < 32 * MEBIBYTE);
}

#[test]
fn silent_server_is_abandoned_at_the_timeout() {
    let silent = Hostile::start(|_, _| Counted::hang());
    expect_failure(&silent, 5, "did not respond within 1 s");
    let interim =
        Hostile::start(|_, stream| stream.flood(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100)));
    expect_failure(&interim, 5, "did not respond within 1 s");
    let stalled = Hostile::start(|_, stream| {
        stream.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")?;
        Counted::hang()
    });
    expect_failure(&stalled, 5, "the response was not complete after 1 s");
    let unanswered = Hostile::with_upload(own_upload, json!({}), |_, _| Counted::hang());
    expect_failure(
        &unanswered,
        5,
        "the server accepted no byte of the upload for 1 s",
    );
    // More than the socket buffers hold.
    expect_failure(
        &unanswered,
        64 * MEBIBYTE,
        "the server accepted no byte of the upload for 1 s",
    );
}

#[test]
fn control_characters_of_server_are_escaped() {
    let hostile =
        "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2066}\r\nstatus  delivered";
    let error =
        json!({"error": {"code": 1005, "message": hostile}, "trace_id": hostile}).to_string();
    let bad_request =
        move |_: &str, stream: &mut Counted<'_>| stream.response("400 Bad Request", "", &error);
    let part = json!({"url": hostile});
    let message = move |id: &str, status: &str| {
        let message = json!({"id": id, "delivery_status": status, "parts": [part]});
        let chat = json!({"chat": {"message": message}}).to_string();
        move |head: &str, stream: &mut Counted<'_>| match head {
            head if head.starts_with("POST /v3/chats ") => {
                stream.response("201 Created", "", &chat)
            }
            head if head.starts_with("PUT ") => {
                let mut body = [0; 5];
                stream.0.read_exact(&mut body)?;
                stream.response("200 OK", "", "")
            }
            _ => stream.response("200 OK", "", message.to_string()),
        }
    };
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let refused =
        move |_: &str, stream: &mut Counted<'_>| stream.response("403 Forbidden", "", hostile);
    let url = move |address: SocketAddr| format!("http://{address}/{hostile}");
    each_case(
        [
            Hostile::start(bad_request),
            Hostile::start(move |_, stream| {
                stream.response("200 OK", "", format!("{{\"{hostile}\": 1}}"))
            }),
            Hostile::start(move |_, stream| {
                stream.response(
                    "200 OK",
                    "",
                    json!({"attachment_id": [hostile]}).to_string(),
                )
            }),
            Hostile::start(move |_, stream| stream.response("500 \u{1b}[31mred", "", "")),
            Hostile::with_upload(own_upload, json!({}), refused),
            Hostile::with_upload(url, json!({}), refused),
            Hostile::with_upload(move |_| format!("{hostile}://x"), json!({}), refused),
            Hostile::with_upload(own_upload, json!({hostile: "x"}), refused),
            Hostile::with_upload(own_upload, json!({"Content-Length": hostile}), refused),
            Hostile::with_upload(own_upload, json!({}), message(hostile, "pending")),
            Hostile::with_upload(own_upload, json!({}), message(id, "delivered")),
            Hostile::with_upload(own_upload, json!({}), message(id, hostile)),
        ],
        |server| {
            let output = send(&server, 5);
            let output = [stdout(&output), stderr(&output)].concat();
            assert!(!output.is_empty());
            let is_active =
                |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{2066}');
            assert!(!output.contains(is_active), "{output:?}");
            assert!(
                !output
                    .lines()
                    .any(|line| line.starts_with("status  delivered") && line.contains("owned")),
                "{output:?}"
            );
        },
    );
}

#[test]
fn upload_with_forbidden_header_is_refused() {
    each_case(
        [
            ("Host", "internal.example"),
            ("Authorization", "Bearer stolen"),
            ("Cookie", "a=b"),
            ("Proxy-Authorization", "Basic YTpi"),
            ("Transfer-Encoding", "chunked"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("Content-Length", "4"),
            ("Content-Type", "text/plain\r\nCookie: a=b"),
        ],
        |(name, value)| {
            let server = Hostile::with_upload(own_upload, json!({name: value}), |_, stream| {
                stream.response("200 OK", "", "")
            });
            expect_failure(&server, 5, "Content-");
            assert_eq!(server.requests().len(), 1, "{name}: no upload");
        },
    );
}

#[test]
fn upload_to_invalid_url_is_refused() {
    each_case(
        [
            "http://user:password@127.0.0.1:1/",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "/uploads/a",
        ],
        |url| {
            let server = Hostile::with_upload(
                move |_| url.to_owned(),
                json!({}),
                |_, stream| stream.response("200 OK", "", ""),
            );
            expect_failure(&server, 5, "the upload URL");
            assert_eq!(server.requests().len(), 1, "{url}: no upload");
        },
    );
}

#[test]
fn upload_carries_only_required_headers_and_no_key() {
    let headers = json!({"Content-Type": "text/plain; charset=utf-8", "content-length": "5"});
    let server = Hostile::with_upload(own_upload, headers, |_, stream| {
        stream.response("403 Forbidden", "", "no")
    });
    expect_failure(&server, 5, "the upload was refused with 403 Forbidden: no");
    let requests = server.requests();
    let upload = requests[1].to_ascii_lowercase();
    let mut names: Vec<_> = upload
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|pair| pair.0)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "content-length",
            "content-type",
            "host",
            "user-agent"
        ]
    );
    assert!(
        upload.contains("content-type: text/plain; charset=utf-8")
            && upload.contains("content-length: 5")
    );
    assert!(
        requests[0]
            .to_ascii_lowercase()
            .contains(&format!("authorization: bearer {KEY}")),
        "{requests:?}"
    );
}

#[test]
fn redirect_is_not_followed() {
    each_case(
        [
            "301 Moved",
            "302 Found",
            "303 See Other",
            "307 Temporary",
            "308 Permanent",
        ],
        |status| {
            let other = Hostile::start(|_, stream| stream.response("200 OK", "", "{}"));
            let location = format!("location: http://{}/stolen\r\n", other.address);
            let redirect =
                move |_: &str, stream: &mut Counted<'_>| stream.response(status, &location, "");
            expect_failure(
                &Hostile::start(redirect.clone()),
                5,
                "redirects are not followed",
            );
            let upload = Hostile::with_upload(own_upload, json!({}), redirect);
            expect_failure(&upload, 5, "the upload was refused with 30");
            assert_eq!(other.requests(), [""; 0], "{status}");
        },
    );
}

#[test]
fn upload_to_another_host_carries_no_key() {
    let other = Hostile::start(|_, stream| stream.response("403 Forbidden", "", ""));
    let elsewhere = other.address;
    let server = Hostile::with_upload(
        move |_| format!("http://{elsewhere}/a"),
        json!({}),
        |_, stream| stream.response("200 OK", "", ""),
    );
    expect_failure(&server, 5, "the upload was refused with 403");
    let requests = other.requests();
    assert!(
        requests.len() == 1 && !requests[0].contains(KEY),
        "{requests:?}"
    );
    assert!(
        !requests[0].to_ascii_lowercase().contains("authorization"),
        "{requests:?}"
    );
}
