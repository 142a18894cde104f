//! Configuration: assembles the settings of all layers, reads them from the file, the environment and flags, and
//! checks them against each other before anything starts.

mod bucket;
mod budgets;
mod file;
mod groups;
mod layers;
mod limits;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use ipnet::IpNet;
use url::Url;

use crate::blob::s3::S3Config;
use crate::db::Engine;
use crate::domain::base_url::BaseUrl;
use crate::fetch;
use crate::sandbox::Sandbox;

pub use groups::{
    AttachmentSettings, CdnMode, ConversionSettings, DatabaseSettings, FetchSettings, JsonSettings,
    LogFormat, LogSettings, RetentionSettings, SendSettings, ServerSettings, StorageSettings,
    UrlSettings,
};
pub(crate) use layers::{Failure, parse};
pub use limits::Limits;

/// Maximum lifetime of a presigned URL of a bucket, in seconds (Amazon S3, signature version 4).
const MAX_PRESIGNED_TTL: u64 = 7 * 24 * 3600;

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
    pub server: ServerSettings,
    #[command(flatten)]
    pub urls: UrlSettings,
    #[command(flatten)]
    pub storage: StorageSettings,
    #[command(flatten)]
    pub log: LogSettings,
    #[command(flatten)]
    pub attachments: AttachmentSettings,
    #[command(flatten)]
    pub conversion: ConversionSettings,
    #[command(flatten)]
    pub fetch: FetchSettings,
    #[command(flatten)]
    pub send: SendSettings,
    #[command(flatten)]
    pub retention: RetentionSettings,
    #[command(flatten)]
    pub json: JsonSettings,
    #[command(flatten)]
    pub database: DatabaseSettings,
}

impl Default for Settings {
    fn default() -> Self {
        crate::setting::defaults()
    }
}

/// Everything the server needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Where data is kept.
    pub data_dir: PathBuf,
    /// Where clients reach API and uploads; `None`: at the address that is listened on.
    pub public_url: Option<BaseUrl>,
    /// Base of file URLs; `None`: the public URL.
    pub cdn_url: Option<BaseUrl>,
    /// The database.
    pub database_url: Url,
    /// The folder of the local blob store, or of what is on its way to the bucket.
    pub blobs_dir: PathBuf,
    /// The bucket that files are kept in; `None`: in the folder.
    pub bucket: Option<S3Config>,
    /// How files are given to who asks for them.
    pub cdn_mode: CdnMode,
    /// Whether places and serial numbers are removed from what comes in.
    pub strip_private_metadata: bool,
    /// The ffmpeg program, by path or by name; `None`: it is not to be used.
    pub ffmpeg: Option<PathBuf>,
    /// What media URLs may reach beyond public addresses and port 443.
    pub fetch_allowed: fetch::EgressPolicy,
    /// Certificate authorities for media URLs besides the public ones.
    pub fetch_ca_file: Option<PathBuf>,
    /// Networks of reverse proxies that are believed when they name a client.
    pub trusted_proxies: Vec<IpNet>,
    /// What is logged.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// The Haversack binary that decoder processes are started from; the running one.
    pub program: PathBuf,
    /// Every limit.
    pub limits: Limits,
}

impl Config {
    /// Checks settings against each other and resolves the defaults that depend on others. `variable` returns
    /// environment variables that are not settings, such as `AWS_ACCESS_KEY_ID`.
    ///
    /// # Errors
    /// The settings contradict each other, or the bucket lacks credentials.
    pub fn resolve(
        settings: Settings,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let limits = Limits::from(&settings);
        limits.check()?;
        let Settings {
            server,
            urls,
            storage,
            log,
            attachments,
            conversion,
            fetch,
            ..
        } = settings;
        let (blobs_dir, bucket) = blobs(&storage, variable)?;
        if bucket.is_none() && urls.cdn_mode == CdnMode::Redirect {
            return Err(Error::invalid(
                "cdn_mode",
                "\"redirect\" needs a bucket to send clients to: use \"proxy\", or set HAVERSACK_BLOBS_URL to \
                 s3://bucket/prefix"
                    .to_owned(),
            ));
        }
        let ttl = attachments.upload_url_ttl.as_secs();
        if bucket.is_some() && ttl > MAX_PRESIGNED_TTL {
            return Err(Error::invalid(
                "upload_url_ttl_seconds",
                format!(
                    "must be at most {MAX_PRESIGNED_TTL} (seven days) with a bucket, not {ttl}"
                ),
            ));
        }
        let database_url = storage
            .database_url
            .unwrap_or_else(|| sqlite_url(&storage.data_dir));
        Ok(Self {
            program: Sandbox::own_program().unwrap_or_else(|_| PathBuf::from("haversack")),
            listen: server.listen,
            data_dir: storage.data_dir,
            public_url: urls.public_url,
            cdn_url: urls.cdn_url,
            database_url,
            blobs_dir,
            bucket,
            cdn_mode: urls.cdn_mode,
            strip_private_metadata: attachments.strip_private_metadata,
            ffmpeg: Some(conversion.ffmpeg).filter(|program| program != Path::new("none")),
            fetch_allowed: fetch::EgressPolicy {
                nets: fetch.allow_nets.to_vec(),
                ports: fetch.allow_ports.to_vec(),
            },
            fetch_ca_file: fetch.ca_file,
            trusted_proxies: server.trusted_proxies.to_vec(),
            log: log.filter,
            log_format: log.format,
            limits,
        })
    }

