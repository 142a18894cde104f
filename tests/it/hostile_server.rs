//! `haversack send` to a server that means harm: what it reads, how long it waits, what it prints, and whom it tells
//! the key.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use haversack_testkit::program::{haversack, run, stderr, stdout};

const KEY: &str = "secret-key-0123456789";
const MEBIBYTE: u64 = 1024 * 1024;

/// A server that does what a test wants for each request: its header is given, and the connection.
struct Hostile {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    /// Bytes that it could send.
    sent: Arc<AtomicU64>,
}

/// A connection whose written bytes are counted.
struct Counted<'a>(TcpStream, &'a AtomicU64);

impl Counted<'_> {
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(bytes.as_ref())?;
        self.1
            .fetch_add(bytes.as_ref().len() as u64, Ordering::SeqCst);
        Ok(())
    }

    fn answer(
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

    /// Sends the same again and again until nobody takes it.
    fn flood(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        loop {
            self.send(bytes)?;
        }
    }

    /// Says and reads nothing more.
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
                    // It fails when the client has gone, as it should.
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

    /// An API that answers `uploads` with an upload URL and headers, and then as `rest` does.
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
            stream.answer("200 OK", "", upload.to_string())
        })
    }

    /// The headers of all requests so far.
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

/// Sends a file of some bytes to the server by way of the program.
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

/// A send that must fail, for this reason.
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
fn an_answer_without_end_is_not_read() {
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
        expect_failure(&server, 5, "the server's answer is larger than 1 MiB");
        // What the buffers of two sockets hold comes to it.
        let sent = server.sent.load(Ordering::SeqCst);
        assert!(sent < 32 * MEBIBYTE, "{sent}");
    }
    let header = Hostile::start(|_, stream| {
        stream.send("HTTP/1.1 200 OK\r\n")?;
        stream.flood(&b"x: yyyyyyyyyyyyyyyy\r\n".repeat(1000))
    });
    expect_failure(&header, 5, "cannot reach");
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
fn a_server_that_keeps_silent_is_given_up() {
    let silent = Hostile::start(|_, _| Counted::hang());
    expect_failure(&silent, 5, "sent no answer within 1 s");
    let interim =
        Hostile::start(|_, stream| stream.flood(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100)));
    expect_failure(&interim, 5, "sent no answer within 1 s");
    let stalled = Hostile::start(|_, stream| {
        stream.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")?;
        Counted::hang()
    });
    expect_failure(&stalled, 5, "the answer was not whole after 1 s");
    let unanswered = Hostile::with_upload(own_upload, json!({}), |_, _| Counted::hang());
    expect_failure(
        &unanswered,
        5,
        "the server took nothing of the upload for 1 s",
    );
    // More than the buffers of two sockets hold.
    expect_failure(
        &unanswered,
        64 * MEBIBYTE,
        "the server took nothing of the upload for 1 s",
    );
}

