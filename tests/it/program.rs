//! The haversack program: start, signals, its commands and its log.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;
use sqlx::Connection as _;

use haversack_testkit::program::{Server, haversack, run, stderr, stdout};
use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{Api, each_case, each_case_async, text, within};

fn address(server: &Server) -> std::net::SocketAddr {
    let base = server.banner_value("API base");
    base.trim_start_matches("http://")
        .split('/')
        .next()
        .expect("address")
        .parse()
        .expect("address")
}

fn key(server: &Server) -> &'static str {
    server.banner_value("API key").to_owned().leak()
}

/// Returns the arguments that a shell passes to `curl` for a pasted line; curl itself may not be
/// installed.
fn pasted(line: &str) -> Vec<String> {
    let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{line}");
    let output = run(Command::new("sh").arg("-c").arg(&script));
    assert!(output.status.success(), "{script}\n{}", stderr(&output));
    stdout(&output).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn api_key_is_printed_on_first_start_and_later_on_demand() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("new").join("data");
    let server = Server::start(&data);
    let curl = server
        .banner
        .split("Try it:")
        .nth(1)
        .expect("a command")
        .trim()
        .to_owned();
    let (first_key, number) = (key(&server), server.banner_value("Phone number").to_owned());
    let arguments = pasted(&curl);
    let [quiet, url, header_flag, header, data_flag, body] = &arguments[..] else {
        panic!("{arguments:?}")
    };
    assert_eq!([quiet, header_flag, data_flag], ["-sS", "-H", "-d"]);
    assert_eq!(*header, format!("Authorization: Bearer {first_key}"));
    let sent = Api::new(address(&server), first_key)
        .post_raw(url, body)
        .await
        .expect(201);
    assert_eq!(sent["chat"]["message"]["delivery_status"], "pending");
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));

    let server = Server::start(&data);
    assert!(
        !server.banner.contains(first_key),
        "standard output ends up in logs: {}",
        server.banner
    );
    let (file, _) = server
        .banner_value("The API key is in")
        .split_once(';')
        .expect("a path");
    assert!(
        std::fs::read_to_string(file)
            .expect("the file")
            .contains(first_key)
    );
    assert_eq!(
        Api::new(address(&server), first_key)
            .get("/v3/phone_numbers")
            .await
            .status,
        200
    );
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));

    let server = Server::run(haversack(&data).args(["serve", "--show-key"]));
    assert_eq!(
        (key(&server), server.banner_value("Phone number")),
        (first_key, number.as_str())
    );
    let local = std::fs::read_to_string(data.join("local.toml")).expect("local.toml");
    assert!(
        local.contains(server.banner_value("API base")),
        "`send` reads the current address from it: {local}"
    );
    server.signal(Signal::INT);
    assert_eq!(server.wait(), Some(0));
    let listed = run(haversack(&data).args(["partner", "list"]));
    assert_eq!(stdout(&listed).lines().count(), 1, "{}", stdout(&listed));
    each_case_async(
        [
            "local.toml",
            "upload-signing.key",
            "haversack.db",
            "blobs",
            "unfinished-uploads",
        ],
        async |secret| {
            let mode = std::fs::metadata(data.join(secret))
                .expect(secret)
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{secret} is readable by its owner only");
        },
    )
    .await;
}

#[tokio::test]
async fn second_server_on_same_storage_fails() {
    let folder = tempfile::tempdir().expect("folder");
    let _server = Server::start(folder.path());
    let other = tempfile::tempdir().expect("folder");
    let blobs = format!("file:{}", folder.path().display());
    let database = format!("sqlite://{}/haversack.db?mode=rwc", folder.path().display());
    for (data, arguments) in [
        (folder.path(), vec!["serve"]),
        (other.path(), vec!["serve", "--blobs-url", &blobs]),
        (other.path(), vec!["serve", "--database-url", &database]),
    ] {
        let mut second = tokio::process::Command::from(haversack(data));
        let output = within(second.args(&arguments).kill_on_drop(true).output())
            .await
            .expect("the program runs");
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            stderr(&output).contains("another haversack server uses"),
            "{arguments:?} {}",
            stderr(&output)
        );
    }
}

