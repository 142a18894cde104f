//! The settings, in groups. The doc comment of a field is its help text and its row in
//! `docs/reference/configuration.md`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use url::Url;

use crate::domain::base_url::BaseUrl;
use crate::setting::{List, MAX_COUNT, Retention, number, retention_days, seconds};

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Connections")]
pub struct ServerSettings {
    /// Address and port to listen on; port 0 selects a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Networks of reverse proxies whose `Forwarded` or `X-Forwarded-For` header names the client, such as
    /// `127.0.0.1/32,10.1.0.0/16`
    #[arg(long, value_name = "NETWORKS", default_value = "")]
    pub trusted_proxies: List<IpNet>,
    /// Maximum number of open connections; further ones wait to be accepted
    #[arg(long, default_value_t = 4096, value_parser = number::<u64>(1..))]
    pub max_connections: u64,
    /// Maximum number of connections from one client address; further ones get 503 and are closed
    #[arg(long, default_value_t = 1024, value_parser = number::<u64>(1..))]
    pub max_connections_per_address: u64,
    /// Time allowed for a whole request header, from the start of the connection or the last response
    #[arg(id = "header-timeout-seconds", long, default_value = "10", value_parser = seconds(1))]
    pub header_timeout: Duration,
    // hyper refuses a smaller buffer.
    /// Maximum size of a request header, in bytes
    #[arg(long, default_value_t = 16_384, value_parser = number::<usize>(8192..))]
    pub max_header_bytes: usize,
    /// Time allowed without a byte in a transfer, in either direction
    #[arg(id = "idle-timeout-seconds", long, default_value = "30", value_parser = seconds(1))]
    pub idle_timeout: Duration,
    /// Time a client may fall behind the minimum rate of a download
    #[arg(id = "download-grace-seconds", long, default_value = "30", value_parser = seconds(0))]
    pub download_grace: Duration,
    /// Minimum rate at which a client must read a response, in bytes per second
    #[arg(long, default_value_t = 2048, value_parser = number::<u64>(1..))]
    pub download_min_bytes_per_second: u64,
    /// Time running requests have to finish after SIGTERM or Ctrl-C
    #[arg(id = "shutdown-grace-seconds", long, default_value = "30", value_parser = seconds(0))]
    pub shutdown_grace: Duration,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "JSON bodies")]
