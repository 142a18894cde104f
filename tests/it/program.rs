//! The program as a person runs it.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;
use sqlx::Connection as _;

use haversack_testkit::program::{Server, haversack, run, stderr, stdout};
use haversack_testkit::raw::{RawConnection, request_target};
use haversack_testkit::{Api, within};

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

/// The arguments of a pasted `curl` line, as a shell passes them on; curl itself may not be installed.
fn pasted(line: &str) -> Vec<String> {
    let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{line}");
    let output = run(Command::new("sh").arg("-c").arg(&script));
    assert!(output.status.success(), "{script}\n{}", stderr(&output));
    stdout(&output).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn first_start_makes_key_and_shows_it_later_starts_on_demand() {
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
        "send must find it where it is now: {local}"
    );
    server.signal(Signal::INT);
    assert_eq!(server.wait(), Some(0));
    let listed = run(haversack(&data).args(["partner", "list"]));
    assert_eq!(stdout(&listed).lines().count(), 1, "{}", stdout(&listed));
    for secret in [
        "local.toml",
        "upload-signing.key",
        "haversack.db",
        "blobs",
        "unfinished-uploads",
    ] {
        let mode = std::fs::metadata(data.join(secret))
            .expect(secret)
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{secret} is its owner's alone");
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
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
            stderr(&output).contains("another haversack serves from"),
            "{arguments:?} {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_key_of_another_database_does_not_keep_it_from_starting() {
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
    let mut said = String::new();
    BufReader::new(child.stdout.take().expect("stdout"))
        .read_line(&mut said)
        .expect("text");
    child.kill().and_then(|()| child.wait()).expect("end");
    assert!(
        said.starts_with("Haversack serves http://127.0.0.1:"),
        "{said:?}"
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("local.toml")).expect("read"),
        local,
        "it may be of use again"
    );
}

#[tokio::test]
async fn partners_are_added_while_the_server_runs() {
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

    for (arguments, problem) in [
        (vec!["acme"], "there is a partner \"acme\" already"),
        (
            vec!["other", "--phone-number", "+12025550100"],
            "+12025550100 belongs to a partner already",
        ),
        (vec!["other", "--api-key", key], "in use already"),
        (vec!["other", "--api-key", "short"], "16 to 255 characters"),
        (vec!["other", "--phone-number", "2025550100"], "E.164"),
    ] {
        let refused = add(&arguments);
        assert!(
            !refused.status.success() && stderr(&refused).contains(problem),
            "{arguments:?} {}",
            stderr(&refused)
        );
    }
    let listed = run(haversack(folder.path()).args(["partner", "list"]));
    assert!(
        stdout(&listed).contains("acme  +12025550100 +12025550101"),
        "{}",
        stdout(&listed)
    );
    assert!(!stdout(&listed).contains("other") && !stdout(&listed).contains(key));
}

#[tokio::test]
async fn send_finds_the_local_server_and_its_key() {
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
    let said = stdout(&first);
    assert!(
        said.contains("uploaded photo.jpg (") && said.contains("status  delivered"),
        "{said}"
    );
    let url = said
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
        "the local key goes nowhere else: {}",
        stderr(&elsewhere)
    );
    let nobody = run(haversack(folder.path()).args(["send", photo, "--to", "2025550199"]));
    assert!(
        stderr(&nobody).contains("E.164") && stdout(&nobody).is_empty(),
        "nothing is uploaded in vain"
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
async fn sigterm_lets_an_upload_finish_and_urls_survive_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::start(folder.path());
    let key = key(&server);
    let api = Api::new(address(&server), key);
    let created = api.create("a.txt", "text/plain", 5).await;
    let later = api.create("b.txt", "text/plain", 5).await;
    let mut upload = RawConnection::connect(address(&server)).await;
    let url = request_target(created["upload_url"].as_str().expect("URL"));
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
    let api = Api::new(address(&server), key);
    let path = |created: &serde_json::Value| {
        format!(
            "/v3/attachments/{}",
            created["attachment_id"].as_str().expect("id")
        )
    };
    assert_eq!(
        api.get(&path(&created)).await.expect(200)["status"],
        "complete"
    );
    let url = format!(
        "http://{}{}",
        address(&server),
        request_target(later["upload_url"].as_str().expect("URL"))
    );
    let moved = json!({"upload_url": url, "required_headers": later["required_headers"]});
    assert_eq!(api.put(&moved, b"world").await.status, 200);
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::start(folder.path());
    let created = Api::new(address(&server), key(&server))
        .create("a.txt", "text/plain", 5)
        .await;
    let mut upload = RawConnection::connect(address(&server)).await;
    let url = request_target(created["upload_url"].as_str().expect("URL"));
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
        "the first signal was taken: idle connections are closed"
    );
    server.signal(Signal::INT);
    let code = tokio::task::spawn_blocking(|| server.wait());
    assert_eq!(within(code).await.expect("wait"), Some(1));
}

