//! What limits can be, and what follows from them.

use std::time::Duration;

use super::{Error, Limits};
use crate::fetch;
use crate::pace::Pace;

/// The longest time a setting can name, in seconds.
const LONGEST: u64 = 10 * 365 * 24 * 3600;
const DAY: u64 = 24 * 3600;
/// The most that a setting can count of what costs memory.
const MOST: u64 = 1_000_000;

impl Limits {
    pub(super) fn check(&self) -> Result<(), Error> {
        let at_least = |setting, value: u64, least: u64| {
            if value >= least {
                return Ok(());
            }
            Err(Error::Invalid {
                setting,
                problem: format!("must be at least {least}, not {value}"),
            })
        };
        at_least("HAVERSACK_MAX_UPLOAD_BYTES", self.max_upload_bytes, 1)?;
        at_least(
            "HAVERSACK_UPLOAD_URL_TTL_SECONDS",
            self.upload_url_ttl_seconds,
            1,
        )?;
        at_least(
            "HAVERSACK_MAX_PENDING_ATTACHMENTS",
            self.max_pending_attachments,
            1,
        )?;
        at_least("HAVERSACK_MAX_JSON_BYTES", self.max_json_bytes, 1024)?;
        at_least("HAVERSACK_MAX_CONNECTIONS", self.max_connections, 1)?;
        at_least(
            "HAVERSACK_MAX_CONNECTIONS_PER_ADDRESS",
            self.max_connections_per_address,
            1,
        )?;
        // A body of the largest size must fit.
        at_least(
            "HAVERSACK_MAX_JSON_BYTES_TOTAL",
            self.max_json_bytes_total,
            self.largest_json(),
        )?;
        at_least(
            "HAVERSACK_MAX_JSON_BYTES_PER_ADDRESS",
            self.max_json_bytes_per_address,
            self.largest_json(),
        )?;
        at_least("HAVERSACK_JSON_GRACE_SECONDS", self.json_grace_seconds, 1)?;
        at_least(
            "HAVERSACK_JSON_MIN_BYTES_PER_SECOND",
            self.json_min_bytes_per_second,
            1,
        )?;
        at_least(
            "HAVERSACK_DOWNLOAD_MIN_BYTES_PER_SECOND",
            self.download_min_bytes_per_second,
            1,
        )?;
        // hyper refuses a smaller buffer.
        at_least("HAVERSACK_MAX_HEADER_BYTES", self.max_header_bytes, 8192)?;
        at_least(
            "HAVERSACK_HEADER_TIMEOUT_SECONDS",
            self.header_timeout_seconds,
            1,
        )?;
        at_least(
            "HAVERSACK_IDLE_TIMEOUT_SECONDS",
            self.idle_timeout_seconds,
            1,
        )?;
        at_least("HAVERSACK_RATE_LIMIT_MESSAGES", self.rate_limit_messages, 1)?;
        at_least("HAVERSACK_FETCH_MAX_BYTES", self.fetch_max_bytes, 1)?;
        at_least(
            "HAVERSACK_FETCH_TIMEOUT_SECONDS",
            self.fetch_timeout_seconds,
            1,
        )?;
        at_least(
            "HAVERSACK_FETCH_IDLE_TIMEOUT_SECONDS",
            self.fetch_idle_timeout_seconds,
            1,
        )?;
        at_least(
            "HAVERSACK_FETCH_RESOLVE_TIMEOUT_SECONDS",
            self.fetch_resolve_timeout_seconds,
            1,
        )?;
        at_least(
            "HAVERSACK_FETCH_CONNECT_TIMEOUT_SECONDS",
            self.fetch_connect_timeout_seconds,
            1,
        )?;
        // hyper refuses a smaller buffer.
        at_least(
            "HAVERSACK_FETCH_MAX_HEADER_BYTES",
            self.fetch_max_header_bytes,
            8192,
        )?;
        at_least(
            "HAVERSACK_FETCH_MAX_CONCURRENT",
            self.fetch_max_concurrent,
            1,
        )?;
        at_least(
            "HAVERSACK_FETCH_MAX_CONCURRENT_PER_PARTNER",
            self.fetch_max_concurrent_per_partner,
            1,
        )?;
        at_least(
            "HAVERSACK_FETCH_MAX_WAITING_PER_PARTNER",
            self.fetch_max_waiting_per_partner,
            1,
        )?;
        at_least(
            "HAVERSACK_FETCH_QUEUE_TIMEOUT_SECONDS",
            self.fetch_queue_timeout_seconds,
            1,
        )?;
        at_least("HAVERSACK_MAX_TEMPORARY_BYTES", self.max_temporary_bytes, 1)?;
        at_least(
            "HAVERSACK_MAX_TEMPORARY_BYTES_PER_PARTNER",
            self.max_temporary_bytes_per_partner,
            1,
        )?;
        at_least("HAVERSACK_MAX_INSPECTIONS", self.max_inspections, 1)?;
        at_least(
            "HAVERSACK_MAX_INSPECTIONS_PER_PARTNER",
            self.max_inspections_per_partner,
            1,
        )?;
        at_least("HAVERSACK_MAX_CONVERSIONS", self.max_conversions, 1)?;
        at_least(
            "HAVERSACK_MAX_CONVERSIONS_PER_PARTNER",
            self.max_conversions_per_partner,
            1,
        )?;
        at_least("HAVERSACK_MAX_LARGE_BODIES", self.max_large_bodies, 1)?;
        at_least(
            "HAVERSACK_MAX_LARGE_BODIES_PER_PARTNER",
            self.max_large_bodies_per_partner,
            1,
        )?;
        at_least(
            "HAVERSACK_MAX_DATABASE_READS_PER_PARTNER",
            self.max_database_reads_per_partner,
            1,
        )?;
        at_least("HAVERSACK_MAX_DATABASE_WRITES", self.max_database_writes, 1)?;
        at_least(
            "HAVERSACK_MAX_DATABASE_WRITES_PER_PARTNER",
            self.max_database_writes_per_partner,
            1,
        )?;
        at_least(
            "HAVERSACK_DATABASE_CONNECTIONS_PER_PARTNER",
            self.database_connections_per_partner,
            1,
        )?;
        for (setting, count) in [
            ("HAVERSACK_FETCH_MAX_REDIRECTS", self.fetch_max_redirects),
            (
                "HAVERSACK_FETCH_MAX_HEADER_BYTES",
                self.fetch_max_header_bytes,
            ),
            ("HAVERSACK_FETCH_MAX_CONCURRENT", self.fetch_max_concurrent),
            (
                "HAVERSACK_FETCH_MAX_CONCURRENT_PER_PARTNER",
                self.fetch_max_concurrent_per_partner,
            ),
            (
                "HAVERSACK_FETCH_MAX_WAITING_PER_PARTNER",
                self.fetch_max_waiting_per_partner,
            ),
        ] {
            if count > MOST {
                return Err(Error::Invalid {
                    setting,
                    problem: format!("must be at most {MOST}, not {count}"),
                });
            }
        }
        for (setting, seconds) in [
            (
                "HAVERSACK_UPLOAD_URL_TTL_SECONDS",
                self.upload_url_ttl_seconds,
            ),
            (
                "HAVERSACK_ABANDONED_RETENTION_SECONDS",
                self.abandoned_retention_seconds,
            ),
            ("HAVERSACK_UPLOAD_GRACE_SECONDS", self.upload_grace_seconds),
            ("HAVERSACK_IDLE_TIMEOUT_SECONDS", self.idle_timeout_seconds),
            (
                "HAVERSACK_HEADER_TIMEOUT_SECONDS",
                self.header_timeout_seconds,
            ),
            (
                "HAVERSACK_SHUTDOWN_GRACE_SECONDS",
                self.shutdown_grace_seconds,
            ),
            (
                "HAVERSACK_RATE_LIMIT_WINDOW_SECONDS",
                self.rate_limit_window_seconds,
            ),
            (
                "HAVERSACK_FETCH_TIMEOUT_SECONDS",
                self.fetch_timeout_seconds,
            ),
            (
                "HAVERSACK_FETCH_IDLE_TIMEOUT_SECONDS",
                self.fetch_idle_timeout_seconds,
            ),
            (
                "HAVERSACK_FETCH_RESOLVE_TIMEOUT_SECONDS",
                self.fetch_resolve_timeout_seconds,
            ),
            (
                "HAVERSACK_FETCH_CONNECT_TIMEOUT_SECONDS",
                self.fetch_connect_timeout_seconds,
            ),
            (
                "HAVERSACK_FETCH_QUEUE_TIMEOUT_SECONDS",
                self.fetch_queue_timeout_seconds,
            ),
            (
                "HAVERSACK_FETCH_REVALIDATE_SECONDS",
                self.fetch_revalidate_seconds,
            ),
            ("HAVERSACK_JSON_GRACE_SECONDS", self.json_grace_seconds),
            (
                "HAVERSACK_DOWNLOAD_GRACE_SECONDS",
                self.download_grace_seconds,
            ),
            ("HAVERSACK_UPLOAD_STALL_SECONDS", self.upload_stall_seconds),
        ] {
            if seconds > LONGEST {
                let problem = format!("must be at most {LONGEST} (ten years), not {seconds}");
                return Err(Error::Invalid { setting, problem });
            }
        }
        for (setting, days) in [
            ("HAVERSACK_AUDIT_RETENTION_DAYS", self.audit_retention_days),
            (
                "HAVERSACK_IDEMPOTENCY_RETENTION_DAYS",
                self.idempotency_retention_days,
            ),
        ] {
            if days > LONGEST / DAY {
                let problem = format!(
                    "must be at most {} (ten years), not {days}; 0 is for ever",
                    LONGEST / DAY
                );
                return Err(Error::Invalid { setting, problem });
            }
        }
        // A file of any size would take longer than any time there is.
        at_least(
            "HAVERSACK_UPLOAD_MIN_BYTES_PER_SECOND",
            self.upload_min_bytes_per_second,
            1,
        )
    }

