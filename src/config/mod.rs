//! Configuration: assembles the settings of all layers, reads them from the file, the environment and flags, and
//! checks them against each other before anything starts.

mod file;
mod layers;
mod log;
mod urls;

use std::fmt;
use std::path::PathBuf;

use clap::Args;

use crate::attachments::CdnMode;
use crate::blob::s3::MAX_PRESIGNED_TTL;
use crate::http::JsonConfig;
use crate::sandbox::Sandbox;
use crate::storage::Locations;
use crate::{attachments, background, db, fetch, http, send, storage, transcode};

pub(crate) use layers::{Failure, parse};
pub use log::{LogConfig, LogFormat};
pub use urls::UrlConfig;

/// An invalid configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration file {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not TOML, or has an unknown key.
    #[error("configuration file {}, line {line}: {problem}", path.display())]
    Malformed {
        path: PathBuf,
        line: usize,
        problem: String,
    },
    #[error("{origin}: {problem}")]
    Invalid { origin: Origin, problem: String },
}

impl Error {
    fn invalid(key: &'static str, problem: String) -> Self {
        Self::Invalid {
            origin: Origin::Setting(key),
            problem,
        }
    }
}

/// The origin of the value of a setting.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Not known, or a default; the setting by its key.
    Setting(&'static str),
    Flag(String),
    Variable(String),
    File {
        path: PathBuf,
        line: usize,
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(key) => f.write_str(&layers::variable_name(key)),
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::File { path, line, key } => write!(f, "{}, line {line}: {key}", path.display()),
        }
    }
}

/// All settings, each checked by itself.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Settings {
    #[command(flatten)]
    pub server: http::server::Config,
    #[command(flatten)]
    pub urls: UrlConfig,
    #[command(flatten)]
    pub storage: storage::Config,
    #[command(flatten)]
    pub log: LogConfig,
    #[command(flatten)]
    pub attachments: attachments::Config,
    #[command(flatten)]
    pub conversion: transcode::Config,
    #[command(flatten)]
    pub fetch: fetch::Config,
    #[command(flatten)]
    pub send: send::Config,
    #[command(flatten)]
    pub retention: background::Config,
    #[command(flatten)]
    pub json: JsonConfig,
    #[command(flatten)]
    pub database: db::Config,
}

impl Default for Settings {
    fn default() -> Self {
        crate::setting::defaults()
    }
}

/// The configuration of a server: its settings, checked against each other.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: http::server::Config,
    pub urls: UrlConfig,
    pub storage: Locations,
    pub log: LogConfig,
    pub attachments: attachments::Config,
    pub conversion: transcode::Config,
    pub fetch: fetch::Config,
    pub send: send::Config,
    pub retention: background::Config,
    pub json: JsonConfig,
    pub database: db::Config,
    /// The executable that decoder processes are started from: the running one.
    pub program: PathBuf,
}

impl Config {
    /// Checks settings against each other and resolves the defaults that depend on others. `variable`
    /// returns environment variables that are not settings, such as `AWS_ACCESS_KEY_ID`.
    ///
    /// # Errors
    /// The settings contradict each other, or the bucket lacks credentials.
    pub fn resolve(
        settings: Settings,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        check_json(&settings.json)?;
        let storage = settings.storage.resolve(variable);
        let storage = storage.map_err(|problem| Error::invalid("blobs_url", problem))?;
        check_bucket(&settings.attachments, storage.bucket.is_some())?;
        let attachments = attachments::Config {
            idle_timeout: settings.server.idle_timeout,
            ..settings.attachments
        };
        Ok(Self {
            server: settings.server,
            urls: settings.urls,
            storage,
            log: settings.log,
            attachments,
            conversion: settings.conversion,
            fetch: settings.fetch,
            send: settings.send,
            retention: settings.retention,
            json: settings.json,
            database: settings.database,
            program: Sandbox::own_program().unwrap_or_else(|_| PathBuf::from("haversack")),
        })
    }
}

