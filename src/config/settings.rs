//! The one list of settings: name, default and meaning of each. Flags, environment variables, the keys of the TOML
//! file and the table in `docs/reference/configuration.md` all come from here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Key in the TOML file; with dashes, the flag.
    pub name: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Default, as text.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Setting {
    /// The setting as a row of a Markdown table.
    #[must_use]
    pub fn row(&self) -> String {
        let flag = self.name.replace('_', "-");
        let Self {
            name,
            env,
            default,
            meaning,
        } = self;
        format!(
            "| `--{flag}` | `{env}` | `{name}` | {default} | {} |\n",
            meaning.trim()
        )
    }
}

macro_rules! settings {
    (
        optional { $($o_name:ident, $o_env:literal, $o_default:literal, $o_doc:literal;)* }
        defaulted { $($r_name:ident: $r_type:ty, $r_env:literal, $r_default:literal, $r_doc:literal;)* }
        limits { $($l_name:ident, $l_env:literal, $l_default:literal, $l_doc:literal;)* }
    ) => {
        /// Settings as they are given by flags and environment, or by the file: each may be absent.
        #[derive(Args, Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[command(next_help_heading = "Settings")]
        pub struct Flags {
            /// A TOML file with settings.
            #[arg(long, env = "HAVERSACK_CONFIG", global = true)]
            #[serde(skip)]
            pub config: Option<PathBuf>,
            $(#[doc = $o_doc] #[arg(long, env = $o_env, hide_env_values = true, global = true)] pub $o_name: Option<String>,)*
            $(#[doc = $r_doc] #[arg(long, env = $r_env, global = true)] pub $r_name: Option<$r_type>,)*
            $(#[doc = $l_doc] #[arg(long, env = $l_env, global = true, hide_short_help = true)] pub $l_name: Option<u64>,)*
        }

        impl Flags {
            /// These settings, and where they are absent those of `other`.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self {
                    config: self.config.or(other.config),
                    $($o_name: self.$o_name.or(other.$o_name),)*
                    $($r_name: self.$r_name.or(other.$r_name),)*
                    $($l_name: self.$l_name.or(other.$l_name),)*
                }
            }
        }

        /// Settings with their defaults filled in, not checked yet.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $(#[doc = $o_doc] pub $o_name: Option<String>,)*
            $(#[doc = $r_doc] pub $r_name: $r_type,)*
            /// Every limit.
            pub limits: Limits,
        }

        /// Every limit that an operator can set.
        #[derive(Clone, Debug)]
        pub struct Limits {
            $(#[doc = $l_doc] pub $l_name: u64,)*
        }

        impl Settings {
            /// Fills in the defaults.
            #[must_use]
            pub fn resolve(flags: Flags) -> Self {
                Self {
                    $($o_name: flags.$o_name,)*
                    $($r_name: flags.$r_name.unwrap_or_else(|| $r_default.parse().expect("a default can be read")),)*
                    limits: Limits { $($l_name: flags.$l_name.unwrap_or($l_default),)* },
                }
            }
        }

        /// Every setting, in the order of the documentation.
        pub static SETTINGS: &[Setting] = &[
            $(Setting { name: stringify!($r_name), env: $r_env, default: concat!("`", $r_default, "`"), meaning: $r_doc },)*
            $(Setting { name: stringify!($o_name), env: $o_env, default: $o_default, meaning: $o_doc },)*
            $(Setting { name: stringify!($l_name), env: $l_env, default: concat!("`", $l_default, "`"), meaning: $l_doc },)*
        ];
    };
}

settings! {
    optional {
        public_url, "HAVERSACK_PUBLIC_URL", "`http://` and the listen address",
            " Where clients reach API and uploads; upload URLs start with it";
        cdn_url, "HAVERSACK_CDN_URL", "the public URL",
            " Base of file URLs; if its host is another than the public one, requests for it are answered with files only";
        database_url, "HAVERSACK_DATABASE_URL", "`haversack.db` in the data folder",
            " Database for everything but file contents, as `sqlite:///path?mode=rwc` or `postgres://user:password@host/name`";
        blobs_url, "HAVERSACK_BLOBS_URL", "the data folder",
            " Where file contents are: a folder, as `file:/path`, or a bucket, as `s3://bucket/prefix?region=...&endpoint=...`";
        ffmpeg, "HAVERSACK_FFMPEG", "`ffmpeg` in `PATH`",
            " The ffmpeg program, which turns CAF into M4A; `none` to do without";
        fetch_allow_nets, "HAVERSACK_FETCH_ALLOW_NETS", "none",
            " Networks that media URLs may reach although they are not public, as `127.0.0.0/8,10.1.0.0/16`";
        fetch_allow_ports, "HAVERSACK_FETCH_ALLOW_PORTS", "none",
            " Ports that media URLs may name besides 443, as `8443,9443`";
        fetch_ca_file, "HAVERSACK_FETCH_CA_FILE", "none",
            " PEM file of certificate authorities that are trusted for media URLs besides the public ones";
        trusted_proxies, "HAVERSACK_TRUSTED_PROXIES", "none",
            " Networks of reverse proxies whose `Forwarded` or `X-Forwarded-For` header names the client, as `127.0.0.1/32,10.1.0.0/16`";
    }
    defaulted {
        listen: SocketAddr, "HAVERSACK_LISTEN", "127.0.0.1:8080",
            " Address and port to listen on; port 0 takes any free one";
        data_dir: PathBuf, "HAVERSACK_DATA_DIR", "haversack-data",
            " Folder for everything the server keeps";
        log: String, "HAVERSACK_LOG", "info",
            " What is logged: a level, or `target=level` pairs joined by commas";
        log_format: String, "HAVERSACK_LOG_FORMAT", "text",
            " How it is logged: `text` or `json`";
        cdn_mode: String, "HAVERSACK_CDN_MODE", "proxy",
            " How files of a bucket are given to who asks for them: `proxy`, through this server, or `redirect`, by a signed URL of the bucket";
        strip_private_metadata: bool, "HAVERSACK_STRIP_PRIVATE_METADATA", "false",
            " Whether places and serial numbers are removed from pictures and films before they are stored: `true` or `false`";
    }
    limits {
        max_upload_bytes, "HAVERSACK_MAX_UPLOAD_BYTES", 104_857_600,
            " Largest file, in bytes";
        upload_url_ttl_seconds, "HAVERSACK_UPLOAD_URL_TTL_SECONDS", 900,
            " How long an upload URL is good; an upload that began in time may finish";
        max_pending_attachments, "HAVERSACK_MAX_PENDING_ATTACHMENTS", 10_000,
            " Attachments of one partner that may wait for their upload; one more is answered 429";
        abandoned_retention_seconds, "HAVERSACK_ABANDONED_RETENTION_SECONDS", 86_400,
            " How long an attachment that was never uploaded is still shown as failed";
        upload_grace_seconds, "HAVERSACK_UPLOAD_GRACE_SECONDS", 30,
            " How long an upload may be as slow as it likes";
        upload_min_bytes_per_second, "HAVERSACK_UPLOAD_MIN_BYTES_PER_SECOND", 32_768,
            " Slowest average rate of an upload after that time";
        idle_timeout_seconds, "HAVERSACK_IDLE_TIMEOUT_SECONDS", 30,
            " How long a transfer may go without a byte, in either direction";
        header_timeout_seconds, "HAVERSACK_HEADER_TIMEOUT_SECONDS", 10,
            " How long a connection may take to send a whole request header, from its start or from the last answer";
        max_header_bytes, "HAVERSACK_MAX_HEADER_BYTES", 16_384,
            " Largest request header, in bytes";
        max_json_bytes, "HAVERSACK_MAX_JSON_BYTES", 8_388_608,
            " Largest JSON body, in bytes";
        max_connections, "HAVERSACK_MAX_CONNECTIONS", 4096,
            " Connections at a time; further ones wait to be accepted";
        database_connections, "HAVERSACK_DATABASE_CONNECTIONS", 16,
            " Connections to PostgreSQL, and 8 more that are opened when files are looked at or converted; SQLite has 6";
        shutdown_grace_seconds, "HAVERSACK_SHUTDOWN_GRACE_SECONDS", 30,
            " How long running requests may take to finish after SIGTERM or Ctrl-C";
        fetch_max_bytes, "HAVERSACK_FETCH_MAX_BYTES", 10_485_760,
            " Largest file that is fetched from a media URL, in bytes";
        fetch_timeout_seconds, "HAVERSACK_FETCH_TIMEOUT_SECONDS", 30,
            " How long fetching one file may take, redirects included";
        fetch_idle_timeout_seconds, "HAVERSACK_FETCH_IDLE_TIMEOUT_SECONDS", 10,
            " How long its host may send nothing, before the header and between two pieces of the file";
        fetch_resolve_timeout_seconds, "HAVERSACK_FETCH_RESOLVE_TIMEOUT_SECONDS", 5,
            " How long finding the addresses of a host name may take";
        fetch_connect_timeout_seconds, "HAVERSACK_FETCH_CONNECT_TIMEOUT_SECONDS", 10,
            " How long making a TLS connection to the host may take";
        fetch_max_redirects, "HAVERSACK_FETCH_MAX_REDIRECTS", 5,
            " Redirects that are followed";
        fetch_max_header_bytes, "HAVERSACK_FETCH_MAX_HEADER_BYTES", 65_536,
            " Largest header of the host's answer, in bytes";
        fetch_max_concurrent, "HAVERSACK_FETCH_MAX_CONCURRENT", 64,
            " Files that are fetched at a time";
        fetch_max_concurrent_per_partner, "HAVERSACK_FETCH_MAX_CONCURRENT_PER_PARTNER", 16,
            " How many of them may be one partner's";
        fetch_max_waiting_per_partner, "HAVERSACK_FETCH_MAX_WAITING_PER_PARTNER", 128,
            " How many more of one partner may wait; one more is answered 503";
        fetch_queue_timeout_seconds, "HAVERSACK_FETCH_QUEUE_TIMEOUT_SECONDS", 30,
            " How long they may wait before they are answered 503";
        fetch_revalidate_seconds, "HAVERSACK_FETCH_REVALIDATE_SECONDS", 2_592_000,
            " How long a fetched file is remembered, so that its host may answer 304 instead of sending it again";
        max_temporary_bytes, "HAVERSACK_MAX_TEMPORARY_BYTES", 17_179_869_184,
            " Bytes of uploads and fetched files that are not stored yet; more are answered 503";
        max_temporary_bytes_per_partner, "HAVERSACK_MAX_TEMPORARY_BYTES_PER_PARTNER", 12_884_901_888,
            " How many of them may be one partner's";
        max_inspections, "HAVERSACK_MAX_INSPECTIONS", 4,
            " Files whose type is determined, or whose metadata is removed, at a time";
        max_inspections_per_partner, "HAVERSACK_MAX_INSPECTIONS_PER_PARTNER", 2,
            " How many of them may be one partner's";
        max_conversions, "HAVERSACK_MAX_CONVERSIONS", 4,
            " Files that decoder processes convert or analyse at a time";
        max_conversions_per_partner, "HAVERSACK_MAX_CONVERSIONS_PER_PARTNER", 1,
            " How many of them may be one partner's";
        rate_limit_messages, "HAVERSACK_RATE_LIMIT_MESSAGES", 30,
            " Messages from one line to one recipient in the time below; one more is answered 429";
        rate_limit_window_seconds, "HAVERSACK_RATE_LIMIT_WINDOW_SECONDS", 60,
            " The time that limit counts over";
        max_connections_per_address, "HAVERSACK_MAX_CONNECTIONS_PER_ADDRESS", 1024,
            " How many connections may be one client address's; further ones are answered 503 and closed";
        max_json_bytes_total, "HAVERSACK_MAX_JSON_BYTES_TOTAL", 67_108_864,
            " Bytes of all JSON bodies that are being read or handled; more are answered 503";
        max_json_bytes_per_address, "HAVERSACK_MAX_JSON_BYTES_PER_ADDRESS", 16_777_216,
            " How many of them may be one client address's";
        json_grace_seconds, "HAVERSACK_JSON_GRACE_SECONDS", 10,
            " How long the server waits for a JSON body that comes slower than the rate below";
        json_min_bytes_per_second, "HAVERSACK_JSON_MIN_BYTES_PER_SECOND", 32_768,
            " Least rate of a JSON body after that time";
        download_grace_seconds, "HAVERSACK_DOWNLOAD_GRACE_SECONDS", 30,
            " How long the server waits for a client that takes an answer slower than the rate below";
        download_min_bytes_per_second, "HAVERSACK_DOWNLOAD_MIN_BYTES_PER_SECOND", 2048,
            " Least rate at which a client must take an answer after that time";
        upload_stall_seconds, "HAVERSACK_UPLOAD_STALL_SECONDS", 5,
            " How long an upload must go without a byte before another upload to the same URL may replace it";
        audit_retention_days, "HAVERSACK_AUDIT_RETENTION_DAYS", 400,
            " How long the audit record of a deletion is kept; 0: for ever";
        idempotency_retention_days, "HAVERSACK_IDEMPOTENCY_RETENTION_DAYS", 30,
            " How long the answer of a send is kept under its idempotency key; after that the same key sends again; 0: for ever";
        max_large_bodies, "HAVERSACK_MAX_LARGE_BODIES", 2,
            " JSON bodies of more than 32 KiB that are parsed at a time: each takes a core for a moment";
        max_large_bodies_per_partner, "HAVERSACK_MAX_LARGE_BODIES_PER_PARTNER", 1,
            " How many of them may be one partner's";
        max_database_reads_per_partner, "HAVERSACK_MAX_DATABASE_READS_PER_PARTNER", 3,
            " SQLite: how many of the 4 connections that read for clients may be one partner's";
        max_database_writes, "HAVERSACK_MAX_DATABASE_WRITES", 256,
            " SQLite: writes that wait for the one writer or share its commit; one that writes much text counts as several";
        max_database_writes_per_partner, "HAVERSACK_MAX_DATABASE_WRITES_PER_PARTNER", 32,
            " How many of them may be one partner's; its further ones wait for these, and for 5 s at most";
        database_connections_per_partner, "HAVERSACK_DATABASE_CONNECTIONS_PER_PARTNER", 8,
            " PostgreSQL: how many of the connections may be in use for one partner; one of eight is kept for the server's own work";
    }
}
