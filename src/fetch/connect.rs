//! Connections to other people's hosts. Owns the one place where an address is connected to, and so the one place where
//! that is allowed or not: a name that answers differently the next time, or an address that no name was asked for,
//! gets no further than any other.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Host;

use super::address::{EgressPolicy, is_local_name};
use super::meter::{Meter, Metered};
use super::url::FetchUrl;
use super::{Error, Limits, OwnServer};
use crate::budget::Reservation;

/// The time an address has before the next is tried beside it (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Finds the addresses of names.
#[async_trait]
pub trait Resolve: fmt::Debug + Send + Sync {
    /// The addresses of a host name.
    ///
    /// # Errors
    /// It has none, or that cannot be found out.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver, with everything that the operator configured for it.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0))
            .await?
            .map(|address| address.ip())
            .collect())
    }
}

/// Makes connections.
pub(super) struct Connector {
    allowed: EgressPolicy,
    own: Arc<OwnServer>,
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
    resolve_timeout: Duration,
    connect_timeout: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("allowed", &self.allowed)
            .field("resolver", &self.resolver)
            .finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(
        allowed: EgressPolicy,
        own: Arc<OwnServer>,
        roots: RootCertStore,
        resolver: Arc<dyn Resolve>,
        limits: &Limits,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            allowed,
            own,
            resolver,
            tls: TlsConnector::from(Arc::new(tls)),
            resolve_timeout: limits.resolve_timeout,
            connect_timeout: limits.connect_timeout,
        }
    }

    /// Connects to the host of a URL; `meter` counts what is read. The permit is held by a lookup that goes on although
    /// nobody waits for it any more.
    pub(super) async fn connect(
        &self,
        url: &FetchUrl,
        permit: &Arc<Reservation>,
        meter: &Arc<Meter>,
    ) -> Result<TlsStream<Metered<TcpStream>>, Error> {
        let addresses = self.resolve_allowed(url, permit).await?;
        let server_name = match url.host() {
            Host::Domain(name) => {
                ServerName::try_from(name.to_owned()).map_err(|_| Error::Unresolved)?
            }
            Host::Ipv4(ip) => ServerName::from(IpAddr::from(ip)),
            Host::Ipv6(ip) => ServerName::from(IpAddr::from(ip)),
        };
        let connection = async {
            let tcp = self.dial(&addresses, url.port()).await?;
            let tcp = Metered::new(tcp, Arc::clone(meter));
            self.tls
                .connect(server_name, tcp)
                .await
                .map_err(|e| Error::from_tls(&e))
        };
        timeout(self.connect_timeout, connection)
            .await
            .map_err(|_| Error::ConnectTimeout(self.connect_timeout))?
    }

    /// Addresses of the URL's host, if all of them and the port may be connected to. One that is not public spoils the
    /// others: no public file is on such a host.
    pub(super) async fn resolve_allowed(
        &self,
        url: &FetchUrl,
        permit: &Arc<Reservation>,
    ) -> Result<Vec<IpAddr>, Error> {
        if !self.allowed.port(url.port()) {
            return Err(Error::Port(url.port()));
        }
        let (addresses, local) = match url.host() {
            Host::Ipv4(ip) => (vec![ip.into()], false),
            Host::Ipv6(ip) => (vec![ip.into()], false),
            Host::Domain(name) => {
                let local = is_local_name(name);
                if local && self.allowed.nets.is_empty() {
                    return Err(Error::LocalName);
                }
                (self.resolve(name, permit).await?, local)
            }
        };
        for ip in &addresses {
            if local && !self.allowed.contains(*ip) {
                return Err(Error::LocalName);
            }
            self.check_address(*ip)?;
        }
        Ok(addresses)
    }

    async fn resolve(&self, name: &str, permit: &Arc<Reservation>) -> Result<Vec<IpAddr>, Error> {
        let (resolver, name, permit) = (
            Arc::clone(&self.resolver),
            name.to_owned(),
            Arc::clone(permit),
        );
        // The system's lookup cannot be called off. It counts as long as it runs, so that names whose servers never
        // answer use up one tenant's share and not every thread there is.
        let lookup = tokio::spawn(async move {
            let found = resolver.resolve(&name).await;
            drop(permit);
            found
        });
        let found = timeout(self.resolve_timeout, lookup).await;
        let found = found.map_err(|_| Error::ResolveTimeout(self.resolve_timeout))?;
        match found {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            _ => Err(Error::Unresolved),
        }
    }

    fn check_address(&self, ip: IpAddr) -> Result<(), Error> {
        self.allowed.address(ip).map_err(|reason| {
            tracing::info!(%ip, reason, "not connecting to an address that is not public");
            Error::NotPublic
        })
    }

    /// Connects to the first of the addresses that answers, each a little after the one before it.
    async fn dial(&self, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Error> {
        let mut attempts = FuturesUnordered::new();
        let mut delay = Duration::ZERO;
        for ip in addresses.iter().take(MAX_ADDRESSES) {
            // Whatever comes to be called before this function: nothing is connected to that is not checked here.
            self.check_address(*ip)?;
            let address = SocketAddr::new(*ip, port);
            if self.own.is_listener(address) {
                return Err(Error::OwnAddress);
            }
            attempts.push(async move {
                tokio::time::sleep(delay).await;
                TcpStream::connect(address).await
            });
            delay += STAGGER;
        }
        while let Some(attempt) = attempts.next().await {
            let Ok(stream) = attempt else { continue };
            let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
                continue;
            };
            // Nothing has been said to it yet.
            if self.own.is_peer(local, peer) {
                return Err(Error::OwnAddress);
            }
            return Ok(stream);
        }
        Err(Error::Unreachable)
    }
}