#[tokio::test]
async fn the_log_has_no_secrets_of_urls() {
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
fn doctor_says_what_is_wrong() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let fine = run(haversack(&data).arg("doctor"));
    assert!(fine.status.success(), "{}{}", stdout(&fine), stderr(&fine));
    assert!(!data.exists(), "looking changes nothing");
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
    for (name, value, problem) in [
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
    ] {
        let wrong = run(haversack(&data).arg("doctor").env(name, value));
        let said = format!("{}{}", stdout(&wrong), stderr(&wrong));
        assert!(
            !wrong.status.success() && said.contains(problem),
            "{name}={value}: {said}"
        );
    }
}

#[tokio::test]
async fn doctor_tells_whose_tables_they_are() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    assert!(run(haversack(&data).arg("migrate")).status.success());
    let url = format!("sqlite://{}", data.join("haversack.db").display());
    sqlx::any::install_default_drivers();
    let mut db = sqlx::AnyConnection::connect(&url)
        .await
        .expect("the database opens");
    for (change, fine, told) in [
        ("SELECT 1", true, "0 partner(s)"),
        (
            "UPDATE _sqlx_migrations SET version = 9999 WHERE version = 1",
            false,
            "of a newer version",
        ),
        (
            "DELETE FROM _sqlx_migrations",
            true,
            "will be made on first start",
        ),
        (
            "DROP TABLE _sqlx_migrations",
            true,
            "will be made on first start",
        ),
    ] {
        sqlx::query(change).execute(&mut db).await.expect(change);
        let doctor = run(haversack(&data).arg("doctor"));
        assert!(
            doctor.status.success() == fine && stdout(&doctor).contains(told),
            "{change}: {}",
            stdout(&doctor)
        );
        let migrate = (!fine).then(|| run(haversack(&data).arg("migrate")));
        assert!(
            migrate.is_none_or(|migrate| stderr(&migrate).contains(told)),
            "{change}"
        );
    }
}

#[test]
fn doctor_says_that_postgresql_is_away() {
    let folder = tempfile::tempdir().expect("folder");
    let url = "postgres://someone:hush@127.0.0.1:1/pack";
    let doctor = run(haversack(&folder.path().join("data"))
        .arg("doctor")
        .env("HAVERSACK_DATABASE_URL", url));
    let told = stdout(&doctor);
    assert!(
        told.contains("wrong database: PostgreSQL at 127.0.0.1:1/pack") && told.contains("refused"),
        "{told}"
    );
    assert!(
        told.contains("for one server only") && !told.contains("hush"),
        "{told}"
    );
}

#[test]
fn a_server_whose_postgresql_is_away_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    // Nobody listens there any more.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("address");
    let url = format!("postgres://haversack:secret@{free}/haversack");
    let output = run(haversack(folder.path())
        .arg("serve")
        .env("HAVERSACK_DATABASE_URL", url));
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(
        told.contains(&format!("PostgreSQL at {free} is not reachable")),
        "{told}"
    );
    assert!(
        told.contains("refused")
            && told.contains("HAVERSACK_DATABASE_URL")
            && !told.contains("secret"),
        "{told}"
    );
}
