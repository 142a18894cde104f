//! Assembles the settings of all modules, reads them from the configuration file, the environment
//! and flags, and checks them against each other before anything starts.

mod file;
mod log;
mod sources;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
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

pub use log::{LogConfig, LogFormat};
pub(crate) use sources::{Failure, parse};
pub use urls::UrlConfig;

/// Errors in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configuration file {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not valid TOML, or contains an unknown key.
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

/// The source that a setting's value comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The origin is unknown or the value is a default; contains the key of the setting.
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
            Self::Setting(key) => f.write_str(&sources::variable_name(key)),
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

/// The server configuration: settings that have been checked against each other.
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
    /// Path of the running executable, which is also started for decoder processes.
    pub program: PathBuf,
}

impl Config {
    /// Checks the settings against each other, and computes the defaults that depend on other
    /// settings. `variable` returns environment variables that are not settings, such as
    /// `AWS_ACCESS_KEY_ID`.
    ///
    /// # Errors
    /// Returns an error if settings contradict each other or the bucket lacks credentials.
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

/// Checks that the memory budgets for JSON bodies are large enough for one body of the maximum
/// size.
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

/// Checks the settings whose valid values depend on whether files are stored in a bucket.
fn check_bucket(attachments: &attachments::Config, has_bucket: bool) -> Result<(), Error> {
    if !has_bucket && attachments.cdn_mode == CdnMode::Redirect {
        return Err(Error::invalid(
            "cdn_mode",
            "\"redirect\" needs a bucket to send clients to: use \"proxy\", or set \
             HAVERSACK_BLOBS_URL to s3://bucket/prefix"
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
