//! Configuration: defaults, then the file, then the environment, then flags; checked once, before anything starts.

mod bucket;
mod budgets;
mod limits;
mod settings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use url::Url;

use crate::blob::s3::S3Config;
use crate::db::Engine;
use crate::fetch;
use crate::sandbox::Sandbox;

pub use settings::{Flags, Limits, SETTINGS, Setting, Settings};

/// How long a signed URL of a bucket can be good, in seconds (Amazon S3, signature version 4).
const MAX_SIGNED: u64 = 7 * 24 * 3600;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not TOML, or names a setting that does not exist.
    #[error("configuration file {}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the line.
        message: String,
    },
    /// A setting has a value that cannot work.
    #[error("{setting}: {problem}")]
    Invalid {
        /// The setting, as an environment variable.
        setting: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
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

/// How files are given to who asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdnMode {
    /// By us.
    Proxy,
    /// By the bucket, to which they are sent on.
    Redirect,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// An absolute http or https URL without query, to which paths are appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl BaseUrl {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("{text:?} is not a URL ({e})"))?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.query().is_none()
            && url.fragment().is_none();
        if !plain || url.cannot_be_a_base() {
            return Err(format!(
                "{text:?} must be an http or https URL without ? and #"
            ));
        }
        Ok(Self(url))
    }

    /// The base of a server that listens on `address`.
    #[must_use]
    pub fn from_address(address: SocketAddr) -> Self {
        Self(Url::parse(&format!("http://{address}/")).expect("a socket address makes a URL"))
    }

    /// The URL, for its parts.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Host and, if it is not the default, port: what a `Host` header for this URL says.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The URL with `path`, which starts with `/`, appended.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0.as_str().trim_end_matches('/'))
    }
}

impl Config {
    /// Combines defaults, file, environment and flags (clap has merged the last two already), and checks the result.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(flags: Flags) -> Result<Self, Error> {
        Self::load_with(flags, &|name| std::env::var(name).ok())
    }

    /// The same with another place for the variables that are not ours, such as `AWS_ACCESS_KEY_ID`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load_with(
        flags: Flags,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let file = match flags.config.as_deref() {
            Some(path) => read_file(path)?,
            None => Flags::default(),
        };
        Self::check(Settings::resolve(flags.or(file)), variable)
    }

    /// The file of the database, if it is SQLite.
    #[must_use]
    pub fn database_path(&self) -> Option<PathBuf> {
        let path =
            percent_encoding::percent_decode_str(self.database_url.path()).decode_utf8_lossy();
        (Engine::of(&self.database_url) == Some(Engine::Sqlite)).then(|| path.into_owned().into())
    }

    fn check(settings: Settings, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let invalid = |setting, problem| Error::Invalid { setting, problem };
        let base_url = |setting, text: Option<String>| {
            text.map(|text| BaseUrl::parse(&text))
                .transpose()
                .map_err(|problem| invalid(setting, problem))
        };
        let data_dir = settings.data_dir;
        let database_url = match settings.database_url {
            Some(text) => Url::parse(&text).map_err(|e| {
                invalid(
                    "HAVERSACK_DATABASE_URL",
                    format!("it is not a URL ({e}); in a password, %2F stands for /, %23 for #, %3F for ?"),
                )
            })?,
            None => sqlite_url(&data_dir),
        };
        if Engine::of(&database_url).is_none() {
            let problem = format!(
                "{}: is not supported; use sqlite: or postgres:",
                database_url.scheme()
            );
            return Err(invalid("HAVERSACK_DATABASE_URL", problem));
        }
        let is_bucket = |text: &&str| text.starts_with("s3:");
        let bucket = settings.blobs_url.as_deref().filter(is_bucket);
        let bucket = bucket
            .map(|text| bucket::parse(text, variable))
            .transpose()?;
        let blobs_dir = match settings
            .blobs_url
            .as_deref()
            .filter(|text| !is_bucket(text))
        {
            Some(text) => file_path(text).ok_or_else(|| {
                let problem = format!(
                    "{text:?} is not supported; use file:/path/of/a/folder or s3://bucket/prefix"
                );
                invalid("HAVERSACK_BLOBS_URL", problem)
            })?,
            None => data_dir.clone(),
        };
        let cdn_mode = match (settings.cdn_mode.as_str(), &bucket) {
            ("proxy", _) => CdnMode::Proxy,
            ("redirect", Some(_)) => CdnMode::Redirect,
            ("redirect", None) => {
                let problem = "\"redirect\" needs a bucket to send clients to: use \"proxy\", or set \
                               HAVERSACK_BLOBS_URL to s3://bucket/prefix";
                return Err(invalid("HAVERSACK_CDN_MODE", problem.to_owned()));
            }
            (other, _) => {
                return Err(invalid(
                    "HAVERSACK_CDN_MODE",
                    format!("\"proxy\" or \"redirect\", not {other:?}"),
                ));
            }
        };
        let ttl = settings.limits.upload_url_ttl_seconds;
        if bucket.is_some() && ttl > MAX_SIGNED {
            let problem =
                format!("must be at most {MAX_SIGNED} (seven days) with a bucket, not {ttl}");
            return Err(invalid("HAVERSACK_UPLOAD_URL_TTL_SECONDS", problem));
        }
        let log_format = match settings.log_format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                return Err(invalid(
                    "HAVERSACK_LOG_FORMAT",
                    format!("\"text\" or \"json\", not {other:?}"),
                ));
            }
        };
        settings.limits.check()?;
        Ok(Self {
            program: Sandbox::own_program().unwrap_or_else(|_| PathBuf::from("haversack")),
            listen: settings.listen,
            data_dir,
            public_url: base_url("HAVERSACK_PUBLIC_URL", settings.public_url)?,
            cdn_url: base_url("HAVERSACK_CDN_URL", settings.cdn_url)?,
            database_url,
            blobs_dir,
            bucket,
            cdn_mode,
            strip_private_metadata: settings.strip_private_metadata,
            ffmpeg: Some(settings.ffmpeg.unwrap_or_else(|| "ffmpeg".to_owned()))
                .filter(|program| program != "none")
                .map(PathBuf::from),
            fetch_allowed: fetch::EgressPolicy {
                nets: list(
                    "HAVERSACK_FETCH_ALLOW_NETS",
                    settings.fetch_allow_nets.as_deref(),
                    "a network such as 10.0.0.0/8",
                )?,
                ports: list(
                    "HAVERSACK_FETCH_ALLOW_PORTS",
                    settings.fetch_allow_ports.as_deref(),
                    "a port such as 8443",
                )?,
            },
            fetch_ca_file: settings.fetch_ca_file.map(PathBuf::from),
            trusted_proxies: list(
                "HAVERSACK_TRUSTED_PROXIES",
                settings.trusted_proxies.as_deref(),
                "a network such as 10.0.0.0/8",
            )?,
            log: settings.log,
            log_format,
            limits: settings.limits,
        })
    }
}

