//! A haversack server in the test process, with a clock that the test moves.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::TryStreamExt;
use haversack::app::App;
use haversack::background::Background;
use haversack::blob::BlobStore;
use haversack::clock::{MockClock, Timestamp};
use haversack::config::{Config, Settings};
use haversack::db::Db;
use haversack::delivery::{Gateway, Loopback};
use haversack::domain::handle::PhoneNumber;
use haversack::fetch::{Resolve, SystemResolver};
use haversack::metrics::Metrics;
use haversack::partners;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use url::Url;

use crate::{Api, BucketServer, Origin, bucket, postgres, program, within};

/// Initial time of the clock: 2026-01-15T10:30:00Z, in milliseconds.
const START: i64 = 1_768_473_000_000;

const KEY: &str = "acme-key-0123456789";
const RIVAL_KEY: &str = "rival-key-0123456789";

/// The first line of the partner under test.
pub const LINE: &str = "+12025550100";
/// The second line of the partner under test.
pub const SECOND_LINE: &str = "+12025550101";
/// The line of the rival.
pub const RIVAL_LINE: &str = "+12025550150";
/// A recipient that is no line of a partner.
pub const RECIPIENT: &str = "+12025550199";

/// A running server with two partners: the one under test, which has two lines, and a rival with
/// one.
pub struct TestApp {
    pub address: SocketAddr,
    pub clock: MockClock,
    pub api: Api,
    pub rival: Api,
    pub folder: TempDir,
    pub background: Arc<Background>,
    pub metrics: Metrics,
    pub db: Db,
    pub blobs: Arc<dyn BlobStore>,
    /// The bucket with its files, if [`TestApp`] started one.
    pub bucket: Option<Arc<BucketServer>>,
    pub database_url: Url,
    pub settings: Settings,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<bool>>,
}

