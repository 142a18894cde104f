//! Builds the server from its configuration, runs it, and shuts it down.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::attachments::{Attachments, FileUrls};
use crate::background::Background;
use crate::blob::BlobStore;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::admission::Database;
use crate::db::{Connection, Db, secrets};
use crate::delivery::{DeliveryWorker, Gateway, Receipts};
use crate::domain::base_url::BaseUrl;
use crate::fetch::{Fetcher, OwnServer, Resolve};
use crate::http::server::{self, HostRouter};
use crate::http::{self, Budgets, HttpState};
use crate::messages::Messages;
use crate::metrics::Metrics;
use crate::partners::Partners;
use crate::sandbox::Sandbox;
use crate::send::Sends;
use crate::storage::Storage;
use crate::transcode::{Converter, Ffmpeg};
use crate::url_signing::Signer;

/// A server that is bound to its address and ready to run.
#[derive(Debug)]
pub struct App {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    public_url: BaseUrl,
    cdn_url: BaseUrl,
    state: HttpState,
    background: Arc<Background>,
    worker: DeliveryWorker,
    /// Storage, locked as long as the app exists.
    storage: Storage,
}

impl App {
    /// Opens the data folder, the database and the store, and starts to listen. No request is
    /// answered before [`App::run`] is called.
    ///
    /// # Errors
    /// The data folder is in use or cannot be written, the database cannot be opened or is not
    /// durable, or the address is in use.
    pub async fn build(
        config: Config,
        clock: Clock,
        gateway: Arc<dyn Gateway>,
        resolver: Arc<dyn Resolve>,
    ) -> anyhow::Result<Self> {
        let roots = certificate_authorities(config.fetch.ca_file.as_deref())?;
        let metrics = Metrics::default();
        let storage = Storage::open_exclusive(&config.storage, &config.database).await?;
        let signer = signer(&storage.db, &config.storage.data_dir, &clock).await?;
        let listener = listen(config.server.listen).await?;
        let address = listener.local_addr()?;
        let public_url = config
            .urls
            .public_url
            .clone()
            .unwrap_or_else(|| BaseUrl::from_address(connectable_address(address)));
        let cdn_url = config.urls.cdn_url.clone();
        let cdn_url = cdn_url.unwrap_or_else(|| public_url.clone());
        let own = OwnServer {
            bases: [&public_url, &cdn_url]
                .map(|base| base.as_url().clone())
                .to_vec(),
            listen: address,
            // Servers that share a database share this key, so they have the same pseudonym and
            // none fetches from another.
            pseudonym: format!("haversack-{}", &signer.sign("loop detection")[..32]),
        };
        let fetcher = Fetcher::new(config.fetch.clone(), own, roots, resolver, &metrics);
        let converter = converter(&config, &metrics)?;
        let urls = FileUrls::new(cdn_url.clone(), public_url.clone(), signer, clock.clone());

        let db = Database::new(storage.db.clone(), &config.database, &metrics);
        let attachments = Arc::new(Attachments::new(
            db.clone(),
            Arc::clone(&storage.blobs),
            clock.clone(),
            urls,
            converter,
            config.attachments.clone(),
            metrics.clone(),
        ));
        let outbox = Arc::new(Notify::new());
        let sends = Arc::new(Sends::new(
            Arc::clone(&attachments),
            db.clone(),
            clock.clone(),
            fetcher,
            Arc::clone(&outbox),
            config.send,
            metrics.clone(),
        ));
        let background = Arc::new(Background::new(
            Arc::clone(&attachments),
            db.clone(),
            clock.clone(),
            config.retention,
            config.send.rate_limit_window,
            metrics.clone(),
        ));
        let worker = DeliveryWorker {
            db: storage.db.clone(),
            blobs: Arc::clone(&storage.blobs),
            gateway: Arc::clone(&gateway),
            clock: clock.clone(),
            metrics: metrics.clone(),
            filled: outbox,
        };
        gateway.start(Receipts::new(
            storage.db.clone(),
            clock.clone(),
            metrics.clone(),
        ));
        let state = HttpState {
            attachments,
            sends,
            messages: Arc::new(Messages::new(db.clone(), clock)),
            partners: Arc::new(Partners::new(db)),
            json: config.json,
            json_pace: config.json.pace(config.server.idle_timeout),
            budgets: Budgets::new(&config.json, config.server.proxied_requests(), &metrics),
            metrics,
            spool_dir: config.storage.data_dir.clone(),
        };
        Ok(Self {
            config,
            listener,
            address,
            public_url,
            cdn_url,
            state,
            background,
            worker,
            storage,
        })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base of the API and upload URLs.
    #[must_use]
    pub fn public_url(&self) -> &BaseUrl {
        &self.public_url
    }

    #[must_use]
    pub fn partners(&self) -> &Partners {
        &self.state.partners
    }

    #[must_use]
    pub fn background(&self) -> &Arc<Background> {
        &self.background
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.state.metrics
    }

    /// Returns the router for all hosts, so that `fuzz/` can call it without a socket.
    pub fn router(&self) -> axum::Router {
        http::router(self.state.clone())
    }

    #[must_use]
    pub fn db(&self) -> &Db {
        &self.storage.db
    }

    #[must_use]
    pub fn blobs(&self) -> &Arc<dyn BlobStore> {
        &self.storage.blobs
    }

    /// Answers requests and delivers messages until `shutdown` resolves, then shuts down
    /// gracefully. Returns true if all requests and deliveries finished in time.
    ///
    /// # Errors
    /// A background task ended, which is a bug: a server that accepts messages but does not deliver
    /// them must not appear healthy.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<bool> {
        let state = self.state;
        let metrics = state.metrics.clone();
        let separate = self.cdn_url.as_url().host_str() != self.public_url.as_url().host_str();
        let hosts = HostRouter {
            all: http::router(state.clone()),
            files: separate.then(|| (self.cdn_url.clone(), http::files_router(state))),
        };
        let (mut tasks, mut delivery) = (JoinSet::new(), JoinSet::new());
        let (worker, background) = (self.worker, self.background);
        let (stop_delivery, stopping) = oneshot::channel::<()>();
        delivery.spawn({
            let background = Arc::clone(&background);
            async move {
                // Expired files are deleted before the first delivery, as messages that waited
                // while the server was stopped must not deliver them.
                background.expire_overdue().await;
                worker.run(async { drop(stopping.await) }).await;
            }
        });
        tasks.spawn(async move { background.run().await });
        let mut ended = false;
        let stop = async {
            tokio::select! {
                () = shutdown => return,
                _ = tasks.join_next() => {}
                _ = delivery.join_next() => {}
            }
            tracing::error!("a background task ended; stopping");
            ended = true;
        };
        let config = &self.config.server;
        let finished = server::serve(self.listener, hosts, config, &metrics, stop).await;
        anyhow::ensure!(
            !ended,
            "a background task ended, which is a bug: see the log"
        );
        // Delivery stops after the last request has ended, so that its messages can still be
        // delivered.
        drop(stop_delivery);
        let grace = config.shutdown_grace;
        let delivered = tokio::time::timeout(grace, delivery.join_next())
            .await
            .is_ok();
        Ok(finished && delivered)
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: choose another address with --listen")
    })
}