#[test]
fn unknown_key_in_local_toml_is_ignored_and_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let add = [
        "partner",
        "add",
        "default",
        "--phone-number",
        "+12025550123",
    ];
    assert!(run(haversack(folder.path()).args(add)).status.success());
    let local =
        "base_url = \"x\"\napi_key = \"hvs_0123456789abcdef\"\nphone_number = \"+12025550123\"\n";
    std::fs::write(folder.path().join("local.toml"), local).expect("write");
    let mut child = haversack(folder.path())
        .arg("serve")
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut output = String::new();
    BufReader::new(child.stdout.take().expect("stdout"))
        .read_line(&mut output)
        .expect("text");
    child.kill().and_then(|()| child.wait()).expect("end");
    assert!(
        output.starts_with("Haversack serves http://127.0.0.1:"),
        "{output:?}"
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("local.toml")).expect("read"),
        local,
        "the file is unchanged"
    );
}

#[tokio::test]
async fn partner_added_while_server_runs_can_call_it() {
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::start(folder.path());
    let add = |arguments: &[&str]| {
        run(haversack(folder.path())
            .args(["partner", "add"])
            .args(arguments))
    };
    let added = add(&[
        "acme",
        "--phone-number",
        "+12025550100",
        "--phone-number",
        "+12025550101",
    ]);
    assert!(added.status.success(), "{}", stderr(&added));
    let key = stdout(&added)
        .lines()
        .find_map(|line| line.strip_prefix("API key  "))
        .expect("key");
    let key: &'static str = key.split(' ').next().expect("key").to_owned().leak();
    let numbers = Api::new(address(&server), key)
        .get("/v3/phone_numbers")
        .await
        .expect(200);
    assert_eq!(numbers["phone_numbers"][1]["phone_number"], "+12025550101");

    each_case_async(
        [
            (vec!["acme"], "there is a partner \"acme\" already"),
            (
                vec!["other", "--phone-number", "+12025550100"],
                "+12025550100 belongs to a partner already",
            ),
            (vec!["other", "--api-key", key], "in use already"),
            (vec!["other", "--api-key", "short"], "16 to 255 characters"),
            (vec!["other", "--phone-number", "2025550100"], "E.164"),
        ],
        async |(arguments, problem)| {
            let refused = add(&arguments);
            assert!(
                !refused.status.success() && stderr(&refused).contains(problem),
                "{arguments:?} {}",
                stderr(&refused)
            );
        },
    )
    .await;
    let listed = run(haversack(folder.path()).args(["partner", "list"]));
    assert!(
        stdout(&listed).contains("acme  +12025550100 +12025550101"),
        "{}",
        stdout(&listed)
    );
    assert!(!stdout(&listed).contains("other") && !stdout(&listed).contains(key));
}

#[tokio::test]
async fn send_command_finds_local_server_and_key() {
    let folder = tempfile::tempdir().expect("folder");
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/photo.jpg");
    let send = |more: &[&str]| {
        run(haversack(folder.path())
            .args(["send", photo, "--to", "+12025550199", "--text", "Look"])
            .args(more))
    };
    let nowhere = send(&[]);
    assert!(
        stderr(&nowhere).contains("start haversack serve"),
        "{}",
        stderr(&nowhere)
    );

    let server = Server::start(folder.path());
    let first = send(&[]);
    assert!(first.status.success(), "{}", stderr(&first));
    let output = stdout(&first);
    assert!(
        output.contains("uploaded photo.jpg (") && output.contains("status  delivered"),
        "{output}"
    );
    let url = output
        .lines()
        .find_map(|line| line.strip_prefix("file    "))
        .expect("a URL");
    let downloaded = Api::anonymous(address(&server)).get(url).await;
    assert!(downloaded.bytes == std::fs::read(photo).expect("photo"));

    let key = server.banner_value("API key").to_owned();
    let named = send(&[
        "--base-url",
        server.banner_value("API base"),
        "--api-key",
        &key,
    ]);
    assert!(named.status.success(), "{}", stderr(&named));
    let wrong = send(&[
        "--base-url",
        server.banner_value("API base"),
        "--api-key",
        "nonsense",
    ]);
    assert!(
        stderr(&wrong).contains("this API key is not known"),
        "{}",
        stderr(&wrong)
    );
    let elsewhere = send(&["--base-url", "http://127.0.0.1:1/api/partner"]);
    assert!(
        stderr(&elsewhere).contains("needs --api-key"),
        "the local key is for the local server only: {}",
        stderr(&elsewhere)
    );
    let nobody = run(haversack(folder.path()).args(["send", photo, "--to", "2025550199"]));
    assert!(
        stderr(&nobody).contains("E.164") && stdout(&nobody).is_empty(),
        "fails before the upload"
    );
    let refused =
        run(haversack(folder.path()).args(["send", "/nowhere.jpg", "--to", "+12025550199"]));
    assert!(
        stderr(&refused).contains("/nowhere.jpg"),
        "{}",
        stderr(&refused)
    );
}

