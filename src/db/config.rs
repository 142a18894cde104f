//! Defines the database settings and the limits of database use per partner.

use std::time::Duration;

use clap::Args;
use url::Url;

use super::{Engine, LOCK_CONNECTIONS, SQLITE_READERS};
use crate::budget;
use crate::setting::{MAX_COUNT, number};

/// Maximum number of calls that wait for the database per partner: as many as a partner can have
/// connections.
const MAX_QUEUED: usize = 4096;
/// Maximum wait of a call in a budget's queue. Equal to the maximum wait for a connection to
/// PostgreSQL.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of named locks held for one partner; each lock occupies a connection.
const LOCKS_PER_PARTNER: u64 = 4;
/// Maximum wait for a named lock. It is long because locks are held while files are inspected and
/// copied.
const LOCK_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Args, Clone, Copy, Debug)]
#[group(skip)]
#[command(next_help_heading = "Database")]
pub struct Config {
    /// PostgreSQL: maximum number of connections, besides 8 for locks on files
    #[arg(
        id = "database-connections", long, default_value_t = 16,
        value_parser = number::<u32>(1..=MAX_COUNT)
    )]
    pub connections: u32,
    /// PostgreSQL: maximum number of connections used for one partner; one in eight is reserved for
    /// the server
    #[arg(
        id = "database-connections-per-partner", long, default_value_t = 8,
        value_parser = number::<u64>(1..)
    )]
    pub connections_per_partner: u64,
    /// SQLite: maximum number of the 4 read connections for clients that are used for one partner
    #[arg(
        id = "max-database-reads-per-partner", long, default_value_t = 3,
        value_parser = number::<u64>(1..)
    )]
    pub max_reads_per_partner: u64,
    /// SQLite: maximum number of writes that wait for the writer or share its commit; a large write
    /// counts as several
    #[arg(
        id = "max-database-writes", long, default_value_t = 256, value_parser = number::<u64>(1..)
    )]
    pub max_writes: u64,
    /// SQLite: maximum number of such writes for one partner; further ones wait for at most 5 s
    #[arg(
        id = "max-database-writes-per-partner", long, default_value_t = 32,
        value_parser = number::<u64>(1..)
    )]
    pub max_writes_per_partner: u64,
}

impl Config {
    /// Returns the limits of connections that read SQLite. One more is reserved for the server's
    /// own work.
    pub(super) fn read_limits(&self) -> budget::Limits {
        limits(u64::from(SQLITE_READERS) - 1, self.max_reads_per_partner)
    }

    /// Returns the limits of writes that wait for the writer of SQLite or share its commit.
    pub(super) fn write_limits(&self) -> budget::Limits {
        limits(self.max_writes, self.max_writes_per_partner)
    }

    /// Returns the limits of connections to PostgreSQL in use. The others are reserved for the
    /// server's own work.
    pub(super) fn connection_limits(&self) -> budget::Limits {
        let connections = u64::from(self.connections);
        let reserved = (connections / 8).max(1);
        limits(
            connections.saturating_sub(reserved).max(1),
            self.connections_per_partner,
        )
    }

    /// Returns the limits of named locks on PostgreSQL.
    pub(super) fn lock_limits() -> budget::Limits {
        budget::Limits {
            queue_timeout: LOCK_TIMEOUT,
            ..limits(u64::from(LOCK_CONNECTIONS) - 1, LOCKS_PER_PARTNER)
        }
    }
}

fn limits(total: u64, share: u64) -> budget::Limits {
    budget::Limits {
        total,
        share: share.min(total),
        max_queued: MAX_QUEUED,
        queue_timeout: QUEUE_TIMEOUT,
    }
}

/// Parses the URL of a database. The errors do not quote it, as it may hold a password.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
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
