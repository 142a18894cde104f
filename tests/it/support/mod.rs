//! What the tests stand on: a real server on a real socket, with a clock that the test moves, and clients for it.

#![allow(
    dead_code,
    unused_imports,
    reason = "two sets of tests share this, and each leaves some of it"
)]

mod api;
pub mod bucket;
pub mod origin;
pub mod postgres;
pub mod program;
pub mod raw;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use haversack::app::App;
use haversack::blob::BlobStore;
use haversack::clock::{MockClock, Timestamp};
use haversack::config::{Config, Flags};
use haversack::db::Db;
use haversack::delivery::{Gateway, Loopback};
use haversack::domain::handle::PhoneNumber;
use haversack::fetch::{Resolve, SystemResolver};
use haversack::partners;
use haversack::service::Service;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use url::Url;

pub use api::{Answer, Api, Uploaded};
pub use bucket::BucketServer;
pub use origin::Origin;

/// 2026-01-15T10:30:00Z
const START: i64 = 1_768_473_000_000;

pub const LINE: &str = "+12025550100";
pub const SECOND_LINE: &str = "+12025550101";
pub const RIVAL_LINE: &str = "+12025550150";
pub const RECIPIENT: &str = "+12025550199";

/// A server of two partners: the one under test with two lines, and a rival with one.
pub struct TestApp {
    pub address: SocketAddr,
    pub clock: MockClock,
    pub api: Api,
    pub rival: Api,
    pub folder: TempDir,
    pub service: Arc<Service>,
    pub db: Db,
    pub blobs: Arc<dyn BlobStore>,
    /// Where its files are, if they are in a bucket of this process.
    pub bucket: Option<Arc<BucketServer>>,
    pub database_url: Url,
    pub flags: Flags,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<anyhow::Result<bool>>,
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With some settings changed.
    pub async fn with(change: impl FnOnce(&mut Flags)) -> Self {
        Self::with_gateway(Arc::new(Loopback), change).await
    }

    pub async fn with_gateway(gateway: Arc<dyn Gateway>, change: impl FnOnce(&mut Flags)) -> Self {
        Self::build(gateway, Arc::new(SystemResolver), change).await
    }

    /// One that may fetch from an origin, and resolves names as the origin's names say.
    pub async fn with_origin(origin: &Origin, change: impl FnOnce(&mut Flags)) -> Self {
        Self::build(Arc::new(Loopback), origin.names.clone(), |flags| {
            flags.fetch_allow_nets = Some("127.0.0.1/32".to_owned());
            flags.fetch_allow_ports = Some(origin.address.port().to_string());
            flags.fetch_ca_file = Some(origin.ca_file().to_str().expect("path").to_owned());
            change(flags);
        })
        .await
    }

    /// One that keeps files in its folder and takes uploads itself, whatever the others do: for tests of that.
    pub async fn on_disk() -> Self {
        Self::with(on_disk).await
    }

    /// One that keeps files in a bucket.
    pub async fn with_bucket(bucket: &BucketServer, change: impl FnOnce(&mut Flags)) -> Self {
        Self::with(|flags| {
            flags.blobs_url = Some(bucket.url());
            change(flags);
        })
        .await
    }

    /// Both.
    pub async fn with_origin_and_bucket(origin: &Origin, bucket: &BucketServer) -> Self {
        Self::with_origin(origin, |flags| flags.blobs_url = Some(bucket.url())).await
    }

    async fn build(
        gateway: Arc<dyn Gateway>,
        resolver: Arc<dyn Resolve>,
        change: impl FnOnce(&mut Flags),
    ) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut flags = Flags {
            listen: Some("127.0.0.1:0".parse().expect("address")),
            data_dir: Some(folder.path().to_owned()),
            database_url: postgres::database().await,
            database_connections: Some(4),
            ..Flags::default()
        };
        let bucket = match (&flags.database_url, bucket::real()) {
            (_, Some(url)) => {
                flags.blobs_url = Some(url);
                None
            }
            (Some(_), None) => {
                let bucket = BucketServer::start().await;
                flags.blobs_url = Some(bucket.url());
                Some(Arc::new(bucket))
            }
            (None, None) => None,
        };
        change(&mut flags);
        let clock = MockClock::at(Timestamp::from_millis(START));
        let app = Self {
            bucket,
            ..Self::launch(flags, clock, folder, gateway, resolver).await
        };
        for (name, key, lines) in [
            ("acme", "acme-key-0123456789", &[LINE, SECOND_LINE][..]),
            ("rival", "rival-key-0123456789", &[RIVAL_LINE]),
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

    /// Another server on the same database and store, with the same clock.
    pub async fn another(&self, gateway: Arc<dyn Gateway>) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let flags = Flags {
            data_dir: Some(folder.path().to_owned()),
            ..self.flags.clone()
        };
        let another = Self::launch(
            flags,
            self.clock.clone(),
            folder,
            gateway,
            Arc::new(SystemResolver),
        )
        .await;
        Self {
            bucket: self.bucket.clone(),
            ..another
        }
    }

