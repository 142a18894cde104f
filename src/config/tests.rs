//! Tests the sources of settings, their precedence, and the checks between settings.

use std::ffi::OsString;
use std::path::Path;

use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

fn load(arguments: &[&str]) -> Result<Config, Error> {
    load_with(arguments, &[])
}

fn load_with(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, Error> {
    let value = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let arguments: Vec<OsString> = ["haversack"]
        .iter()
        .chain(arguments)
        .map(OsString::from)
        .collect();
    let setting = |name: &str| value(name).map(OsString::from);
    match parse::<Cli>(&arguments, &setting) {
        Ok((cli, origins)) => {
            Config::resolve(cli.settings, &value).map_err(|error| origins.locate(error))
        }
        Err(Failure::Config(error)) => Err(error),
        Err(Failure::Usage(error)) => panic!("{error}"),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), text).expect("write");
    file
}

#[test]
fn flag_wins_over_variable_and_variable_over_file_and_file_over_default() {
    let file = file("listen = \"127.0.0.1:1\"\nmax_connections = 7\nmax_header_bytes = 0x2001\n");
    let path = file.path().to_str().expect("path");
    let variables = [
        ("HAVERSACK_LISTEN", "127.0.0.1:2"),
        ("HAVERSACK_MAX_CONNECTIONS", "8"),
    ];
    let config = load_with(&["--config", path, "--listen", "127.0.0.1:3"], &variables);
    let config = config.expect("config");
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.server.max_connections, 8);
    assert_eq!(config.server.max_header_bytes, 0x2001);
    assert_eq!(config.attachments.max_upload_bytes, 104_857_600);
}

#[test]
fn overridden_value_is_not_checked() {
    let file = file("listen = \"somewhere\"\nmax_connections = 0\n");
    let path = file.path().to_str().expect("path");
    let variables = [
        ("HAVERSACK_LISTEN", "elsewhere"),
        ("HAVERSACK_MAX_CONNECTIONS", "8"),
    ];
    let config = load_with(&["--config", path, "--listen", "127.0.0.1:3"], &variables);
    assert_eq!(config.expect("config").server.max_connections, 8);
}

#[test]
fn invalid_flag_is_named() {
    let missing = "/nowhere.toml";
    for (arguments, problem) in [
        (vec!["--config", missing], missing),
        (vec!["--public-url", "ftp://a"], "--public-url: "),
        (vec!["--cdn-url", "cdn.example.com"], "--cdn-url: "),
        (
            vec!["--database-url", "mysql://a"],
            "--database-url: mysql: is not supported",
        ),
        (vec!["--blobs-url", "s3://a?b=c"], "--blobs-url: "),
        (
            vec!["--cdn-mode", "redirect"],
            "--cdn-mode: \"redirect\" needs a bucket",
        ),
        (
            vec!["--cdn-mode", "direct"],
            "--cdn-mode: must be proxy or redirect",
        ),
        (vec!["--blobs-url", "file:relative"], "--blobs-url: "),
        (vec!["--blobs-url", "file://host/x"], "--blobs-url: "),
        (
            vec!["--max-json-bytes", "0"],
            "--max-json-bytes: must be at least 1024, not 0",
        ),
        (
            vec!["--upload-grace-seconds", "18446744073709551615"],
            "--upload-grace-seconds: must be at most 315360000",
        ),
        (
            vec!["--log-format", "xml"],
            "--log-format: must be text or json",
        ),
        (
            vec!["--max-header-bytes", "1"],
            "--max-header-bytes: must be at least 8192",
        ),
        (
            vec!["--fetch-allow-nets", "10.0.0.0/8,10.0.0.1"],
            "--fetch-allow-nets: \"10.0.0.1\" is not valid",
        ),
        (
            vec!["--fetch-allow-ports", "http"],
            "--fetch-allow-ports: \"http\" is not valid",
        ),
        (
            vec!["--max-json-bytes-per-address", "8388608"],
            "--max-json-bytes-per-address: must be at least 10747904",
        ),
        (
            vec!["--fetch-max-redirects", "18446744073709551615"],
            "--fetch-max-redirects: must be at most 1000000",
        ),
    ] {
        let error = load(&arguments).expect_err(problem).to_string();
        assert!(
            error.starts_with(problem) || error.contains(missing),
            "{error}"
        );
    }
}