pub struct JsonSettings {
    /// Maximum size of a JSON body, in bytes
    #[arg(id = "max-json-bytes", long, default_value_t = 8_388_608, value_parser = number::<u64>(1024..))]
    pub max_bytes: u64,
    /// Maximum total size of the JSON bodies being read or handled, in bytes; further ones get 503
    #[arg(id = "max-json-bytes-total", long, default_value_t = 67_108_864, value_parser = number::<u64>(1..))]
    pub max_bytes_total: u64,
    /// Maximum total size of the JSON bodies from one client address, in bytes; further ones get 503
    #[arg(id = "max-json-bytes-per-address", long, default_value_t = 16_777_216, value_parser = number::<u64>(1..))]
    pub max_bytes_per_address: u64,
    /// Time a client may fall behind the minimum rate of a JSON body
    #[arg(id = "json-grace-seconds", long, default_value = "10", value_parser = seconds(1))]
    pub grace: Duration,
    /// Minimum rate of a JSON body, in bytes per second
    #[arg(id = "json-min-bytes-per-second", long, default_value_t = 32_768, value_parser = number::<u64>(1..))]
    pub min_bytes_per_second: u64,
    /// Maximum number of JSON bodies over 32 KiB parsed at the same time; each occupies a core briefly
    #[arg(long, default_value_t = 2, value_parser = number::<u64>(1..))]
    pub max_large_json_bodies: u64,
    /// Maximum number of JSON bodies over 32 KiB from one partner parsed at the same time
    #[arg(long, default_value_t = 1, value_parser = number::<u64>(1..))]
    pub max_large_json_bodies_per_partner: u64,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Public URLs")]
pub struct UrlSettings {
    /// Base of API and upload URLs; by default `http://` and the listen address
    #[arg(long)]
    pub public_url: Option<BaseUrl>,
    /// Base of file URLs, by default the public URL; requests for a host of its own get files only
    #[arg(long)]
    pub cdn_url: Option<BaseUrl>,
    /// Delivery of files that are stored in a bucket
    #[arg(long, value_enum, default_value_t = CdnMode::Proxy)]
    pub cdn_mode: CdnMode,
}

/// How files in a bucket are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CdnMode {
    /// Through this server
    Proxy,
    /// By a redirect to a signed URL of the bucket
    Redirect,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Storage")]
pub struct StorageSettings {
    /// Data folder: everything that is not in a database or blob store of its own
    #[arg(long, value_name = "DIR", default_value = "haversack-data")]
    pub data_dir: PathBuf,
    /// Database, as `sqlite:///path?mode=rwc` or `postgres://user:password@host/name`; by default
    /// `haversack.db` in the data folder
    #[arg(long, value_parser = super::database_url)]
    pub database_url: Option<Url>,
    /// Blob store: a folder, as `file:/path`, or a bucket, as `s3://bucket/prefix?region=...&endpoint=...`;
    /// by default the data folder
    #[arg(long)]
    pub blobs_url: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// PostgreSQL: maximum number of connections, besides 8 for locks on files
    #[arg(id = "database-connections", long, default_value_t = 16, value_parser = number::<u64>(1..=MAX_COUNT))]
    pub connections: u64,
    /// PostgreSQL: maximum number of connections used for one partner; one in eight is reserved for the server
    #[arg(id = "database-connections-per-partner", long, default_value_t = 8, value_parser = number::<u64>(1..))]
    pub connections_per_partner: u64,
    /// SQLite: maximum number of the 4 read connections for clients that are used for one partner
    #[arg(id = "max-database-reads-per-partner", long, default_value_t = 3, value_parser = number::<u64>(1..))]
    pub max_reads_per_partner: u64,
    /// SQLite: maximum number of writes that wait for the writer or share its commit; a large write counts as
    /// several
    #[arg(id = "max-database-writes", long, default_value_t = 256, value_parser = number::<u64>(1..))]
    pub max_writes: u64,
    /// SQLite: maximum number of such writes for one partner; further ones wait for at most 5 s
    #[arg(id = "max-database-writes-per-partner", long, default_value_t = 32, value_parser = number::<u64>(1..))]
    pub max_writes_per_partner: u64,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Uploads")]
pub struct AttachmentSettings {
    /// Maximum size of a file, in bytes
    #[arg(long, default_value_t = 104_857_600, value_parser = number::<u64>(1..))]
    pub max_upload_bytes: u64,
    /// Lifetime of an upload URL; an upload that starts in time may finish later
    #[arg(id = "upload-url-ttl-seconds", long, default_value = "900", value_parser = seconds(1))]
    pub upload_url_ttl: Duration,
    /// Maximum number of attachments of one partner that await their upload; further ones get 429
    #[arg(long, default_value_t = 10_000, value_parser = number::<u64>(1..))]
    pub max_pending_attachments: u64,
    /// Time from the start of an upload until its minimum rate applies
    #[arg(id = "upload-grace-seconds", long, default_value = "30", value_parser = seconds(0))]
    pub upload_grace: Duration,
    /// Minimum average rate of an upload, in bytes per second
    #[arg(long, default_value_t = 32_768, value_parser = number::<u64>(1..))]
    pub upload_min_bytes_per_second: u64,
    /// Time without a byte after which another upload to the same URL may replace this one
    #[arg(id = "upload-stall-seconds", long, default_value = "5", value_parser = seconds(0))]
    pub upload_stall: Duration,
    /// Maximum total size of uploads and fetched files that are not stored yet, in bytes; further ones get 503
    #[arg(long, default_value_t = 17_179_869_184, value_parser = number::<u64>(1..))]
    pub max_temporary_bytes: u64,
    /// Maximum total size of such files of one partner, in bytes; further ones get 503
    #[arg(long, default_value_t = 12_884_901_888, value_parser = number::<u64>(1..))]
    pub max_temporary_bytes_per_partner: u64,
    /// Maximum number of files inspected at the same time: type detection and removal of metadata
    #[arg(long, default_value_t = 4, value_parser = number::<u64>(1..))]
    pub max_inspections: u64,
    /// Maximum number of files of one partner inspected at the same time
    #[arg(long, default_value_t = 2, value_parser = number::<u64>(1..))]
    pub max_inspections_per_partner: u64,
    /// Remove locations and serial numbers from images and videos before they are stored
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set, default_value_t = false)]
    pub strip_private_metadata: bool,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Conversion")]
pub struct ConversionSettings {
    /// The ffmpeg program, which converts CAF to M4A, by path or by name in `PATH`; `none` disables it
    #[arg(long, value_name = "PROGRAM", default_value = "ffmpeg")]
    pub ffmpeg: PathBuf,
    /// Maximum number of files that decoder processes convert or analyse at the same time
    #[arg(long, default_value_t = 4, value_parser = number::<u64>(1..))]
    pub max_conversions: u64,
    /// Maximum number of files of one partner converted or analysed at the same time
    #[arg(long, default_value_t = 1, value_parser = number::<u64>(1..))]
    pub max_conversions_per_partner: u64,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Media URLs")]
pub struct FetchSettings {
    /// Networks that media URLs may reach although they are not public, such as `127.0.0.0/8,10.1.0.0/16`
    #[arg(
        id = "fetch-allow-nets",
        long,
        value_name = "NETWORKS",
        default_value = ""
    )]
    pub allow_nets: List<IpNet>,
    /// Ports that media URLs may name besides 443, such as `8443,9443`
    #[arg(
        id = "fetch-allow-ports",
        long,
        value_name = "PORTS",
        default_value = ""
    )]
    pub allow_ports: List<u16>,
    /// PEM file of certificate authorities trusted for media URLs besides the public ones
    #[arg(id = "fetch-ca-file", long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Maximum size of a fetched file, in bytes
    #[arg(id = "fetch-max-bytes", long, default_value_t = 10_485_760, value_parser = number::<u64>(1..))]
    pub max_bytes: u64,
    /// Time allowed for fetching one file, including redirects
    #[arg(id = "fetch-timeout-seconds", long, default_value = "30", value_parser = seconds(1))]
    pub timeout: Duration,
    /// Time an origin may send nothing, before the response header and between parts of the file
    #[arg(id = "fetch-idle-timeout-seconds", long, default_value = "10", value_parser = seconds(1))]
    pub idle_timeout: Duration,
    /// Time allowed for resolving a host name
    #[arg(id = "fetch-resolve-timeout-seconds", long, default_value = "5", value_parser = seconds(1))]
    pub resolve_timeout: Duration,
    /// Time allowed for a TLS connection to the origin
    #[arg(id = "fetch-connect-timeout-seconds", long, default_value = "10", value_parser = seconds(1))]
    pub connect_timeout: Duration,
    /// Maximum number of redirects followed
    #[arg(id = "fetch-max-redirects", long, default_value_t = 5, value_parser = number::<usize>(..=MAX_COUNT))]
    pub max_redirects: usize,
    // hyper refuses a smaller buffer.
    /// Maximum size of an origin's response header, in bytes
    #[arg(
        id = "fetch-max-header-bytes", long, default_value_t = 65_536, value_parser = number::<usize>(8192..=MAX_COUNT)
    )]
    pub max_header_bytes: usize,
    /// Maximum number of files fetched at the same time
    #[arg(id = "fetch-max-concurrent", long, default_value_t = 64, value_parser = number::<u64>(1..=MAX_COUNT))]
    pub max_concurrent: u64,
    /// Maximum number of files fetched at the same time for one partner
    #[arg(
        id = "fetch-max-concurrent-per-partner", long, default_value_t = 16, value_parser = number::<u64>(1..=MAX_COUNT)
    )]
    pub max_concurrent_per_partner: u64,
    /// Maximum number of fetches of one partner that wait; further ones get 503
    #[arg(
        id = "fetch-max-queued-per-partner", long, default_value_t = 128, value_parser = number::<usize>(1..=MAX_COUNT)
    )]
    pub max_queued_per_partner: usize,
    /// Time a fetch may wait before it gets 503
    #[arg(id = "fetch-queue-timeout-seconds", long, default_value = "30", value_parser = seconds(1))]
    pub queue_timeout: Duration,
    /// Time the validators of a fetched file are kept, so that its origin can answer 304 instead of the file
    #[arg(id = "fetch-revalidate-seconds", long, default_value = "2592000", value_parser = seconds(0))]
    pub revalidate: Duration,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Sending")]
