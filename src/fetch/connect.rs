//! Opens connections to origins: resolves the name, checks the addresses, and does the TCP and TLS
//! handshakes.
//!
//! DNS rebinding protection: a name is resolved once, all of its addresses are checked against the
//! egress policy, and the TCP connection goes to one of these addresses. `dial` is the only
//! function that opens a socket, and checks each address again.

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
use super::{Config, Error, OwnServer};
use crate::budget::Reservation;
use crate::domain::fetch_url::FetchUrl;

/// Delay before the next address is tried in parallel: the Connection Attempt Delay of Happy
/// Eyeballs (RFC 8305 section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Maximum number of addresses tried for one host name.
const MAX_ADDRESSES: usize = 8;

/// A DNS resolver, which tests can replace.
#[async_trait]
pub trait Resolve: fmt::Debug + Send + Sync {
    /// Looks up the IP addresses of a host name.
    ///
    /// # Errors
    /// The name has no address, or the lookup failed.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The operating system's resolver (`getaddrinfo`).
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

/// Opens connections to origins.
pub(super) struct Connector {
    policy: EgressPolicy,
    own: Arc<OwnServer>,
    resolver: Arc<dyn Resolve>,
    tls: TlsConnector,
    resolve_timeout: Duration,
    connect_timeout: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("policy", &self.policy)
            .field("resolver", &self.resolver)
            .finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(
        config: &Config,
        own: Arc<OwnServer>,
        roots: RootCertStore,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports the default TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self {
            policy: config.egress_policy(),
            own,
            resolver,
            tls: TlsConnector::from(Arc::new(tls)),
            resolve_timeout: config.resolve_timeout,
            connect_timeout: config.connect_timeout,
        }
    }

    /// Opens a connection to the host of a URL. `meter` counts the bytes read from it. The name
    /// lookup holds `permit` until it returns, even if the fetch is cancelled.
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

    /// Resolves the host of a URL, and checks its port and all its addresses against the egress
    /// policy. One private address is enough to reject the host, because no public host has one.
    pub(super) async fn resolve_allowed(
        &self,
        url: &FetchUrl,
        permit: &Arc<Reservation>,
    ) -> Result<Vec<IpAddr>, Error> {
        if !self.policy.allows_port(url.port()) {
            return Err(Error::Port(url.port()));
        }
        let (addresses, local) = match url.host() {
            Host::Ipv4(ip) => (vec![ip.into()], false),
            Host::Ipv6(ip) => (vec![ip.into()], false),
            Host::Domain(name) => {
                let local = is_local_name(name);
                if local && self.policy.nets.is_empty() {
                    return Err(Error::LocalName);
                }
                (self.resolve(name, permit).await?, local)
            }
        };
        for ip in &addresses {
            if local && !self.policy.contains(*ip) {
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
        // A `getaddrinfo` call cannot be cancelled, so it holds the permit until it returns. Names
        // whose servers never answer thus exhaust one tenant's share rather than all blocking
        // threads.
        let lookup = tokio::spawn(async move {
            let addresses = resolver.resolve(&name).await;
            drop(permit);
            addresses
        });
        let addresses = timeout(self.resolve_timeout, lookup).await;
        match addresses.map_err(|_| Error::ResolveTimeout(self.resolve_timeout))? {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            _ => Err(Error::Unresolved),
        }
    }

    fn check_address(&self, ip: IpAddr) -> Result<(), Error> {
        self.policy.check_address(ip).map_err(|reason| {
            tracing::info!(%ip, reason, "egress policy denies an address");
            Error::NotPublic
        })
    }

    /// Opens a TCP connection to the first address that accepts one. The attempts are staggered and
    /// run in parallel (Happy Eyeballs, RFC 8305 section 5).
    async fn dial(&self, addresses: &[IpAddr], port: u16) -> Result<TcpStream, Error> {
        let mut attempts = FuturesUnordered::new();
        let mut delay = Duration::ZERO;
        for ip in addresses.iter().take(MAX_ADDRESSES) {
            // The caller has checked the address already; checking it here too means that none can
            // bypass the policy.
            self.check_address(*ip)?;
            let address = SocketAddr::new(*ip, port);
            if self.own.is_listener(address) {
                return Err(Error::OwnAddress);
            }
            attempts.push(async move {
                tokio::time::sleep(delay).await;
                TcpStream::connect(address).await
            });
            delay += ATTEMPT_DELAY;
        }
        while let Some(attempt) = attempts.next().await {
            let Ok(stream) = attempt else { continue };
            let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
                continue;
            };
            // Nothing has been sent yet, so a connection to this server does no harm.
            if self.own.is_peer(local, peer) {
                return Err(Error::OwnAddress);
            }
            return Ok(stream);
        }
        Err(Error::Unreachable)
    }
}
