//! Counters and gauges in the Prometheus text format, at `/metrics`. Names and units: `docs/reference/metrics.md`.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the buckets of request durations, in seconds.
const DURATIONS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route's pattern, never a path with ids in it.
    pub route: String,
    /// The method; `other` if it is not one of HTTP's usual ones.
    pub method: &'static str,
    /// The status code.
    pub status: u16,
}

/// Labels of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UploadLabels {
    /// What came of it: `stored`, or the code of the refusal.
    pub outcome: &'static str,
}

/// Labels of a file that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FileLabels {
    /// The media type it was found to be, or `refused`.
    pub media_type: &'static str,
}

/// Labels of a fetch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FetchLabels {
    /// What came of it: `fetched`, `not_modified`, or the kind of the failure.
    pub outcome: &'static str,
}

/// Labels of a change of a message's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MessageLabels {
    /// The state reached.
    pub status: &'static str,
}

/// Labels of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BudgetLabels {
    /// The name of the budget.
    pub budget: &'static str,
}

/// Labels of a refused reservation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// The name of the budget.
    pub budget: &'static str,
    /// `share`, if the holder's own share was used up, or `total`.
    pub scope: &'static str,
}

/// The metrics of one budget.
#[derive(Clone, Debug)]
pub struct BudgetMetrics {
    used: Gauge,
    peak: Gauge,
    refused_of_share: Counter,
    refused_of_total: Counter,
}

impl BudgetMetrics {
    /// Sets the units in use, and the peak if they exceed it.
    pub fn set(&self, used: u64) {
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        self.used.set(used);
        self.peak
            .inner()
            .fetch_max(used, std::sync::atomic::Ordering::Relaxed);
    }

    /// Counts a refused reservation.
    pub fn refused(&self, of_share: bool) {
        if of_share {
            &self.refused_of_share
        } else {
            &self.refused_of_total
        }
        .inc();
    }
}

/// Everything that is counted. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    uploads: Family<UploadLabels, Counter>,
    files: Family<FileLabels, Counter>,
    fetches: Family<FetchLabels, Counter>,
    fetch_seconds: Histogram,
    /// Bytes of files fetched from media URLs.
    pub fetched_bytes: Counter,
    /// Bytes read of the sockets of fetches.
    pub fetch_raw_bytes: Counter,
    /// Bytes of file contents received.
    pub uploaded_bytes: Counter,
    /// Bytes sent of files, with the separators of several ranges.
    pub downloaded_bytes: Counter,
    messages: Family<MessageLabels, Counter>,
    budgets: Family<BudgetLabels, Gauge>,
    budget_peaks: Family<BudgetLabels, Gauge>,
    budget_limits: Family<BudgetLabels, Gauge>,
    budget_refusals: Family<RefusalLabels, Counter>,
    /// Open connections.
    pub connections: Gauge,
    /// Messages waiting for the gateway.
    pub outbox: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::default();
        let request_seconds = Histogram::new(DURATIONS);
        let uploads = Family::default();
        let files = Family::default();
        let fetches = Family::default();
        let fetch_seconds = Histogram::new(DURATIONS);
        let fetched_bytes = Counter::default();
        let fetch_raw_bytes = Counter::default();
        let uploaded_bytes = Counter::default();
        let downloaded_bytes = Counter::default();
        let messages = Family::default();
        let budgets = Family::default();
        let budget_peaks = Family::default();
        let budget_limits = Family::default();
        let budget_refusals = Family::default();
        let connections = Gauge::default();
        let outbox = Gauge::default();

        let mut registry = Registry::with_prefix("haversack");
        registry.register("http_requests", "Requests answered", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time from the request's header to the answer's header, in seconds",
            request_seconds.clone(),
        );
        registry.register("uploads", "Uploads, by what came of them", uploads.clone());
        registry.register(
            "files",
            "Files looked at, by the type they were found to be",
            files.clone(),
        );
        registry.register(
            "fetches",
            "Fetches of media URLs, by what came of them",
            fetches.clone(),
        );
        registry.register(
            "fetch_duration_seconds",
            "Time from asking for a media URL to its last byte, waiting for others included, in seconds",
            fetch_seconds.clone(),
        );
        registry.register(
            "fetched_bytes",
            "Bytes of files fetched from media URLs",
            fetched_bytes.clone(),
        );
        registry.register(
            "fetch_raw_bytes",
            "Bytes read of the sockets of fetches: TLS, HTTP and the files in them",
            fetch_raw_bytes.clone(),
        );
        registry.register(
            "uploaded_bytes",
            "Bytes of file contents received",
            uploaded_bytes.clone(),
        );
        registry.register(
            "downloaded_bytes",
            "Bytes sent of files, with the separators of several ranges",
            downloaded_bytes.clone(),
        );
        registry.register(
            "messages",
            "Changes of message state, by the state reached",
            messages.clone(),
        );
        registry.register("budget_used", "Units of a budget in use", budgets.clone());
        registry.register(
            "budget_peak",
            "Most units of a budget in use at a time since the start",
            budget_peaks.clone(),
        );
        registry.register(
            "budget_limit",
            "Units of a budget in all",
            budget_limits.clone(),
        );
        registry.register(
            "budget_refusals",
            "Reservations refused, by budget and scope",
            budget_refusals.clone(),
        );
        registry.register("connections", "Open connections", connections.clone());
        registry.register(
            "outbox_messages",
            "Messages waiting for the gateway",
            outbox.clone(),
        );
        Self {
            registry: Arc::new(registry),
            requests,
            request_seconds,
            uploads,
            files,
            fetches,
            fetch_seconds,
            fetched_bytes,
            fetch_raw_bytes,
            uploaded_bytes,
            downloaded_bytes,
            messages,
            budgets,
            budget_peaks,
            budget_limits,
            budget_refusals,
            connections,
            outbox,
        }
    }
}

impl Metrics {
    /// Counts an answered request.
    pub fn request(&self, labels: &RequestLabels, duration: Duration) {
        self.requests.get_or_create(labels).inc();
        self.request_seconds.observe(duration.as_secs_f64());
    }

    /// Counts an upload.
    pub fn upload(&self, outcome: &'static str) {
        self.uploads.get_or_create(&UploadLabels { outcome }).inc();
    }

    /// Counts a file that was looked at.
    pub fn inspected(&self, media_type: &'static str) {
        self.files.get_or_create(&FileLabels { media_type }).inc();
    }

    /// Counts a fetch.
    pub fn fetch(&self, outcome: &'static str, duration: Duration) {
        self.fetches.get_or_create(&FetchLabels { outcome }).inc();
        self.fetch_seconds.observe(duration.as_secs_f64());
    }

    /// Counts a change of a message's state.
    pub fn message(&self, status: &'static str) {
        self.messages.get_or_create(&MessageLabels { status }).inc();
    }

    /// The metrics of the budget `name`, of `total` units.
    #[must_use]
    pub fn budget(&self, name: &'static str, total: u64) -> BudgetMetrics {
        let labels = BudgetLabels { budget: name };
        self.budget_limits
            .get_or_create(&labels)
            .set(i64::try_from(total).unwrap_or(i64::MAX));
        let refused = |scope| {
            self.budget_refusals
                .get_or_create(&RefusalLabels {
                    budget: name,
                    scope,
                })
                .clone()
        };
        BudgetMetrics {
            used: self.budgets.get_or_create(&labels).clone(),
            peak: self.budget_peaks.get_or_create(&labels).clone(),
            refused_of_share: refused("share"),
            refused_of_total: refused("total"),
        }
    }

    /// Everything, as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