#[test]
fn invalid_value_is_located_by_variable_or_line() {
    let variables = [("HAVERSACK_MAX_CONNECTIONS", "0")];
    let error = load_with(&[], &variables).expect_err("zero").to_string();
    assert_eq!(
        error,
        "HAVERSACK_MAX_CONNECTIONS: must be at least 1, not 0"
    );

    let file = file("log = \"info\"\n\nmax_json_bytes_total = 5\n");
    let path = file.path().to_str().expect("path");
    let error = load(&["--config", path]).expect_err("small").to_string();
    assert_eq!(
        error,
        format!("{path}, line 3: max_json_bytes_total: must be at least 10747904, not 5")
    );
    // The flag's value is valid, but too large for the default of another setting.
    let error = load(&["--max-json-bytes", "67108864"])
        .expect_err("large")
        .to_string();
    assert!(
        error.starts_with("HAVERSACK_MAX_JSON_BYTES_TOTAL: "),
        "{error}"
    );
}

#[test]
fn unknown_key_is_refused_with_its_line_and_the_nearest_key() {
    for (text, problem) in [
        (
            "log = \"info\"\nlisen = \"127.0.0.1:1\"\n",
            "line 2: there is no setting \"lisen\"; did you mean \"listen\"?",
        ),
        ("config = \"x\"\n", "line 1: there is no setting \"config\""),
        (
            "[log]\nlevel = 1\n",
            "line 1: log must be a string, a whole number, true or false",
        ),
    ] {
        let file = file(text);
        let path = file.path().to_str().expect("path");
        let error = load(&["--config", path]).expect_err(text).to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn errors_do_not_quote_passwords() {
    let file = file("log = \"info\"\n\ndatabase_url = \"postgres://u:hush@h/d\n");
    let path = file.path().to_str().expect("path");
    let error = load(&["--config", path])
        .expect_err("malformed")
        .to_string();
    assert!(
        error.contains("line 3") && !error.contains("hush"),
        "{error}"
    );
    let url = "postgres://u:hu/sh#@h/d";
    let error = load(&["--database-url", url])
        .expect_err("no URL")
        .to_string();
    assert!(
        error.contains("--database-url") && !error.contains("hu/sh"),
        "{error}"
    );
}

#[test]
fn help_does_not_show_values_of_file_or_environment() {
    let file = file("database_url = \"postgres://u:hush@h/d\"\n");
    let path = file.path().to_str().expect("path").to_owned();
    let arguments = ["haversack", "--config", &path, "--help"].map(OsString::from);
    let variable =
        |name: &str| (name == "HAVERSACK_DATABASE_URL").then(|| "postgres://u:hush@h/d".into());
    let Err(Failure::Usage(help)) = parse::<Cli>(&arguments, &variable) else {
        panic!("no help")
    };
    let help = help.to_string();
    assert!(
        help.contains("[env: HAVERSACK_DATABASE_URL]") && !help.contains("hush"),
        "{help}"
    );
}

#[test]
fn files_are_in_a_bucket_if_its_url_is_set() {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hush"),
    ];
    let load = |arguments: &[&str]| {
        let bucket = ["--blobs-url", "s3://pack", "--data-dir", "/srv/x"];
        load_with(&[&bucket, arguments].concat(), &variables)
    };
    let config = load(&["--cdn-mode", "redirect"]).expect("config");
    assert!(config.storage.bucket.is_some() && config.attachments.cdn_mode == CdnMode::Redirect);
    assert_eq!(config.storage.blobs_dir, Path::new("/srv/x"));
    let error = load(&["--upload-url-ttl-seconds", "604801"]).expect_err("too long");
    assert!(
        error.to_string().starts_with("--upload-url-ttl-seconds: "),
        "{error}"
    );
}

#[test]
fn file_url_of_blobs_is_their_folder() {
    for url in ["file:/srv/a%20b", "file:///srv/a%20b"] {
        let config = load(&["--blobs-url", url]).expect("config");
        assert_eq!(config.storage.blobs_dir, Path::new("/srv/a b"));
    }
}

#[test]
fn database_url_escapes_the_path_of_the_data_folder() {
    let config = load(&["--data-dir", "/tmp/a b?c#d"]).expect("config");
    assert_eq!(
        config.storage.database_url.as_str(),
        "sqlite:///tmp/a%20b%3Fc%23d/haversack.db?mode=rwc"
    );
}
