//! Defines the settings for attachments: size limits, upload pace, and delivery.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::budget;
use crate::pace::Pace;
use crate::setting::{number, seconds};

/// Maximum number of one partner's files that wait to be inspected. Each occupies temporary bytes
/// and a task. They arrive in bursts, with one file for each of the partner's connections.
const MAX_QUEUED_INSPECTIONS: usize = 4096;
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Uploads")]
pub struct Config {
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
    /// Maximum total size of uploads and fetched files that are not stored yet, in bytes; further
    /// ones get 503
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
    /// Delivery of files that are stored in a bucket
    #[arg(long, value_enum, default_value_t = CdnMode::Proxy, help_heading = "Public URLs")]
    pub cdn_mode: CdnMode,
    /// The setting of connections with this name.
    #[arg(skip)]
    pub idle_timeout: Duration,
}

/// How files in a bucket are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CdnMode {
    /// Through this server
    Proxy,
    /// By a redirect to a signed URL of the bucket
    Redirect,
}

impl Config {
    /// Returns the minimum rate of an upload, with the grace period before it applies.
    pub(super) fn upload_pace(&self) -> Pace {
        let (grace, rate) = (self.upload_grace, self.upload_min_bytes_per_second);
        Pace::average(self.idle_timeout, grace, rate)
    }

    /// Returns how long an upload of the maximum size takes at the minimum rate.
    pub(super) fn max_upload_duration(&self) -> Duration {
        let seconds = self.max_upload_bytes / self.upload_min_bytes_per_second.max(1);
        Duration::from_secs(seconds) + self.upload_grace + self.idle_timeout
    }

    /// Returns the limits, in total and per partner, on the bytes of received files that are not
    /// stored yet.
    pub(super) fn temporary_bytes(&self) -> budget::Limits {
        budget::Limits::without_queue(
            self.max_temporary_bytes,
            self.max_temporary_bytes_per_partner,
        )
    }

    /// Returns the limits, in total and per partner, on files inspected at the same time. An
    /// inspection occupies a thread and, for a text file, briefly a core.
    pub(super) fn inspections(&self) -> budget::Limits {
        budget::Limits {
            total: self.max_inspections,
            share: self.max_inspections_per_partner,
            max_queued: MAX_QUEUED_INSPECTIONS,
            queue_timeout: INSPECTION_TIMEOUT,
        }
    }
}