#[tokio::test]
async fn sigterm_lets_upload_finish() {
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::start(folder.path());
    let key = key(&server);
    let api = Api::new(address(&server), key);
    let created = api.create("a.txt", "text/plain", 5).await;
    let mut upload = RawConnection::connect(address(&server)).await;
    let url = request_target(text(&created, "upload_url"));
    let expect = "Content-Type: text/plain\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    upload
        .send(format!("PUT {url} HTTP/1.1\r\nHost: x\r\n{expect}"))
        .await;
    upload.read_until("100 Continue\r\n\r\n").await;
    server.signal(Signal::TERM);
    upload.send("hello").await;
    assert!(upload.read_all().await.starts_with("HTTP/1.1 200"));
    assert_eq!(
        tokio::task::spawn_blocking(|| server.wait())
            .await
            .expect("wait"),
        Some(0)
    );

    let server = Server::start(folder.path());
    let path = format!("/v3/attachments/{}", text(&created, "attachment_id"));
    let attachment = Api::new(address(&server), key).get(&path).await.expect(200);
    assert_eq!(attachment["status"], "complete");
}

#[tokio::test]
async fn upload_url_survives_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::start(folder.path());
    let key = key(&server);
    let later = Api::new(address(&server), key)
        .create("b.txt", "text/plain", 5)
        .await;
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));

    let server = Server::start(folder.path());
    let api = Api::new(address(&server), key);
    let url = format!(
        "http://{}{}",
        address(&server),
        request_target(text(&later, "upload_url"))
    );
    let moved = json!({"upload_url": url, "required_headers": later["required_headers"]});
    assert_eq!(api.put(&moved, b"world").await.status, 200);
}

#[tokio::test]
async fn second_signal_ends_the_server_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::start(folder.path());
    let created = Api::new(address(&server), key(&server))
        .create("a.txt", "text/plain", 5)
        .await;
    let mut upload = RawConnection::connect(address(&server)).await;
    let url = request_target(text(&created, "upload_url"));
    let expect = "Content-Type: text/plain\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    upload
        .send(format!("PUT {url} HTTP/1.1\r\nHost: x\r\n{expect}"))
        .await;
    upload.read_until("100 Continue\r\n\r\n").await;
    let mut idle = RawConnection::connect(address(&server)).await;
    idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    idle.read_until("alive").await;
    server.signal(Signal::TERM);
    assert_eq!(
        idle.read_all().await.trim(),
        "",
        "the first signal closes idle connections"
    );
    server.signal(Signal::INT);
    let code = tokio::task::spawn_blocking(|| server.wait());
    assert_eq!(within(code).await.expect("wait"), Some(1));
}

#[tokio::test]
async fn log_omits_query_of_urls() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("log");
    let log = std::fs::File::create(&path).expect("log");
    let data = folder.path().join("data");
    let server = Server::run_logged(
        haversack(&data).arg("serve").env("HAVERSACK_LOG", "debug"),
        log,
    );
    let api = Api::new(address(&server), key(&server));
    for url in [
        "https://10.0.0.1/a.jpg?signature=secret",
        "https://a.example:22/a.jpg?signature=secret#secret",
    ] {
        let part = json!({"type": "media", "url": url});
        let body = json!({"from": server.banner_value("Phone number"), "to": ["a@example.com"], "message": {"parts": [part]}});
        assert_eq!(api.post("/v3/chats", &body).await.error(), (500, 5002));
    }
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0));
    let log = std::fs::read_to_string(path).expect("log");
    assert!(
        log.contains("https://10.0.0.1/a.jpg?...") && !log.contains("secret"),
        "{log}"
    );
}

