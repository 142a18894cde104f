//! Wires the parts together, starts the background tasks, and stops them again.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use crate::blob::BlobStore;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{BaseUrl, CdnMode, Config};
use crate::db::{Db, secrets};
use crate::delivery::{DeliveryWorker, Gateway, Receipts};
use crate::fetch::{Fetcher, OwnServer, Resolve};
use crate::http::server::{self, HostRouter};
use crate::http::{self, HttpState};
use crate::metrics::Metrics;
use crate::sandbox::Sandbox;
use crate::service::{Parts, Service};
use crate::storage::Storage;
use crate::transcode::{Converter, Ffmpeg};
use crate::url_signing::Signer;

/// A server that listens already, ready to run.
#[derive(Debug)]
pub struct App {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    public_url: BaseUrl,
    cdn_url: BaseUrl,
    service: Arc<Service>,
    worker: DeliveryWorker,
    /// Nobody else's as long as the app lives.
    storage: Storage,
}

impl App {
    /// Opens data folder, database and store, and starts to listen. Nothing is answered before [`App::run`].
    ///
    /// # Errors
    /// The folder is in use or cannot be written, the database cannot be opened or is not durable, or the address is
    /// taken.
    pub async fn build(
        config: Config,
        clock: Clock,
        gateway: Arc<dyn Gateway>,
        resolver: Arc<dyn Resolve>,
    ) -> anyhow::Result<Self> {
        let roots = certificate_authorities(config.fetch_ca_file.as_deref())?;
        let metrics = Metrics::default();
        let storage = Storage::open_exclusive(&config).await?;
        let (db, blobs) = (storage.db.clone(), Arc::clone(&storage.blobs));
        let signer = signer(&db, &config.data_dir, &clock).await?;

        let listener = TcpListener::bind(config.listen).await.with_context(|| {
            format!(
                "cannot listen on {}: choose another address with --listen",
                config.listen
            )
        })?;
        let address = listener.local_addr()?;
        let public_url = config
            .public_url
            .clone()
            .unwrap_or_else(|| BaseUrl::from_address(connectable_address(address)));
        let cdn_url = config.cdn_url.clone().unwrap_or_else(|| public_url.clone());

        let own = OwnServer {
            bases: [&public_url, &cdn_url]
                .map(|base| base.as_url().clone())
                .to_vec(),
            listen: address,
            // Of the key that servers of one database share, so that none fetches from another either.
            pseudonym: format!("haversack-{}", &signer.sign("loop detection")[..32]),
        };
        let fetcher = Fetcher::new(
            config.fetch_allowed.clone(),
            own,
            roots,
            resolver,
            config.limits.fetch(),
            Budget::new("fetches", config.limits.fetches(), &metrics),
            metrics.fetch_raw_bytes.clone(),
        );

        let working = config.blobs_dir.join("unfinished-conversions");
        let conversions = Budget::new("conversions", config.limits.conversions(), &metrics);
        let sandbox = Sandbox::new(config.program.clone());
        let ffmpeg = find_ffmpeg(config.ffmpeg.as_deref(), &sandbox);
        let converter = Converter::new(sandbox, ffmpeg, working, conversions)
            .context("cannot empty the folder of unfinished conversions")?;
        let converter = Arc::new(converter);
        // It takes a while to say what it is, which nobody need wait for.
        tokio::spawn({
            let converter = Arc::clone(&converter);
            async move {
                if converter.ffmpeg().await.is_none() {
                    tracing::debug!("{WITHOUT_FFMPEG}");
                }
            }
        });
        let filled = Arc::new(Notify::new());
        let service = Arc::new(Service::new(Parts {
            db: db.clone(),
            blobs: Arc::clone(&blobs),
            clock: clock.clone(),
            signer,
            limits: config.limits.clone(),
            strip_private_metadata: config.strip_private_metadata,
            redirects: config.cdn_mode == CdnMode::Redirect,
            public_url: public_url.clone(),
            cdn_url: cdn_url.clone(),
            fetcher,
            converter,
            metrics: metrics.clone(),
            outbox_filled: Arc::clone(&filled),
        }));
        gateway.start(Receipts::new(db.clone(), clock.clone(), metrics.clone()));
        let worker = DeliveryWorker {
            db: db.clone(),
            blobs,
            gateway,
            clock,
            metrics,
            filled,
        };
        Ok(Self {
            config,
            listener,
            address,
            public_url,
            cdn_url,
            service,
            worker,
            storage,
        })
    }

