//! Limits the number of connections per client address, and finds the address of a client behind a
//! trusted proxy.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{self, HeaderName};
use ipnet::IpNet;

use super::{Config, forwarded};
use crate::budget::{AtCapacity, Budget, Reservation};
use crate::domain::client_address::ClientAddress;
use crate::metrics::Metrics;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

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

    /// Reserves one connection from the peer's share. Each connection of a trusted proxy gets its
    /// own share, so the number of connections per proxy is not limited.
    pub(super) fn reserve_connection(&self, peer: SocketAddr) -> Result<Reservation, AtCapacity> {
        let holder = if self.trusts(peer.ip()) {
            peer.to_string()
        } else {
            ClientAddress::of_peer(peer.ip()).to_string()
        };
        self.connections.try_reserve(&holder, 1)
    }

    /// Returns the client address: the peer or, if the peer is a trusted proxy, the nearest hop
    /// that is not a trusted proxy. Hops before that one are not trusted, because the client can
    /// forge them.
    pub(super) fn address(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let direct = ClientAddress::of_peer(peer);
        if !self.trusts(peer) {
            return direct;
        }
        let standard = self.client(forwarded::hops(&joined(headers, &header::FORWARDED)));
        let de_facto = self.client(forwarded::de_facto_hops(&joined(headers, &X_FORWARDED_FOR)));
        match (standard, de_facto) {
            // If the headers differ, neither is used: a proxy that sets one may pass on the other
            // as the client sent it.
            (Some(standard), Some(de_facto)) if standard != de_facto => direct,
            (Some(ip), _) | (_, Some(ip)) => ClientAddress::forwarded(ip),
            (None, None) => direct,
        }
    }

    /// Returns the last hop that is not a trusted proxy, or the first hop if all are trusted.
    /// Returns `None` if a hop that has to be checked cannot be parsed.
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

/// Joins all values of a header into one list (RFC 9110 section 5.3).
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap_or("unreadable"));
    values.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
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
    fn forwarding_headers_of_untrusted_peers_are_ignored() {
        assert_eq!(
            client("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")]),
            "192.0.2.1"
        );
        assert_eq!(
            client("192.0.2.1", &[("forwarded", "for=198.51.100.1")]),
            "192.0.2.1"
        );
    }

    #[test]
    fn nearest_hop_that_is_not_a_proxy_is_the_client() {
        for (headers, expected) in [
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
            assert_eq!(client("10.0.0.1", headers), expected, "{headers:?}");
            assert_eq!(client("::ffff:10.0.0.1", headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn unreliable_headers_count_against_the_proxy() {
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
            assert_eq!(client("10.0.0.1", headers), "10.0.0.1", "{headers:?}");
        }
    }
}
