//! Collects metrics, which are served at `/metrics` in the Prometheus text format.
//! `docs/reference/metrics.md` lists their names and units.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Upper bounds of histogram buckets for durations, in seconds.
const DURATIONS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Route pattern, with placeholders instead of ids.
    pub route: String,
    /// HTTP method, or `other` for an unusual one.
    pub method: &'static str,
    /// Status code.
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UploadLabels {
    /// Result of an upload: `stored`, or the error code of the response.
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabels {
    /// Resolved media type, or `refused`.
    media_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    /// Result of a fetch: `fetched`, `not_modified`, or the kind of error.
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    /// New state of the message.
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    budget: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    budget: &'static str,
    /// Limit that was exceeded: `share` or `total`.
    scope: &'static str,
}

/// The metrics of one resource budget.
#[derive(Clone, Debug)]
pub struct BudgetMetrics {
    used: Gauge,
    peak: Gauge,
    refused_by_share: Counter,
    refused_by_total: Counter,
}

impl BudgetMetrics {
    /// Sets the number of units in use, and raises the recorded peak if needed.
    pub fn set(&self, used: u64) {
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        self.used.set(used);
        self.peak
            .inner()
            .fetch_max(used, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn refused(&self, share_exhausted: bool) {
        if share_exhausted {
            &self.refused_by_share
        } else {
            &self.refused_by_total
        }
        .inc();
    }
}

/// All metrics of the server. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histogram,
    uploads: Family<UploadLabels, Counter>,
    files: Family<FileLabels, Counter>,
    fetches: Family<FetchLabels, Counter>,
    fetch_seconds: Histogram,
    pub fetched_bytes: Counter,
    pub fetch_raw_bytes: Counter,
    pub uploaded_bytes: Counter,
    pub downloaded_bytes: Counter,
    messages: Family<MessageLabels, Counter>,
    budgets: Family<BudgetLabels, Gauge>,
    budget_peaks: Family<BudgetLabels, Gauge>,
    budget_limits: Family<BudgetLabels, Gauge>,
    budget_refusals: Family<RefusalLabels, Counter>,
    pub connections: Gauge,
    pub outbox: Gauge,
}

/// Wrapper of a registry whose methods return the metric that they register.
struct Registrar(Registry);

impl Registrar {
    fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.0.register(name, help, metric.clone());
        metric
    }

    fn histogram(&mut self, name: &str, help: &str) -> Histogram {
        let histogram = Histogram::new(DURATIONS);
        self.0.register(name, help, histogram.clone());
        histogram
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registrar(Registry::with_prefix("haversack"));
        Self {
            requests: registry.add("http_requests", "Requests answered"),
            request_seconds: registry.histogram(
                "http_request_duration_seconds",
                "Time from the request header to the response header, in seconds",
            ),
            uploads: registry.add("uploads", "Uploads by outcome"),
            files: registry.add("files", "Files inspected, by detected type"),
            fetches: registry.add("fetches", "Fetches of media URLs by outcome"),
            fetch_seconds: registry.histogram(
                "fetch_duration_seconds",
                "Duration of fetches of media URLs in seconds, including the wait for a permit",
            ),
            fetched_bytes: registry.add("fetched_bytes", "Bytes of files fetched from media URLs"),
            fetch_raw_bytes: registry.add(
                "fetch_raw_bytes",
                "Bytes read from the sockets of fetches: TLS, HTTP and file contents",
            ),
            uploaded_bytes: registry.add("uploaded_bytes", "Bytes of upload bodies received"),
            downloaded_bytes: registry.add(
                "downloaded_bytes",
                "Bytes of download bodies sent, including the separators of multiple ranges",
            ),
            messages: registry.add("messages", "Changes of message state, by new state"),
            budgets: registry.add("budget_used", "Units of a budget in use"),
            budget_peaks: registry.add(
                "budget_peak",
                "Maximum number of units of a budget in use at a time since the start",
            ),
            budget_limits: registry.add("budget_limit", "Total units of a budget"),
            budget_refusals: registry.add(
                "budget_refusals",
                "Reservations refused, by budget and scope",
            ),
            connections: registry.add("connections", "Open connections"),
            outbox: registry.add("outbox_messages", "Messages waiting for the gateway"),
            registry: Arc::new(registry.0),
        }
    }
}

impl Metrics {
    pub fn request(&self, labels: &RequestLabels, duration: Duration) {
        self.requests.get_or_create(labels).inc();
        self.request_seconds.observe(duration.as_secs_f64());
    }

    pub fn upload(&self, outcome: &'static str) {
        self.uploads.get_or_create(&UploadLabels { outcome }).inc();
    }

    pub fn inspected(&self, media_type: &'static str) {
        self.files.get_or_create(&FileLabels { media_type }).inc();
    }

    pub fn fetch(&self, outcome: &'static str, duration: Duration) {
        self.fetches.get_or_create(&FetchLabels { outcome }).inc();
        self.fetch_seconds.observe(duration.as_secs_f64());
    }

    /// Counts a message that entered the state `status`.
    pub fn message(&self, status: &'static str) {
        self.messages.get_or_create(&MessageLabels { status }).inc();
    }

    /// Returns the metrics of the budget `name`, and records `total` as its limit.
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
            refused_by_share: refused("share"),
            refused_by_total: refused("total"),
        }
    }

    /// Encodes all metrics in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}