fn converter(config: &Config, metrics: &Metrics) -> anyhow::Result<Arc<Converter>> {
    let folder = config.storage.blobs_dir.join("unfinished-conversions");
    let conversions = Budget::new("conversions", config.conversion.conversions(), metrics);
    let sandbox = Sandbox::new(config.program.clone());
    let ffmpeg = find_ffmpeg(config.conversion.ffmpeg(), &sandbox);
    let converter = Converter::new(sandbox, ffmpeg, folder, conversions)
        .context("cannot empty the folder of unfinished conversions")?;
    let converter = Arc::new(converter);
    // Runs as a detached task, since ffmpeg takes a while to report its version.
    tokio::spawn({
        let converter = Arc::clone(&converter);
        async move {
            if converter.ffmpeg().await.is_none() {
                tracing::debug!("{WITHOUT_FFMPEG}");
            }
        }
    });
    Ok(converter)
}

/// Finds ffmpeg. Without ffmpeg the server still runs, but logs which features are missing.
fn find_ffmpeg(program: Option<&Path>, sandbox: &Sandbox) -> Option<Ffmpeg> {
    Ffmpeg::find(program?, sandbox.clone())
        .inspect_err(|problem| tracing::warn!(problem, "{WITHOUT_FFMPEG}"))
        .ok()
}

const WITHOUT_FFMPEG: &str = "there is no ffmpeg: CAF is delivered as it is";

/// Returns the trusted certificate authorities: the public ones, built in so that they are the same
/// on every machine, and those in a PEM file.
pub(crate) fn certificate_authorities(file: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(file) = file {
        let wrong = || {
            format!(
                "HAVERSACK_FETCH_CA_FILE: cannot read certificates from {}",
                file.display()
            )
        };
        let certificates = CertificateDer::pem_file_iter(file).with_context(wrong)?;
        let certificates = certificates
            .collect::<Result<Vec<_>, _>>()
            .with_context(wrong)?;
        anyhow::ensure!(
            !certificates.is_empty(),
            "HAVERSACK_FETCH_CA_FILE: {} holds no certificate",
            file.display()
        );
        for certificate in certificates {
            roots.add(certificate).with_context(wrong)?;
        }
    }
    Ok(roots)
}

/// Returns the address at which a local client reaches a listener: loopback, if the listener
/// accepts connections on all addresses.
fn connectable_address(address: SocketAddr) -> SocketAddr {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Loads the key that signs URLs. Servers that share a database also share the key, which is then
/// stored in the database; otherwise it is stored in the data folder.
async fn signer(db: &Db, folder: &Path, clock: &Clock) -> anyhow::Result<Signer> {
    if !db.is_shared() {
        return Signer::from_folder(folder).context("cannot use the key that signs upload URLs");
    }
    let now = clock.now();
    let key = db
        .transaction(async move |db: &mut Connection| {
            secrets::get_or_set(db, "url-signing-key", &Signer::new_key(), now).await
        })
        .await?;
    Ok(Signer::new(key.as_bytes()))
}