impl TestApp {
    /// Starts a server with default settings on SQLite and a folder; on PostgreSQL and a bucket if
    /// `HAVERSACK_TEST_DATABASE_URL` is set.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts a server with some settings changed.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_gateway(Arc::new(Loopback), change).await
    }

    /// Starts a server that delivers messages to this gateway.
    pub async fn with_gateway(
        gateway: Arc<dyn Gateway>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::build(gateway, Arc::new(SystemResolver), change).await
    }

    /// Starts a server that may fetch from an origin and uses its DNS resolver.
    pub async fn with_origin(origin: &Origin, change: impl FnOnce(&mut Settings)) -> Self {
        Self::build(Arc::new(Loopback), origin.dns.clone(), |settings| {
            settings.fetch.allow_nets = "127.0.0.1/32".parse().expect("a list");
            settings.fetch.allow_ports = std::iter::once(origin.address.port()).collect();
            settings.fetch.ca_file = Some(origin.ca_file());
            change(settings);
        })
        .await
    }

    /// Starts a server that stores files in its data folder and receives uploads itself, even if
    /// the tests run on a bucket.
    pub async fn on_disk() -> Self {
        Self::with(on_disk).await
    }

    /// Starts a server that stores files in a bucket.
    pub async fn with_bucket(bucket: &BucketServer, change: impl FnOnce(&mut Settings)) -> Self {
        Self::with(|settings| {
            settings.storage.blobs_url = Some(bucket.url());
            change(settings);
        })
        .await
    }

    /// Starts a server that may fetch from an origin and stores files in a bucket.
    pub async fn with_origin_and_bucket(origin: &Origin, bucket: &BucketServer) -> Self {
        Self::with_origin(origin, |settings| {
            settings.storage.blobs_url = Some(bucket.url());
        })
        .await
    }

    async fn build(
        gateway: Arc<dyn Gateway>,
        resolver: Arc<dyn Resolve>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut settings = Settings::default();
        settings.server.listen = "127.0.0.1:0".parse().expect("address");
        settings.storage.data_dir = folder.path().to_owned();
        let postgres = postgres::create_schema().await;
        settings.storage.database_url = postgres.map(|url| url.parse().expect("URL"));
        settings.database.connections = 4;
        let bucket = match (&settings.storage.database_url, bucket::external_url()) {
            (_, Some(url)) => {
                settings.storage.blobs_url = Some(url);
                None
            }
            (Some(_), None) => {
                let bucket = BucketServer::start().await;
                settings.storage.blobs_url = Some(bucket.url());
                Some(Arc::new(bucket))
            }
            (None, None) => None,
        };
        change(&mut settings);
        let clock = MockClock::at(Timestamp::from_millis(START));
        let app = Self {
            bucket,
            ..Self::launch(settings, clock, folder, gateway, resolver).await
        };
        for (name, key, lines) in [
            ("acme", KEY, &[LINE, SECOND_LINE][..]),
            ("rival", RIVAL_KEY, &[RIVAL_LINE]),
        ] {
            let lines = lines
                .iter()
                .map(|line| PhoneNumber::parse(line).expect("number"))
                .collect();
            partners::add(&app.db, &app.clock.clock(), name.to_owned(), key, lines)
                .await
                .expect("partner");
        }
        app
    }

    /// Starts another server on the same database, store and clock.
    pub async fn start_peer(&self, gateway: Arc<dyn Gateway>) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut settings = self.settings.clone();
        settings.storage.data_dir = folder.path().to_owned();
        let peer = Self::launch(
            settings,
            self.clock.clone(),
            folder,
            gateway,
            Arc::new(SystemResolver),
        )
        .await;
        Self {
            bucket: self.bucket.clone(),
            ..peer
        }
    }

    /// Starts a server on existing storage, without adding partners.
    pub async fn start_on(settings: Settings, clock: MockClock) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut settings = settings;
        if settings.storage.data_dir == Settings::default().storage.data_dir {
            settings.storage.data_dir = folder.path().to_owned();
        }
        settings.server.listen = "127.0.0.1:0".parse().expect("address");
        Self::launch(
            settings,
            clock,
            folder,
            Arc::new(Loopback),
            Arc::new(SystemResolver),
        )
        .await
    }

    async fn launch(
        settings: Settings,
        clock: MockClock,
        folder: TempDir,
        gateway: Arc<dyn Gateway>,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let mut config =
            Config::resolve(settings.clone(), &bucket::credential).expect("configuration");
        // The default is the running program, which is the test binary here.
        config.program = program::path();
        let database_url = config.storage.database_url.clone();
        let app = App::build(config, clock.clock(), gateway, resolver)
            .await
            .expect("app");
        let (db, blobs) = (app.db().clone(), Arc::clone(app.blobs()));
        let (background, metrics) = (Arc::clone(app.background()), app.metrics().clone());
        let address = app.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(app.run(async {
            let _ = stopped.await;
        }));
        Self {
            address,
            clock,
            api: Api::new(address, KEY),
            rival: Api::new(address, RIVAL_KEY),
            folder,
            background,
            metrics,
            db,
            blobs,
            bucket: None,
            database_url,
            settings,
            stop: Some(stop),
            running,
        }
    }

    /// Returns the URL of a path of this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the value of a metric series, without a request to `/metrics`.
    #[track_caller]
    pub fn metric(&self, series: &str) -> u64 {
        self.find_metric(series)
            .unwrap_or_else(|| panic!("no {series}"))
    }

    fn find_metric(&self, series: &str) -> Option<u64> {
        let metrics = self.metrics.render();
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(value.parse().expect("a number"))
    }

    /// Returns the units of a budget in use.
    #[track_caller]
    pub fn budget_used(&self, budget: &str) -> u64 {
        self.metric(&format!("haversack_budget_used{{budget=\"{budget}\"}}"))
    }

    /// Returns the peak of the units of a budget in use.
    #[track_caller]
    pub fn budget_peak(&self, budget: &str) -> u64 {
        self.metric(&format!("haversack_budget_peak{{budget=\"{budget}\"}}"))
    }

    /// Returns the number of refusals by a budget in one scope.
    pub fn budget_refusals(&self, budget: &str, scope: &str) -> u64 {
        let labels = format!("budget=\"{budget}\",scope=\"{scope}\"");
        self.find_metric(&format!("haversack_budget_refusals_total{{{labels}}}"))
            .unwrap_or(0)
    }

    /// Returns a client without a key.
    pub fn anonymous(&self) -> Api {
        Api::anonymous(self.address)
    }

    /// Returns the ids of all blobs in the store, and the names of unfinished uploads.
    pub async fn stored_files(&self) -> Vec<String> {
        let listed: Vec<_> = self.blobs.list().try_collect().await.expect("a list");
        let blobs = listed
            .into_iter()
            .map(|blob| blob.id.map_or(blob.name, |id| id.to_string()));
        let unfinished = self.folder.path().join("unfinished-uploads");
        let unfinished = std::fs::read_dir(unfinished).expect("folder").map(|entry| {
            let name = entry.expect("entry").file_name();
            name.to_string_lossy().into_owned()
        });
        blobs.chain(unfinished).collect()
    }

    /// Begins a graceful shutdown, which lets running requests finish.
    pub fn begin_shutdown(&mut self) {
        drop(self.stop.take());
    }

    /// Aborts the server, as a crash does.
    pub async fn crash(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    /// Returns true if the server refuses connections.
    pub async fn refuses_connections(&self) -> bool {
        TcpStream::connect(self.address).await.is_err()
    }

    /// Shuts the server down, and returns true if all requests finished in time.
    pub async fn shut_down(mut self) -> bool {
        self.begin_shutdown();
        within(self.running)
            .await
            .expect("the server does not panic")
            .expect("no background task ends early")
    }
}

/// Stores files in the data folder.
pub fn on_disk(settings: &mut Settings) {
    settings.storage.blobs_url = None;
}
