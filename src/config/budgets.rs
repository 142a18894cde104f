//! The budgets of everything that strangers can make the server hold, from the settings.

use std::time::Duration;

use super::Limits;
use crate::{budget, db};

/// Sends of one partner that may wait for a conversion.
const MAX_QUEUED_CONVERSIONS: usize = 64;
/// Uploads and fetched files of one partner that may wait for their inspection. They hold temporary bytes and a task,
/// and come in bursts of as many as a partner has connections.
const MAX_QUEUED_INSPECTIONS: usize = 4096;
/// How long they may wait.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls of one partner that may wait for the database: as many as it can have connections.
const MAX_QUEUED_QUERIES: usize = 4096;
/// How long they may wait: as long as for a connection to PostgreSQL.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Names of one partner that are held at a time, each by a connection of its own ([`db::LOCK_CONNECTIONS`]).
const LOCKS_PER_PARTNER: u64 = 4;
/// How long to wait for one of them: they are held while files are inspected and copied.
const LOCK_TIMEOUT: Duration = Duration::from_mins(1);

/// Most bytes that the lists of a parsed body take beyond its text. The largest is a message: at most 101 parts are
/// kept, each with at most 101 decorations and 101 stickers of 88 bytes, in vectors that grew by doubling.
const MAX_JSON_OVERHEAD: u64 = 2_359_296;
/// Bytes of lists for each byte of text, as long as that is less: `"a",` in a list of recipients takes 24 and a heap
/// allocation.
const JSON_AMPLIFICATION: u64 = 16;

impl Limits {
    /// Bytes of JSON bodies that are being read or handled, by client address.
    #[must_use]
    pub fn json_bytes(&self) -> budget::Limits {
        budget::Limits::without_queue(self.max_json_bytes_total, self.max_json_bytes_per_address)
    }

    /// Bytes that the lists of a body of `text` bytes can take once it is parsed, beyond the text itself.
    #[must_use]
    pub fn json_overhead(text: u64) -> u64 {
        text.saturating_mul(JSON_AMPLIFICATION)
            .min(MAX_JSON_OVERHEAD)
    }

    /// What a body of the largest size takes of the budget.
    pub(super) fn largest_json(&self) -> u64 {
        self.max_json_bytes
            .saturating_add(Self::json_overhead(self.max_json_bytes))
    }

    /// Connections, by client address.
    #[must_use]
    pub fn connections(&self) -> budget::Limits {
        budget::Limits::without_queue(self.max_connections, self.max_connections_per_address)
    }

    /// Running requests that came through a trusted proxy, by client address: the same share as of connections.
    #[must_use]
    pub fn proxied_requests(&self) -> budget::Limits {
        budget::Limits::without_queue(self.max_connections, self.max_connections_per_address)
    }

    /// Media URLs that are fetched at a time, by partner.
    #[must_use]
    pub fn fetches(&self) -> budget::Limits {
        budget::Limits {
            total: self.fetch_max_concurrent,
            share: self.fetch_max_concurrent_per_partner,
            max_queued: usize::try_from(self.fetch_max_waiting_per_partner).unwrap_or(usize::MAX),
            queue_timeout: Duration::from_secs(self.fetch_queue_timeout_seconds),
        }
    }

    /// Bytes of uploads and fetched files that are not stored yet, by partner.
    #[must_use]
    pub fn temporary_bytes(&self) -> budget::Limits {
        budget::Limits::without_queue(
            self.max_temporary_bytes,
            self.max_temporary_bytes_per_partner,
        )
    }

    /// Decoder processes that run at a time, by partner.
    #[must_use]
    pub fn conversions(&self) -> budget::Limits {
        budget::Limits {
            total: self.max_conversions,
            share: self.max_conversions_per_partner,
            max_queued: MAX_QUEUED_CONVERSIONS,
            queue_timeout: QUEUE_TIMEOUT,
        }
    }

    /// Files that are inspected at a time, by partner. Each takes a thread and, if it is all text, a core for a moment.
    #[must_use]
    pub fn inspections(&self) -> budget::Limits {
        budget::Limits {
            total: self.max_inspections,
            share: self.max_inspections_per_partner,
            max_queued: MAX_QUEUED_INSPECTIONS,
            queue_timeout: QUEUE_TIMEOUT,
        }
    }

    /// Large JSON bodies that are parsed at a time, by partner. Each takes a core for a moment, on which others wait.
    #[must_use]
    pub fn large_bodies(&self) -> budget::Limits {
        budget::Limits {
            total: self.max_large_bodies,
            share: self.max_large_bodies_per_partner,
            max_queued: MAX_QUEUED_QUERIES,
            queue_timeout: QUEUE_TIMEOUT,
        }
    }

    /// Connections that read SQLite at a time, by partner. One more is for the server's own work.
    #[must_use]
    pub fn database_reads(&self) -> budget::Limits {
        queries(
            u64::from(db::SQLITE_READERS) - 1,
            self.max_database_reads_per_partner,
        )
    }

    /// Writes that wait for SQLite's one writer or share its commit, by partner.
    #[must_use]
    pub fn database_writes(&self) -> budget::Limits {
        queries(
            self.max_database_writes,
            self.max_database_writes_per_partner,
        )
    }

    /// Connections to PostgreSQL in use at a time, by partner. The others are for the server's own work.
    #[must_use]
    pub fn database_connections(&self) -> budget::Limits {
        let own = (self.database_connections / 8).max(1);
        queries(
            self.database_connections.saturating_sub(own).max(1),
            self.database_connections_per_partner,
        )
    }

    /// Names that are held for longer than a transaction takes, by partner.
    #[must_use]
    pub fn database_locks(&self) -> budget::Limits {
        let total = u64::from(db::LOCK_CONNECTIONS) - 1;
        budget::Limits {
            queue_timeout: LOCK_TIMEOUT,
            ..queries(total, LOCKS_PER_PARTNER)
        }
    }
}

fn queries(total: u64, share: u64) -> budget::Limits {
    budget::Limits {
        total,
        share: share.min(total),
        max_queued: MAX_QUEUED_QUERIES,
        queue_timeout: QUERY_TIMEOUT,
    }
}