pub struct SendSettings {
    /// Maximum number of messages from one line to one recipient within the window; further ones get 429
    #[arg(long, default_value_t = 30, value_parser = number::<u64>(1..))]
    pub rate_limit_messages: u64,
    /// Length of that window; 0 disables the rate limit
    #[arg(id = "rate-limit-window-seconds", long, default_value = "60", value_parser = seconds(0))]
    pub rate_limit_window: Duration,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Retention")]
pub struct RetentionSettings {
    /// Time a failed attachment, rejected or never uploaded, stays visible
    #[arg(
        id = "failed-attachment-retention-seconds", long, default_value = "86400", value_parser = seconds(0)
    )]
    pub failed_attachments: Duration,
    /// Time the response to a send is kept under its idempotency key, in days; 0 keeps it forever
    #[arg(id = "idempotency-retention-days", long, default_value = "30", value_parser = retention_days)]
    pub idempotency: Retention,
    /// Time the audit record of a deletion is kept, in days; 0 keeps it forever
    #[arg(id = "audit-retention-days", long, default_value = "400", value_parser = retention_days)]
    pub audit_records: Retention,
}

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Log")]
pub struct LogSettings {
    /// Log filter: a level, or `target=level` pairs separated by commas
    #[arg(id = "log", long, value_name = "FILTER", default_value = "info")]
    pub filter: String,
    /// Format of log lines
    #[arg(id = "log-format", long, value_enum, default_value_t = LogFormat::Text)]
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text
    Text,
    /// One JSON object per line
    Json,
}