#[test]
fn nothing_of_a_server_reaches_the_terminal_unescaped() {
    let hostile =
        "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2066}\r\nstatus  delivered";
    let error =
        json!({"error": {"code": 1005, "message": hostile}, "trace_id": hostile}).to_string();
    let bad_request =
        move |_: &str, stream: &mut Counted<'_>| stream.answer("400 Bad Request", "", &error);
    let part = json!({"url": hostile});
    let message = move |id: &str, status: &str| {
        let message = json!({"id": id, "delivery_status": status, "parts": [part]});
        let chat = json!({"chat": {"message": message}}).to_string();
        move |head: &str, stream: &mut Counted<'_>| match head {
            head if head.starts_with("POST /v3/chats ") => stream.answer("201 Created", "", &chat),
            head if head.starts_with("PUT ") => {
                let mut body = [0; 5];
                stream.0.read_exact(&mut body)?;
                stream.answer("200 OK", "", "")
            }
            _ => stream.answer("200 OK", "", message.to_string()),
        }
    };
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let refused =
        move |_: &str, stream: &mut Counted<'_>| stream.answer("403 Forbidden", "", hostile);
    let url = move |address: SocketAddr| format!("http://{address}/{hostile}");
    for server in [
        Hostile::start(bad_request),
        Hostile::start(move |_, stream| {
            stream.answer("200 OK", "", format!("{{\"{hostile}\": 1}}"))
        }),
        Hostile::start(move |_, stream| {
            stream.answer(
                "200 OK",
                "",
                json!({"attachment_id": [hostile]}).to_string(),
            )
        }),
        Hostile::start(move |_, stream| stream.answer("500 \u{1b}[31mred", "", "")),
        Hostile::with_upload(own_upload, json!({}), refused),
        Hostile::with_upload(url, json!({}), refused),
        Hostile::with_upload(move |_| format!("{hostile}://x"), json!({}), refused),
        Hostile::with_upload(own_upload, json!({hostile: "x"}), refused),
        Hostile::with_upload(own_upload, json!({"Content-Length": hostile}), refused),
        Hostile::with_upload(own_upload, json!({}), message(hostile, "pending")),
        Hostile::with_upload(own_upload, json!({}), message(id, "delivered")),
        Hostile::with_upload(own_upload, json!({}), message(id, hostile)),
    ] {
        let output = send(&server, 5);
        let said = [stdout(&output), stderr(&output)].concat();
        assert!(!said.is_empty());
        let is_active =
            |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{2066}');
        assert!(!said.contains(is_active), "{said:?}");
        assert!(
            !said
                .lines()
                .any(|line| line.starts_with("status  delivered") && line.contains("owned")),
            "{said:?}"
        );
    }
}

#[test]
fn an_upload_carries_neither_the_key_nor_headers_of_the_servers_choice() {
    for (name, value) in [
        ("Host", "internal.example"),
        ("Authorization", "Bearer stolen"),
        ("Cookie", "a=b"),
        ("Proxy-Authorization", "Basic YTpi"),
        ("Transfer-Encoding", "chunked"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("Content-Length", "4"),
        ("Content-Type", "text/plain\r\nCookie: a=b"),
    ] {
        let server = Hostile::with_upload(own_upload, json!({name: value}), |_, stream| {
            stream.answer("200 OK", "", "")
        });
        expect_failure(&server, 5, "Content-");
        assert_eq!(server.requests().len(), 1, "{name}: nothing is uploaded");
    }
    for url in [
        "http://user:password@127.0.0.1:1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "/uploads/a",
    ] {
        let server = Hostile::with_upload(
            move |_| url.to_owned(),
            json!({}),
            |_, stream| stream.answer("200 OK", "", ""),
        );
        expect_failure(&server, 5, "the upload URL");
        assert_eq!(server.requests().len(), 1, "{url}: nothing is uploaded");
    }
    let headers = json!({"Content-Type": "text/plain; charset=utf-8", "content-length": "5"});
    let server = Hostile::with_upload(own_upload, headers, |_, stream| {
        stream.answer("403 Forbidden", "", "no")
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
fn the_key_goes_to_the_api_alone() {
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ] {
        let other = Hostile::start(|_, stream| stream.answer("200 OK", "", "{}"));
        let location = format!("location: http://{}/stolen\r\n", other.address);
        let redirect =
            move |_: &str, stream: &mut Counted<'_>| stream.answer(status, &location, "");
        expect_failure(
            &Hostile::start(redirect.clone()),
            5,
            "redirects are not followed",
        );
        let upload = Hostile::with_upload(own_upload, json!({}), redirect);
        expect_failure(&upload, 5, "the upload was refused with 30");
        assert_eq!(other.requests(), [""; 0], "{status}");
    }
    let other = Hostile::start(|_, stream| stream.answer("403 Forbidden", "", ""));
    let elsewhere = other.address;
    let server = Hostile::with_upload(
        move |_| format!("http://{elsewhere}/a"),
        json!({}),
        |_, stream| stream.answer("200 OK", "", ""),
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