    /// Returns the file of a SQLite database.
    #[must_use]
    pub fn database_path(&self) -> Option<PathBuf> {
        let path =
            percent_encoding::percent_decode_str(self.database_url.path()).decode_utf8_lossy();
        (Engine::of(&self.database_url) == Some(Engine::Sqlite)).then(|| path.into_owned().into())
    }
}

/// Parses the URL of a database. The errors do not quote it, as it may hold a password.
pub(crate) fn database_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| {
        format!("it is not a URL ({error}); in a password, %2F stands for /, %23 for #, %3F for ?")
    })?;
    match Engine::of(&url) {
        Some(_) => Ok(url),
        None => Err(format!(
            "{}: is not supported; use sqlite: or postgres:",
            url.scheme()
        )),
    }
}

/// Returns the folder of the blob store, or of files on their way to the bucket, and the bucket.
fn blobs(
    storage: &StorageSettings,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(PathBuf, Option<S3Config>), Error> {
    match storage.blobs_url.as_deref() {
        None => Ok((storage.data_dir.clone(), None)),
        Some(text) if text.starts_with("s3:") => {
            let bucket = bucket::parse(text, variable)?;
            Ok((storage.data_dir.clone(), Some(bucket)))
        }
        Some(text) => match file_path(text) {
            Some(folder) => Ok((folder, None)),
            None => Err(Error::invalid(
                "blobs_url",
                format!(
                    "{text:?} is not supported; use file:/path/of/a/folder or s3://bucket/prefix"
                ),
            )),
        },
    }
}

/// Returns the path of a `file:` URL without a host (RFC 8089).
fn file_path(text: &str) -> Option<PathBuf> {
    if !text.starts_with("file:/") {
        return None;
    }
    Url::parse(text).ok()?.to_file_path().ok()
}

/// Returns the URL of the database in a data folder. `mode=rwc` lets SQLite create the file.
fn sqlite_url(data_dir: &Path) -> Url {
    let path = data_dir.join("haversack.db");
    let path = std::path::absolute(&path).unwrap_or(path);
    // Url::from_file_path percent-encodes characters that a path may have and a URL may not.
    let file = Url::from_file_path(path).expect("the path is absolute");
    Url::parse(&format!("sqlite://{}?mode=rwc", file.path()))
        .expect("a file URL makes a SQLite URL")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fmt::Write as _;

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
            if tables.last().is_none_or(|(last, _)| *last != heading) {
                let head = format!(
                    "### {heading}\n\n| Key | Environment variable | Default | Values | Meaning |\n\
                     | --- | --- | --- | --- | --- |\n"
                );
                tables.push((heading, head));
            }
            let (_, table) = tables.last_mut().expect("a table");
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
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.limits.max_connections, 8);
        assert_eq!(config.limits.max_header_bytes, 0x2001);
        assert_eq!(config.limits.max_upload_bytes, 104_857_600);
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
        assert_eq!(config.expect("config").limits.max_connections, 8);
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
        assert!(config.bucket.is_some() && config.cdn_mode == CdnMode::Redirect);
        assert_eq!(config.blobs_dir, Path::new("/srv/x"));
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
            assert_eq!(config.blobs_dir, Path::new("/srv/a b"));
        }
    }

    #[test]
    fn database_url_escapes_the_path_of_the_data_folder() {
        let config = load(&["--data-dir", "/tmp/a b?c#d"]).expect("config");
        assert_eq!(
            config.database_url.as_str(),
            "sqlite:///tmp/a%20b%3Fc%23d/haversack.db?mode=rwc"
        );
    }
}