    /// The address that is listened on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients reach API and uploads.
    #[must_use]
    pub fn public_url(&self) -> &BaseUrl {
        &self.public_url
    }

    /// The use cases.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The database.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.storage.db
    }

    /// The bytes.
    #[must_use]
    pub fn blobs(&self) -> &Arc<dyn BlobStore> {
        &self.storage.blobs
    }

    /// Serves until `shutdown`, then finishes what is running. Says whether all of it finished in time.
    ///
    /// # Errors
    /// A background task ended, which none should: a server that accepts messages and delivers none must not look alive.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<bool> {
        let state = HttpState::new(Arc::clone(&self.service), self.config.data_dir.clone());
        let separate = self.cdn_url.as_url().host_str() != self.public_url.as_url().host_str();
        let hosts = HostRouter {
            all: http::router(state.clone()),
            files: separate.then(|| (self.cdn_url.clone(), http::files_router(state))),
        };
        let (mut tasks, mut delivery) = (JoinSet::new(), JoinSet::new());
        let (worker, service) = (self.worker, Arc::clone(&self.service));
        let (stop_delivery, stopping) = oneshot::channel::<()>();
        delivery.spawn({
            let service = Arc::clone(&service);
            async move {
                // Messages that waited while this was stopped must not take files along whose time is over.
                service.expire_overdue().await;
                worker.run(async { drop(stopping.await) }).await;
            }
        });
        tasks.spawn(async move { service.run_background_tasks().await });
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
        let proxies = self.config.trusted_proxies.clone();
        let (limits, metrics) = (&self.config.limits, self.service.metrics());
        let finished = server::serve(self.listener, hosts, limits, proxies, metrics, stop).await;
        anyhow::ensure!(
            !ended,
            "a background task ended, which is a bug: see the log"
        );
        // After the last request: what it sent may still go out.
        drop(stop_delivery);
        let grace = Duration::from_secs(self.config.limits.shutdown_grace_seconds);
        let delivered = tokio::time::timeout(grace, delivery.join_next())
            .await
            .is_ok();
        Ok(finished && delivered)
    }
}

/// What cannot be done without it is told; everything else goes on.
fn find_ffmpeg(program: Option<&Path>, sandbox: &Sandbox) -> Option<Ffmpeg> {
    Ffmpeg::find(program?, sandbox.clone())
        .inspect_err(|problem| tracing::warn!(problem, "{WITHOUT_FFMPEG}"))
        .ok()
}

const WITHOUT_FFMPEG: &str = "there is no ffmpeg: CAF is delivered as it is";

/// The public ones, which are built in so that they are the same on every machine, and those of a PEM file.
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

/// The address a client on this machine reaches: an unspecified one is listened on, but is nobody's.
fn connectable_address(address: SocketAddr) -> SocketAddr {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Servers that share a database share the key that signs URLs; one that has its own keeps it in its folder.
async fn signer(db: &Db, folder: &Path, clock: &Clock) -> anyhow::Result<Signer> {
    if !db.is_shared() {
        return Signer::from_folder(folder).context("cannot use the key that signs upload URLs");
    }
    let now = clock.now();
    let key = db
        .write(move |db| {
            Box::pin(async move {
                secrets::get_or_set(db, "url-signing-key", &Signer::new_key(), now).await
            })
        })
        .await?;
    Ok(Signer::new(key.as_bytes()))
}