/// Checks that the budgets of JSON bodies admit a body of the maximum size.
fn check_json(json: &JsonConfig) -> Result<(), Error> {
    let min = json.max_memory();
    for (key, value) in [
        ("max_json_bytes_total", json.max_bytes_total),
        ("max_json_bytes_per_address", json.max_bytes_per_address),
    ] {
        if value < min {
            return Err(Error::invalid(
                key,
                format!("must be at least {min}, not {value}"),
            ));
        }
    }
    Ok(())
}

/// Checks the settings that depend on whether files are in a bucket.
fn check_bucket(attachments: &attachments::Config, has_bucket: bool) -> Result<(), Error> {
    if !has_bucket && attachments.cdn_mode == CdnMode::Redirect {
        return Err(Error::invalid(
            "cdn_mode",
            "\"redirect\" needs a bucket to send clients to: use \"proxy\", or set HAVERSACK_BLOBS_URL to \
             s3://bucket/prefix"
                .to_owned(),
        ));
    }
    let ttl = attachments.upload_url_ttl.as_secs();
    if has_bucket && ttl > MAX_PRESIGNED_TTL {
        return Err(Error::invalid(
            "upload_url_ttl_seconds",
            format!("must be at most {MAX_PRESIGNED_TTL} (seven days) with a bucket, not {ttl}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;
    use crate::setting::{MAX_DAYS, MAX_SECONDS, OutOfBounds};
    use clap::error::{ContextKind, ContextValue};
    use clap::{Arg, Command, Parser};

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

    /// Returns the settings as a table for each help heading.
    fn tables() -> Vec<String> {
        let command = Command::new("haversack");
        let settings = layers::settings();
        let mut tables: Vec<(&str, String)> = Vec::new();
        for setting in &settings {
            let heading = setting.get_help_heading().unwrap_or_default();
            if !tables.iter().any(|(known, _)| *known == heading) {
                let head = format!(
                    "### {heading}\n\n| Key | Environment variable | Default | Values | Meaning |\n\
                     | --- | --- | --- | --- | --- |\n"
                );
                tables.push((heading, head));
            }
            let table = tables.iter_mut().find(|(known, _)| *known == heading);
            let (_, table) = table.expect("a table");
            let key = layers::key(setting);
            let default = setting.get_default_values().iter();
            let default = default
                .map(|value| value.to_string_lossy())
                .find(|value| !value.is_empty())
                .map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
            let _ = writeln!(
                table,
                "| `{key}` | `{}` | {default} | {} | {} |",
                layers::variable_name(&key),
                values(&command, setting),
                setting
                    .get_help()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            );
        }
        tables.into_iter().map(|(_, table)| table).collect()
    }

    /// Returns the values that a setting accepts, as its own parser reports them.
    fn values(command: &Command, setting: &Arg) -> String {
        use std::error::Error as _;
        let flag = format!("--{}=?", setting.get_long().expect("a flag"));
        let parsed = command
            .clone()
            .arg(setting)
            .try_get_matches_from(["haversack", &flag]);
        let Err(error) = parsed else {
            return String::new();
        };
        let source = error.source();
        if let Some(bounds) = source.and_then(|source| source.downcast_ref::<OutOfBounds>()) {
            return match (bounds.min, bounds.max) {
                // The page states the upper bound of times once.
                (0, u64::MAX | MAX_SECONDS | MAX_DAYS) => String::new(),
                (min, u64::MAX | MAX_SECONDS | MAX_DAYS) => format!("at least {min}"),
                (min, max) => format!("{min} to {max}"),
            };
        }
        match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) => format!("`{}`", valid.join("`, `")),
            _ => String::new(),
        }
    }

    #[test]
    fn documentation_has_the_tables_of_settings() {
        let documented = include_str!("../../docs/reference/configuration.md");
        let missing: Vec<String> = tables()
            .into_iter()
            .filter(|table| !documented.contains(table))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/reference/configuration.md must have these tables:\n{}",
            missing.join("\n")
        );
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), text).expect("write");
        file
    }

    #[test]
    fn flag_wins_over_variable_and_variable_over_file_and_file_over_default() {
        let file =
            file("listen = \"127.0.0.1:1\"\nmax_connections = 7\nmax_header_bytes = 0x2001\n");
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
        // The default of the other setting is at fault.
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
        assert!(
            config.storage.bucket.is_some() && config.attachments.cdn_mode == CdnMode::Redirect
        );
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
}
