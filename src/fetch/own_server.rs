//! Loop protection: prevents fetches from this server (SSRF back to it). Such a request would come
//! from inside the server's network, and could read `/metrics`, which a reverse proxy hides from
//! the public, or files whose URL the sender does not know.
//!
//! A fetch can reach this server in three ways, and there is a check for each: through a URL below
//! one of the base URLs ([`OwnServer::covers`]), through a connection to the listening socket
//! ([`OwnServer::is_peer`]), and through a proxy that forwards the request
//! ([`OwnServer::LOOP_HEADER`]).

use std::net::SocketAddr;

use hyper::header::{HeaderMap, HeaderName};
use url::Url;

use crate::domain::url_match::is_below;

/// The identity of this server, by which a fetch from itself is recognised.
#[derive(Clone, Debug)]
pub struct OwnServer {
    /// Base URLs for clients: the public URL and the CDN URL.
    pub bases: Vec<Url>,
    /// Address of the listening socket; its port must not be 0.
    pub listen: SocketAddr,
    /// Name of this server in [`Self::LOOP_HEADER`]; shared by all servers behind a load balancer.
    pub pseudonym: String,
}

impl OwnServer {
    /// Header that lists the servers that a request has passed (RFC 8586). Unlike `Via`,
    /// intermediaries do not remove this header, and origins do not change their response because
    /// of it.
    pub const LOOP_HEADER: HeaderName = HeaderName::from_static("cdn-loop");

    /// Returns true if a URL is below one of this server's base URLs, in any spelling that a server
    /// or proxy could regard as equivalent.
    #[must_use]
    pub fn covers(&self, url: &Url) -> bool {
        self.bases.iter().any(|base| is_below(base, url))
    }

    /// Returns true if the headers show that this server has sent the request.
    #[must_use]
    pub fn has_sent(&self, headers: &HeaderMap) -> bool {
        let pseudonym = self.pseudonym.as_bytes();
        let passed = headers
            .get_all(Self::LOOP_HEADER)
            .into_iter()
            .flat_map(|value| value.as_bytes().split(|c| *c == b','));
        // In the header, parameters may follow a server's name.
        passed
            .filter_map(|server| server.split(|c| *c == b';').next())
            .any(|id| id.trim_ascii() == pseudonym)
    }

    /// Returns true if an address is recognisable as that of the listening socket even before
    /// connecting.
    pub(super) fn is_listener(&self, address: SocketAddr) -> bool {
        let (ip, listen) = (address.ip().to_canonical(), self.listen.ip().to_canonical());
        let is_any = listen.is_unspecified() && (ip.is_loopback() || ip.is_unspecified());
        address.port() == self.listen.port() && (ip == listen || is_any)
    }

    /// Returns true if the peer of a connection is this server. A server that listens on all
    /// addresses of the machine is recognised because the two ends of the connection have the same
    /// address.
    pub(super) fn is_peer(&self, local: SocketAddr, peer: SocketAddr) -> bool {
        let is_local = local.ip().to_canonical() == peer.ip().to_canonical();
        self.is_listener(peer)
            || (peer.port() == self.listen.port()
                && self.listen.ip().to_canonical().is_unspecified()
                && is_local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect(text)
    }

    fn server(listen: &str) -> OwnServer {
        OwnServer {
            bases: vec![
                url("https://cdn.example.com/files/"),
                url("http://127.0.0.1:8080/"),
            ],
            listen: listen.parse().expect("address"),
            pseudonym: "haversack-1234".to_owned(),
        }
    }

    #[test]
    fn urls_of_ours_are_recognised_in_any_spelling() {
        let server = server("127.0.0.1:8080");
        for text in [
            "https://cdn.example.com/files",
            "https://CDN.Example.com./files/a",
            "https://cdn.example.com:443/files/a?b",
            "http://cdn.example.com/files/a",
            "http://cdn.example.com:80/files/a",
            "http://cdn.example.com:443/files/a",
            "https://user@cdn.example.com/files/a",
            "https://cdn.example.com//files//a",
            "https://cdn.example.com/x/../files/a",
            "https://cdn.example.com/x/%2e%2e/files/a",
            "https://cdn.example.com/%66iles/a",
            "https://cdn.example.com/%2566iles/a",
            "https://cdn.example.com/files%2Fa",
            "https://cdn.example.com/x%2f..%2ffiles/a",
            "https://cdn.example.com/FILES/a",
            "https://cdn.example.com/files/..%2fother",
            "https://cdn.%65xample.com/files/a",
            "http://127.0.0.1:8080/metrics",
            "https://127.0.0.1:8080/",
            "https://[::ffff:127.0.0.1]:8080/v3/chats",
            "https://0x7f.1:8080/",
        ] {
            assert!(server.covers(&url(text)), "{text}");
        }
        for text in [
            "https://cdn.example.com/other",
            "https://cdn.example.com/filesystem/a",
            "https://cdn.example.com:8443/files/a",
            "https://cdn.example.com.evil.example/files/a",
            "https://evil.example/files/a",
            "https://127.0.0.2:8080/",
            "https://127.0.0.1/",
            "ftp://cdn.example.com/files/a",
            "data:text/plain,files",
        ] {
            assert!(!server.covers(&url(text)), "{text}");
        }
    }

    #[test]
    fn the_socket_that_is_listened_on_is_recognised() {
        let address = |text: &str| text.parse::<SocketAddr>().expect(text);
        for (listen, local, peer, is_own) in [
            ("192.0.2.1:8080", "192.0.2.9:5000", "192.0.2.1:8080", true),
            (
                "192.0.2.1:8080",
                "192.0.2.9:5000",
                "[::ffff:192.0.2.1]:8080",
                true,
            ),
            ("192.0.2.1:8080", "192.0.2.1:5000", "192.0.2.1:8443", false),
            ("192.0.2.1:8080", "127.0.0.1:5000", "127.0.0.1:8080", false),
            ("0.0.0.0:8080", "127.0.0.1:5000", "127.0.0.2:8080", true),
            ("0.0.0.0:8080", "192.0.2.1:5000", "192.0.2.1:8080", true),
            ("[::]:8080", "192.0.2.1:5000", "192.0.2.1:8080", true),
            (
                "[::]:8080",
                "[2001:db8::1]:5000",
                "[2001:db8::1]:8080",
                true,
            ),
            ("0.0.0.0:8080", "192.0.2.1:5000", "192.0.2.2:8080", false),
            ("0.0.0.0:8080", "192.0.2.1:5000", "192.0.2.1:443", false),
        ] {
            assert_eq!(
                server(listen).is_peer(address(local), address(peer)),
                is_own,
                "{listen} {peer}"
            );
        }
    }

    #[test]
    fn a_request_of_ours_is_recognised_among_those_of_others() {
        let server = server("127.0.0.1:8080");
        for (values, is_own) in [
            (&["haversack-1234"][..], true),
            (&["cloud.example; v=1, haversack-1234;hop=2"], true),
            (&["other", " haversack-1234 "], true),
            (&["haversack-12345", "x-haversack-1234"], false),
            (&[""], false),
            (&[], false),
        ] {
            let headers = values
                .iter()
                .map(|value| (OwnServer::LOOP_HEADER, value.parse().expect("value")));
            assert_eq!(server.has_sent(&headers.collect()), is_own, "{values:?}");
        }
    }
}