/// The entries of a list joined by commas.
fn list<T: std::str::FromStr>(
    setting: &'static str,
    text: Option<&str>,
    like: &str,
) -> Result<Vec<T>, Error> {
    let entries = text
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let problem = || format!("{entry:?} is not {like}; several are joined by commas");
            entry.parse().map_err(|_| Error::Invalid {
                setting,
                problem: problem(),
            })
        })
        .collect()
}

/// The path of a `file:` URL without a host (RFC 8089).
fn file_path(text: &str) -> Option<PathBuf> {
    if !text.starts_with("file:/") {
        return None;
    }
    Url::parse(text).ok()?.to_file_path().ok()
}

fn read_file(path: &Path) -> Result<Flags, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        // Without the line itself, as the library would show it: it may hold a password.
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].lines().count().max(1));
        Error::Malformed {
            path: path.to_owned(),
            message: format!("line {line}: {}", error.message()),
        }
    })
}

/// `mode=rwc` lets SQLite make the file.
fn sqlite_url(data_dir: &Path) -> Url {
    let path = data_dir.join("haversack.db");
    let path = std::path::absolute(&path).unwrap_or(path);
    // Url::from_file_path percent-encodes what a path may hold and a URL may not.
    let file = Url::from_file_path(path).expect("the path is absolute");
    Url::parse(&format!("sqlite://{}?mode=rwc", file.path()))
        .expect("a file URL makes a sqlite URL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn load(arguments: &[&str]) -> Result<Config, Error> {
        Config::load(Cli::parse_from([&["haversack"], arguments].concat()).flags)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("haversack.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\nmax_connections = 7\n").expect("write");
        let path = path.to_str().expect("path");
        let config = load(&["--config", path, "--listen", "127.0.0.1:2"]).expect("config");
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.limits.max_connections, 7);
        assert_eq!(config.limits.max_upload_bytes, 104_857_600);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("haversack.toml");
        std::fs::write(&path, "lisen = \"127.0.0.1:1\"\n").expect("write");
        for (arguments, named) in [
            (vec!["--config", path.to_str().expect("path")], "lisen"),
            (vec!["--config", "/nowhere.toml"], "/nowhere.toml"),
            (vec!["--public-url", "ftp://a"], "HAVERSACK_PUBLIC_URL"),
            (vec!["--cdn-url", "cdn.example.com"], "HAVERSACK_CDN_URL"),
            (
                vec!["--database-url", "mysql://a"],
                "HAVERSACK_DATABASE_URL",
            ),
            (vec!["--blobs-url", "s3://a?b=c"], "HAVERSACK_BLOBS_URL"),
            (vec!["--cdn-mode", "redirect"], "HAVERSACK_CDN_MODE"),
            (vec!["--cdn-mode", "direct"], "HAVERSACK_CDN_MODE"),
            (vec!["--blobs-url", "file:relative"], "HAVERSACK_BLOBS_URL"),
            (vec!["--blobs-url", "file://host/x"], "HAVERSACK_BLOBS_URL"),
            (vec!["--max-json-bytes", "0"], "HAVERSACK_MAX_JSON_BYTES"),
            (
                vec!["--upload-grace-seconds", "18446744073709551615"],
                "HAVERSACK_UPLOAD_GRACE_SECONDS",
            ),
            (vec!["--log-format", "xml"], "HAVERSACK_LOG_FORMAT"),
            (
                vec!["--max-header-bytes", "1"],
                "HAVERSACK_MAX_HEADER_BYTES",
            ),
            (
                vec!["--fetch-allow-nets", "10.0.0.0/8,10.0.0.1"],
                "HAVERSACK_FETCH_ALLOW_NETS",
            ),
            (
                vec!["--fetch-allow-ports", "http"],
                "HAVERSACK_FETCH_ALLOW_PORTS",
            ),
            (
                vec!["--trusted-proxies", "10.0.0.1"],
                "HAVERSACK_TRUSTED_PROXIES",
            ),
            (
                vec!["--max-json-bytes-per-address", "8388608"],
                "HAVERSACK_MAX_JSON_BYTES_PER_ADDRESS",
            ),
            (
                vec!["--max-connections-per-address", "0"],
                "HAVERSACK_MAX_CONNECTIONS_PER_ADDRESS",
            ),
            (
                vec!["--download-min-bytes-per-second", "0"],
                "HAVERSACK_DOWNLOAD_MIN_BYTES_PER_SECOND",
            ),
            (
                vec!["--fetch-max-concurrent", "0"],
                "HAVERSACK_FETCH_MAX_CONCURRENT",
            ),
            (
                vec!["--fetch-max-redirects", "18446744073709551615"],
                "HAVERSACK_FETCH_MAX_REDIRECTS",
            ),
        ] {
            let error = load(&arguments).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_named_and_not_shown() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("haversack.toml");
        std::fs::write(
            &path,
            "log = \"info\"\n\ndatabase_url = \"postgres://u:hush@h/d\n",
        )
        .expect("write");
        let error = load(&["--config", path.to_str().expect("path")])
            .expect_err("malformed")
            .to_string();
        assert!(
            error.contains("line 3") && !error.contains("hush"),
            "{error}"
        );
        let error = load(&["--database-url", "postgres://u:hu/sh#@h/d"])
            .expect_err("no URL")
            .to_string();
        assert!(
            error.contains("HAVERSACK_DATABASE_URL") && !error.contains("hu/sh"),
            "{error}"
        );
    }

    #[test]
    fn lists_are_joined_by_commas() {
        let config = load(&[
            "--fetch-allow-nets",
            "127.0.0.0/8, ::1/128,",
            "--fetch-allow-ports",
            "8443",
        ]);
        let allowed = config.expect("config").fetch_allowed;
        assert!(
            allowed.contains("::1".parse().expect("address"))
                && allowed.allows_port(8443)
                && allowed.nets.len() == 2
        );
    }

    #[test]
    fn files_are_in_a_bucket_if_it_is_named() {
        let load = |arguments: &[&str]| {
            let arguments = [
                "haversack",
                "--blobs-url",
                "s3://pack",
                "--data-dir",
                "/srv/x",
            ]
            .iter()
            .chain(arguments);
            let variable = |name: &str| name.ends_with("_KEY_ID").then(|| "id".to_owned());
            let variable = |name: &str| {
                variable(name).or_else(|| name.ends_with("_KEY").then(|| "hush".to_owned()))
            };
            Config::load_with(Cli::parse_from(arguments).flags, &variable)
        };
        let config = load(&["--cdn-mode", "redirect"]).expect("config");
        assert!(config.bucket.is_some() && config.cdn_mode == CdnMode::Redirect);
        assert_eq!(config.blobs_dir, Path::new("/srv/x"));
        let error = load(&["--upload-url-ttl-seconds", "604801"])
            .expect_err("too long")
            .to_string();
        assert!(
            error.contains("HAVERSACK_UPLOAD_URL_TTL_SECONDS"),
            "{error}"
        );
    }

    #[test]
    fn a_blobs_url_names_a_folder() {
        for url in ["file:/srv/a%20b", "file:///srv/a%20b"] {
            assert_eq!(
                load(&["--blobs-url", url]).expect("config").blobs_dir,
                Path::new("/srv/a b")
            );
        }
    }

    #[test]
    fn the_database_path_may_hold_anything() {
        let config = load(&["--data-dir", "/tmp/a b?c#d"]).expect("config");
        assert_eq!(
            config.database_url.as_str(),
            "sqlite:///tmp/a%20b%3Fc%23d/haversack.db?mode=rwc"
        );
    }

    #[test]
    fn the_documentation_lists_every_setting() {
        let table = SETTINGS.iter().map(Setting::row).collect::<String>();
        let documented = include_str!("../../docs/reference/configuration.md");
        assert!(
            documented.contains(&table),
            "docs/reference/configuration.md must hold this table:\n{table}"
        );
    }
}
