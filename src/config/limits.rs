//! Limits that the layers do not own yet.

use std::time::Duration;

use super::{Error, Settings};
use crate::fetch;
use crate::pace::Pace;
use crate::setting::Retention;

#[derive(Clone, Debug)]
pub struct Limits {
    pub max_upload_bytes: u64,
    pub upload_url_ttl_seconds: u64,
    pub max_pending_attachments: u64,
    pub abandoned_retention_seconds: u64,
    pub upload_grace_seconds: u64,
    pub upload_min_bytes_per_second: u64,
    pub idle_timeout_seconds: u64,
    pub header_timeout_seconds: u64,
    pub max_header_bytes: u64,
    pub max_json_bytes: u64,
    pub max_connections: u64,
    pub database_connections: u64,
    pub shutdown_grace_seconds: u64,
    pub fetch_max_bytes: u64,
    pub fetch_timeout_seconds: u64,
    pub fetch_idle_timeout_seconds: u64,
    pub fetch_resolve_timeout_seconds: u64,
    pub fetch_connect_timeout_seconds: u64,
    pub fetch_max_redirects: u64,
    pub fetch_max_header_bytes: u64,
    pub fetch_max_concurrent: u64,
    pub fetch_max_concurrent_per_partner: u64,
    pub fetch_max_waiting_per_partner: u64,
    pub fetch_queue_timeout_seconds: u64,
    pub fetch_revalidate_seconds: u64,
    pub max_temporary_bytes: u64,
    pub max_temporary_bytes_per_partner: u64,
    pub max_inspections: u64,
    pub max_inspections_per_partner: u64,
    pub max_conversions: u64,
    pub max_conversions_per_partner: u64,
    pub rate_limit_messages: u64,
    pub rate_limit_window_seconds: u64,
    pub max_connections_per_address: u64,
    pub max_json_bytes_total: u64,
    pub max_json_bytes_per_address: u64,
    pub json_grace_seconds: u64,
    pub json_min_bytes_per_second: u64,
    pub download_grace_seconds: u64,
    pub download_min_bytes_per_second: u64,
    pub upload_stall_seconds: u64,
    pub audit_retention: Retention,
    pub idempotency_retention: Retention,
    pub max_large_bodies: u64,
    pub max_large_bodies_per_partner: u64,
    pub max_database_reads_per_partner: u64,
    pub max_database_writes: u64,
    pub max_database_writes_per_partner: u64,
    pub database_connections_per_partner: u64,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            max_upload_bytes: settings.attachments.max_upload_bytes,
            upload_url_ttl_seconds: settings.attachments.upload_url_ttl.as_secs(),
            max_pending_attachments: settings.attachments.max_pending_attachments,
            abandoned_retention_seconds: settings.retention.failed_attachments.as_secs(),
            upload_grace_seconds: settings.attachments.upload_grace.as_secs(),
            upload_min_bytes_per_second: settings.attachments.upload_min_bytes_per_second,
            idle_timeout_seconds: settings.server.idle_timeout.as_secs(),
            header_timeout_seconds: settings.server.header_timeout.as_secs(),
            max_header_bytes: settings.server.max_header_bytes as u64,
            max_json_bytes: settings.json.max_bytes,
            max_connections: settings.server.max_connections,
            database_connections: settings.database.connections,
            shutdown_grace_seconds: settings.server.shutdown_grace.as_secs(),
            fetch_max_bytes: settings.fetch.max_bytes,
            fetch_timeout_seconds: settings.fetch.timeout.as_secs(),
            fetch_idle_timeout_seconds: settings.fetch.idle_timeout.as_secs(),
            fetch_resolve_timeout_seconds: settings.fetch.resolve_timeout.as_secs(),
            fetch_connect_timeout_seconds: settings.fetch.connect_timeout.as_secs(),
            fetch_max_redirects: settings.fetch.max_redirects as u64,
            fetch_max_header_bytes: settings.fetch.max_header_bytes as u64,
            fetch_max_concurrent: settings.fetch.max_concurrent,
            fetch_max_concurrent_per_partner: settings.fetch.max_concurrent_per_partner,
            fetch_max_waiting_per_partner: settings.fetch.max_queued_per_partner as u64,
            fetch_queue_timeout_seconds: settings.fetch.queue_timeout.as_secs(),
            fetch_revalidate_seconds: settings.fetch.revalidate.as_secs(),
            max_temporary_bytes: settings.attachments.max_temporary_bytes,
            max_temporary_bytes_per_partner: settings.attachments.max_temporary_bytes_per_partner,
            max_inspections: settings.attachments.max_inspections,
            max_inspections_per_partner: settings.attachments.max_inspections_per_partner,
            max_conversions: settings.conversion.max_conversions,
            max_conversions_per_partner: settings.conversion.max_conversions_per_partner,
            rate_limit_messages: settings.send.rate_limit_messages,
            rate_limit_window_seconds: settings.send.rate_limit_window.as_secs(),
            max_connections_per_address: settings.server.max_connections_per_address,
            max_json_bytes_total: settings.json.max_bytes_total,
            max_json_bytes_per_address: settings.json.max_bytes_per_address,
            json_grace_seconds: settings.json.grace.as_secs(),
            json_min_bytes_per_second: settings.json.min_bytes_per_second,
            download_grace_seconds: settings.server.download_grace.as_secs(),
            download_min_bytes_per_second: settings.server.download_min_bytes_per_second,
            upload_stall_seconds: settings.attachments.upload_stall.as_secs(),
            audit_retention: settings.retention.audit_records,
            idempotency_retention: settings.retention.idempotency,
            max_large_bodies: settings.json.max_large_json_bodies,
            max_large_bodies_per_partner: settings.json.max_large_json_bodies_per_partner,
            max_database_reads_per_partner: settings.database.max_reads_per_partner,
            max_database_writes: settings.database.max_writes,
            max_database_writes_per_partner: settings.database.max_writes_per_partner,
            database_connections_per_partner: settings.database.connections_per_partner,
        }
    }
}

impl Limits {
    /// Checks that a JSON body of the maximum size fits into its budget.
    pub(super) fn check(&self) -> Result<(), Error> {
        let least = self.largest_json();
        for (key, value) in [
            ("max_json_bytes_total", self.max_json_bytes_total),
            (
                "max_json_bytes_per_address",
                self.max_json_bytes_per_address,
            ),
        ] {
            if value < least {
                return Err(Error::invalid(
                    key,
                    format!("must be at least {least}, not {value}"),
                ));
            }
        }
        Ok(())
    }

    /// How long an upload URL is good.
    #[must_use]
    pub fn upload_url_ttl(&self) -> Duration {
        Duration::from_secs(self.upload_url_ttl_seconds)
    }

    /// How long audit records of deletions are kept; `None`: for ever.
    #[must_use]
    pub fn audit_retention(&self) -> Option<Duration> {
        self.audit_retention.0
    }

    /// How long answers are kept under idempotency keys; `None`: for ever.
    #[must_use]
    pub fn idempotency_retention(&self) -> Option<Duration> {
        self.idempotency_retention.0
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
