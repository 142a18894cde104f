//! Who connects: the share of connections of each client address, and which address a trusted proxy names.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{self, HeaderName};
use ipnet::IpNet;

use super::{Config, forwarded};
use crate::budget::{AtCapacity, Budget, Reservation};
use crate::domain::client_address::ClientAddress;
use crate::metrics::Metrics;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Clients and the proxies in front of them.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    connections: Budget,
    proxies: Vec<IpNet>,
}

impl Clients {
    pub(super) fn new(config: &Config, metrics: &Metrics) -> Self {
        Self {
            connections: Budget::new("connections", config.connections(), metrics),
            proxies: config.trusted_proxies.to_vec(),
        }
    }

    /// Reserves a connection of the peer's share. Each connection of a trusted proxy is a holder of its own, so a proxy
    /// may have any number.
    pub(super) fn admit(&self, peer: SocketAddr) -> Result<Reservation, AtCapacity> {
        let holder = if self.trusts(peer.ip()) {
            peer.to_string()
        } else {
            ClientAddress::of_peer(peer.ip()).to_string()
        };
        self.connections.try_reserve(&holder, 1)
    }

    /// The client behind a request: the peer, or the nearest hop that a trusted proxy names and that is none itself.
    /// Whatever stands before that hop was written by the client.
    pub(super) fn address(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let direct = ClientAddress::of_peer(peer);
        if !self.trusts(peer) {
            return direct;
        }
        let standard = self.client(forwarded::hops(&values(headers, &header::FORWARDED)));
        let customary = self.client(forwarded::customary_hops(&values(
            headers,
            &X_FORWARDED_FOR,
        )));
        match (standard, customary) {
            // One of them may be the client's own, passed on by a proxy that writes the other.
            (Some(standard), Some(customary)) if standard != customary => direct,
            (Some(ip), _) | (_, Some(ip)) => ClientAddress::forwarded(ip),
            (None, None) => direct,
        }
    }

    /// The last hop that is no trusted proxy, if all hops after it can be read; the first hop, if all are proxies.
    fn client(&self, hops: Vec<Option<IpAddr>>) -> Option<IpAddr> {
        let mut client = None;
        for hop in hops.into_iter().rev() {
            client = Some(hop?);
            if !self.trusts(hop?) {
                break;
            }
        }
        client
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.proxies.iter().any(|net| net.contains(&ip))
    }
}

/// All lines of a header as one list (RFC 9110 section 5.3).
fn values(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap_or("unreadable"));
    lines.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let proxies = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().expect("network"));
        let config = Config {
            trusted_proxies: proxies.into_iter().collect(),
            ..Config::default()
        };
        let clients = Clients::new(&config, &Metrics::default());
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    value.parse().expect("a value"),
                )
            })
            .collect();
        clients
            .address(peer.parse().expect("address"), &headers)
            .to_string()
    }

    #[test]
    fn headers_of_strangers_are_not_read() {
        assert_eq!(
            seen("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")]),
            "192.0.2.1"
        );
        assert_eq!(
            seen("192.0.2.1", &[("forwarded", "for=198.51.100.1")]),
            "192.0.2.1"
        );
    }

    #[test]
    fn nearest_hop_that_is_no_proxy_is_the_client() {
        for (headers, client) in [
            (&[("x-forwarded-for", "198.51.100.1")][..], "198.51.100.1"),
            (
                &[("x-forwarded-for", "203.0.113.9, 198.51.100.1,10.1.1.1")],
                "198.51.100.1",
            ),
            (
                &[
                    ("x-forwarded-for", "203.0.113.9"),
                    ("x-forwarded-for", "198.51.100.1:4711"),
                ],
                "198.51.100.1",
            ),
            (
                &[(
                    "forwarded",
                    "for=203.0.113.9, for=198.51.100.1;proto=https, for=\"[fd00::1]:80\"",
                )],
                "198.51.100.1",
            ),
            (
                &[("forwarded", "For=\"[2001:db8:1:2::3]:4711\";by=x")],
                "2001:db8:1:2::/64",
            ),
            (&[("x-forwarded-for", "10.0.0.7, 10.0.0.8")], "10.0.0.7"),
        ] {
            assert_eq!(seen("10.0.0.1", headers), client, "{headers:?}");
            assert_eq!(seen("::ffff:10.0.0.1", headers), client, "{headers:?}");
        }
    }

    #[test]
    fn what_cannot_be_relied_on_counts_for_the_proxy() {
        for headers in [
            &[][..],
            &[("x-forwarded-for", "198.51.100.1, nonsense")],
            &[("forwarded", "for=unknown")],
            &[("forwarded", "for=_hidden, proto=https")],
            &[("forwarded", "for=\"198.51.100.1")],
            &[
                ("forwarded", "for=203.0.113.9"),
                ("x-forwarded-for", "198.51.100.1"),
            ],
        ] {
            assert_eq!(seen("10.0.0.1", headers), "10.0.0.1", "{headers:?}");
        }
    }
}