    /// A server on what is there already.
    pub async fn on(flags: Flags, clock: MockClock) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let data_dir = flags.data_dir.or_else(|| Some(folder.path().to_owned()));
        let listen = Some("127.0.0.1:0".parse().expect("address"));
        let flags = Flags {
            data_dir,
            listen,
            ..flags
        };
        Self::launch(
            flags,
            clock,
            folder,
            Arc::new(Loopback),
            Arc::new(SystemResolver),
        )
        .await
    }

    async fn launch(
        flags: Flags,
        clock: MockClock,
        folder: TempDir,
        gateway: Arc<dyn Gateway>,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let mut config =
            Config::load_with(flags.clone(), &bucket::variable).expect("configuration");
        // The running program is the tests' own.
        config.program = env!("CARGO_BIN_EXE_haversack").into();
        let database_url = config.database_url.clone();
        let app = App::build(config, clock.clock(), gateway, resolver)
            .await
            .expect("app");
        let (db, blobs) = (app.db().clone(), Arc::clone(app.blobs()));
        let (address, service) = (app.address(), Arc::clone(app.service()));
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(app.run(async {
            let _ = stopped.await;
        }));
        Self {
            address,
            clock,
            api: Api::new(address, "acme-key-0123456789"),
            rival: Api::new(address, "rival-key-0123456789"),
            folder,
            service,
            db,
            blobs,
            bucket: None,
            database_url,
            flags,
            stop: Some(stop),
            running,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The value of a series, as `/metrics` shows it; no connection is made for it.
    #[track_caller]
    pub fn metric(&self, series: &str) -> u64 {
        let metrics = self.service.metrics().render();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series}"))
            .parse()
            .expect("a number")
    }

    /// Units of a budget in use.
    #[track_caller]
    pub fn budget_used(&self, budget: &str) -> u64 {
        self.metric(&format!("haversack_budget_used{{budget=\"{budget}\"}}"))
    }

    /// Most units of a budget in use at a time.
    #[track_caller]
    pub fn budget_peak(&self, budget: &str) -> u64 {
        self.metric(&format!("haversack_budget_peak{{budget=\"{budget}\"}}"))
    }

    /// A client without a key.
    pub fn anonymous(&self) -> Api {
        Api::anonymous(self.address)
    }

    /// Asks the server to stop; what is running goes on.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Ends it where it is, as a crash does.
    pub async fn die(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    /// Whether nobody listens any more.
    pub async fn is_closed(&self) -> bool {
        tokio::net::TcpStream::connect(self.address).await.is_err()
    }

    /// Waits for it to stop; whether everything finished in time.
    pub async fn stopped(mut self) -> bool {
        self.begin_stop();
        within(self.running)
            .await
            .expect("the server does not panic")
            .expect("no task of its own ends")
    }
}

/// Files are in the data folder.
pub fn on_disk(flags: &mut Flags) {
    flags.blobs_url = None;
}

/// A sample file; `tests/corpus/manifest.tsv` says where it is from.
pub fn corpus(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/").to_owned() + name;
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The ids of everything in the blob store, and what is half written.
pub async fn files(app: &TestApp) -> Vec<String> {
    let listed: Vec<_> = app.blobs.list().try_collect().await.expect("a list");
    let kept = listed
        .into_iter()
        .map(|listed| listed.id.map_or(listed.name, |id| id.to_string()));
    let unfinished =
        std::fs::read_dir(app.folder.path().join("unfinished-uploads")).expect("folder");
    kept.chain(unfinished.map(|entry| {
        entry
            .expect("entry")
            .file_name()
            .to_string_lossy()
            .into_owned()
    }))
    .collect()
}

/// Nothing in these tests takes this long unless it hangs.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("this hangs")
}

/// Asks again until the answer is there.
pub async fn until<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    within(async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