#[test]
fn doctor_reports_invalid_settings() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let fine = run(haversack(&data).arg("doctor"));
    assert!(fine.status.success(), "{}{}", stdout(&fine), stderr(&fine));
    assert!(!data.exists(), "doctor creates nothing");
    let nowhere = run(haversack(&data)
        .arg("doctor")
        .env("HAVERSACK_DATABASE_URL", "sqlite:///proc/nowhere/x.db"));
    assert!(
        !nowhere.status.success() && stdout(&nowhere).contains("wrong database"),
        "{}",
        stdout(&nowhere)
    );
    let no_folder = folder.path().join("file");
    std::fs::write(&no_folder, b"x").expect("file");
    each_case(
        [
            (
                "HAVERSACK_DATA_DIR",
                no_folder.to_str().expect("path"),
                "cannot write in",
            ),
            ("HAVERSACK_LISTEN", "0.0.0.0:0", "HAVERSACK_PUBLIC_URL"),
            ("HAVERSACK_LISTEN", "192.0.2.1:80", "HAVERSACK_LISTEN"),
            (
                "HAVERSACK_DATABASE_URL",
                "mysql://x",
                "HAVERSACK_DATABASE_URL",
            ),
            ("HAVERSACK_CONFIG", "/nowhere.toml", "/nowhere.toml"),
            ("HAVERSACK_FETCH_CA_FILE", "/nowhere.pem", "/nowhere.pem"),
            (
                "HAVERSACK_FETCH_CA_FILE",
                no_folder.to_str().expect("path"),
                "holds no certificate",
            ),
        ],
        |(name, value, problem)| {
            let wrong = run(haversack(&data).arg("doctor").env(name, value));
            let output = format!("{}{}", stdout(&wrong), stderr(&wrong));
            assert!(
                !wrong.status.success() && output.contains(problem),
                "{name}={value}: {output}"
            );
        },
    );
}

#[tokio::test]
async fn doctor_reports_state_of_schema() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    assert!(run(haversack(&data).arg("migrate")).status.success());
    let url = format!("sqlite://{}", data.join("haversack.db").display());
    sqlx::any::install_default_drivers();
    let mut db = sqlx::AnyConnection::connect(&url)
        .await
        .expect("the database opens");
    each_case_async(
        [
            ("SELECT 1", true, "0 partner(s)"),
            (
                "UPDATE _sqlx_migrations SET version = 9999 WHERE version = 1",
                false,
                "of a newer version",
            ),
            (
                "DELETE FROM _sqlx_migrations",
                true,
                "will be created on first start",
            ),
            (
                "DROP TABLE _sqlx_migrations",
                true,
                "will be created on first start",
            ),
        ],
        async |(change, fine, output)| {
            sqlx::query(change).execute(&mut db).await.expect(change);
            let doctor = run(haversack(&data).arg("doctor"));
            assert!(
                doctor.status.success() == fine && stdout(&doctor).contains(output),
                "{change}: {}",
                stdout(&doctor)
            );
            let migrate = (!fine).then(|| run(haversack(&data).arg("migrate")));
            assert!(
                migrate.is_none_or(|migrate| stderr(&migrate).contains(output)),
                "{change}"
            );
        },
    )
    .await;
}

#[test]
fn doctor_reports_unreachable_postgresql() {
    let folder = tempfile::tempdir().expect("folder");
    let url = "postgres://someone:hush@127.0.0.1:1/pack";
    let doctor = run(haversack(&folder.path().join("data"))
        .arg("doctor")
        .env("HAVERSACK_DATABASE_URL", url));
    let output = stdout(&doctor);
    assert!(
        output.contains("wrong database: PostgreSQL at 127.0.0.1:1/pack")
            && output.contains("refused"),
        "{output}"
    );
    assert!(
        output.contains("for a single server only") && !output.contains("hush"),
        "{output}"
    );
}

#[test]
fn server_with_unreachable_postgresql_fails_with_reason() {
    let folder = tempfile::tempdir().expect("folder");
    // The port is free again once the socket is dropped.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("address");
    let url = format!("postgres://haversack:secret@{free}/haversack");
    let output = run(haversack(folder.path())
        .arg("serve")
        .env("HAVERSACK_DATABASE_URL", url));
    assert_eq!(output.status.code(), Some(1));
    let output = stderr(&output);
    assert!(
        output.contains(&format!("PostgreSQL at {free} is not reachable")),
        "{output}"
    );
    assert!(
        output.contains("refused")
            && output.contains("HAVERSACK_DATABASE_URL")
            && !output.contains("secret"),
        "{output}"
    );
}

#[test]
fn closed_output_pipe_does_not_fail_a_command() {
    let folder = tempfile::tempdir().expect("folder");
    each_case(
        [["openapi"].as_slice(), &["doctor"], &["migrate"]],
        |arguments| {
            let (reader, writer) = std::io::pipe().expect("pipe");
            drop(reader);
            let output = haversack(folder.path())
                .args(arguments)
                .stdout(writer)
                .stderr(Stdio::piped())
                .spawn()
                .and_then(std::process::Child::wait_with_output)
                .expect("the program runs");
            assert!(output.status.success(), "{}", stderr(&output));
        },
    );
}

#[test]
fn full_output_device_fails_a_command_with_an_explanation() {
    let folder = tempfile::tempdir().expect("folder");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("device");
    let output = haversack(folder.path())
        .arg("openapi")
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("haversack: cannot write to standard output: "),
        "{}",
        stderr(&output)
    );
}