    /// How long an upload URL is good.
    #[must_use]
    pub fn upload_url_ttl(&self) -> Duration {
        Duration::from_secs(self.upload_url_ttl_seconds)
    }

    /// How long audit records of deletions are kept; `None`: for ever.
    #[must_use]
    pub fn audit_retention(&self) -> Option<Duration> {
        days(self.audit_retention_days)
    }

    /// How long answers are kept under idempotency keys; `None`: for ever.
    #[must_use]
    pub fn idempotency_retention(&self) -> Option<Duration> {
        days(self.idempotency_retention_days)
    }

    /// How long one transfer may go without a byte.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    /// Least rate of a JSON body.
    pub(crate) fn json_pace(&self) -> Pace {
        let grace = Duration::from_secs(self.json_grace_seconds);
        Pace::sustained(self.idle_timeout(), grace, self.json_min_bytes_per_second)
    }

    /// Least rate at which a client takes an answer.
    pub(crate) fn download_pace(&self) -> Pace {
        let grace = Duration::from_secs(self.download_grace_seconds);
        Pace::sustained(
            self.idle_timeout(),
            grace,
            self.download_min_bytes_per_second,
        )
    }

    /// Silence after which an upload gives way to another one of the same attachment.
    #[must_use]
    pub fn upload_stall(&self) -> Duration {
        Duration::from_secs(self.upload_stall_seconds)
    }

    /// The limits of fetching.
    #[must_use]
    pub fn fetch(&self) -> fetch::Limits {
        let count = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        fetch::Limits {
            max_bytes: self.fetch_max_bytes,
            timeout: Duration::from_secs(self.fetch_timeout_seconds),
            idle_timeout: Duration::from_secs(self.fetch_idle_timeout_seconds),
            resolve_timeout: Duration::from_secs(self.fetch_resolve_timeout_seconds),
            connect_timeout: Duration::from_secs(self.fetch_connect_timeout_seconds),
            max_redirects: count(self.fetch_max_redirects),
            max_header_bytes: count(self.fetch_max_header_bytes),
        }
    }
}

fn days(days: u64) -> Option<Duration> {
    (days > 0).then(|| Duration::from_secs(days * DAY))
}
