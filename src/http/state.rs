//! Holds the state that handlers and middleware share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::attachments::Attachments;
use crate::budget::{self, AtCapacity, Budget, Reservation};
use crate::id::PartnerId;
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::partners::Partners;
use crate::send::Sends;
use crate::setting::{number, seconds};

/// Shared state: the use cases, and the budgets and limits of HTTP itself.
#[derive(Clone, Debug)]
pub struct HttpState {
    pub(crate) attachments: Arc<Attachments>,
    pub(crate) sends: Arc<Sends>,
    pub(crate) messages: Arc<Messages>,
    pub(crate) partners: Arc<Partners>,
    pub(crate) json: JsonConfig,
    /// Minimum rate at which a client must send a JSON body.
    pub(crate) json_pace: Pace,
    pub(crate) budgets: Budgets,
    pub(crate) metrics: Metrics,
    /// Folder for the unnamed temporary files that hold large responses.
    pub(crate) spool_dir: PathBuf,
}

/// Maximum number of one partner's large bodies that may wait to be parsed, equal to its maximum
/// number of connections.
const MAX_QUEUED_LARGE_BODIES: usize = 4096;
const LARGE_BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size in bytes of the lists in a parsed body, in addition to its text. The largest body
/// is a message: at most 101 parts are kept, each with at most 101 decorations and 101 stickers of
/// 88 bytes, in vectors that grew by doubling.
const MAX_LIST_BYTES: u64 = 2_359_296;
/// Estimated list bytes per byte of JSON text, up to `MAX_LIST_BYTES`: `"a",` in a list of
/// recipients becomes a string of 24 bytes and an allocation.
const LIST_BYTES_PER_BYTE: u64 = 16;

/// Settings of JSON bodies.
#[derive(Args, Clone, Copy, Debug)]
#[group(skip)]
#[command(next_help_heading = "JSON bodies")]
pub struct JsonConfig {
    /// Maximum size of a JSON body, in bytes
    #[arg(
        id = "max-json-bytes", long, default_value_t = 8_388_608,
        value_parser = number::<u64>(1024..)
    )]
    pub max_bytes: u64,
    /// Maximum total size of the JSON bodies being read or handled, in bytes; further ones get 503
    #[arg(
        id = "max-json-bytes-total", long, default_value_t = 67_108_864,
        value_parser = number::<u64>(1..)
    )]
    pub max_bytes_total: u64,
    /// Maximum total size of the JSON bodies from one client address, in bytes; further ones get
    /// 503
    #[arg(
        id = "max-json-bytes-per-address", long, default_value_t = 16_777_216,
        value_parser = number::<u64>(1..)
    )]
    pub max_bytes_per_address: u64,
    /// Time a client may fall behind the minimum rate of a JSON body
    #[arg(id = "json-grace-seconds", long, default_value = "10", value_parser = seconds(1))]
    pub grace: Duration,
    /// Minimum rate of a JSON body, in bytes per second
    #[arg(
        id = "json-min-bytes-per-second", long, default_value_t = 32_768,
        value_parser = number::<u64>(1..)
    )]
    pub min_bytes_per_second: u64,
    /// Maximum number of JSON bodies over 32 KiB parsed at the same time; each occupies a core
    /// briefly
    #[arg(long, default_value_t = 2, value_parser = number::<u64>(1..))]
    pub max_large_json_bodies: u64,
    /// Maximum number of JSON bodies over 32 KiB from one partner parsed at the same time
    #[arg(long, default_value_t = 1, value_parser = number::<u64>(1..))]
    pub max_large_json_bodies_per_partner: u64,
}

impl JsonConfig {
    /// Returns the minimum rate at which a client must send a JSON body.
    pub(crate) fn pace(&self, idle_timeout: Duration) -> Pace {
        Pace::sustained(idle_timeout, self.grace, self.min_bytes_per_second)
    }

    /// Returns the memory limits for JSON bodies, in total and per client address.
    fn bytes(&self) -> budget::Limits {
        budget::Limits::without_queue(self.max_bytes_total, self.max_bytes_per_address)
    }

    /// Returns the limits on large JSON bodies being parsed, in total and per partner.
    fn large_bodies(&self) -> budget::Limits {
        budget::Limits {
            total: self.max_large_json_bodies,
            share: self.max_large_json_bodies_per_partner,
            max_queued: MAX_QUEUED_LARGE_BODIES,
            queue_timeout: LARGE_BODY_TIMEOUT,
        }
    }

    /// Returns the maximum memory for the lists parsed from `text` bytes of JSON.
    pub(crate) fn list_bytes(text: u64) -> u64 {
        text.saturating_mul(LIST_BYTES_PER_BYTE).min(MAX_LIST_BYTES)
    }

    /// Returns the memory that a JSON body of the maximum size needs.
    pub(crate) fn max_memory(&self) -> u64 {
        self.max_bytes
            .saturating_add(Self::list_bytes(self.max_bytes))
    }
}

/// Budgets for the resources that requests occupy before a use case is called.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    /// Memory of the JSON bodies being read or handled, in bytes.
    pub(crate) json_bytes: Budget,
    /// Number of running requests that came through a trusted proxy.
    pub(crate) proxied_requests: Budget,
    /// Number of large JSON bodies being parsed.
    pub(crate) large_bodies: Budget,
}

impl Budgets {
    pub(crate) fn new(
        json: &JsonConfig,
        proxied_requests: budget::Limits,
        metrics: &Metrics,
    ) -> Self {
        Self {
            json_bytes: Budget::new("json_bytes", json.bytes(), metrics),
            proxied_requests: Budget::new("proxied_requests", proxied_requests, metrics),
            large_bodies: Budget::new("large_bodies", json.large_bodies(), metrics),
        }
    }
}

impl HttpState {
    /// Waits for a permit to parse one of the partner's large JSON bodies.
    pub(crate) async fn parse_permit(&self, partner: PartnerId) -> Result<Reservation, AtCapacity> {
        let large_bodies = &self.budgets.large_bodies;
        large_bodies.reserve(&partner.to_string(), 1).await
    }
}
