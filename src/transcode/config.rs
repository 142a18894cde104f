//! Defines the settings of file conversions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::budget;
use crate::setting::number;

/// Maximum number of a partner's conversions that wait for a permit.
const MAX_QUEUED: usize = 64;
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Conversion")]
pub struct Config {
    /// The ffmpeg program, which converts CAF to M4A, by path or by name in `PATH`; `none` disables
    /// it
    #[arg(long, value_name = "PROGRAM", default_value = "ffmpeg")]
    pub ffmpeg: PathBuf,
    /// Maximum number of files that decoder processes convert or analyse at the same time
    #[arg(long, default_value_t = 4, value_parser = number::<u64>(1..))]
    pub max_conversions: u64,
    /// Maximum number of files of one partner converted or analysed at the same time
    #[arg(long, default_value_t = 1, value_parser = number::<u64>(1..))]
    pub max_conversions_per_partner: u64,
}

impl Config {
    /// Returns the path or name of the ffmpeg program, or `None` if ffmpeg is disabled.
    pub(crate) fn ffmpeg(&self) -> Option<&Path> {
        Some(self.ffmpeg.as_path()).filter(|program| *program != Path::new("none"))
    }

    /// Returns the limits on running and waiting decoder processes, in total and per partner.
    pub(crate) fn conversions(&self) -> budget::Limits {
        budget::Limits {
            total: self.max_conversions,
            share: self.max_conversions_per_partner,
            max_queued: MAX_QUEUED,
            queue_timeout: QUEUE_TIMEOUT,
        }
    }
}
