//! Declares the log settings.

use clap::{Args, ValueEnum};

#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Log")]
pub struct LogConfig {
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
