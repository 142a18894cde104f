//! Compares URLs as servers and proxies read them, not as text, because one resource has many
//! spellings.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

/// Returns true if a URL is below a base URL, regardless of scheme, case, default port, trailing
/// dots of the host, repeated slashes, dot segments and percent-encoding. A path that only some
/// servers read as below the base counts as below it.
#[must_use]
pub fn is_below(base: &Url, url: &Url) -> bool {
    if !is_same_host(base, url) {
        return false;
    }
    let prefix = plain_segments(base.path());
    let decoded = percent_decode_str(url.path()).decode_utf8_lossy();
    let as_written = |path: &str| {
        let base = base.path().trim_end_matches('/');
        path.strip_prefix(base)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    as_written(url.path())
        || as_written(&decoded)
        || plain_segments(url.path()).starts_with(&prefix)
}

/// Returns true if two URLs have the same host and port. The default ports of `http` and `https`
/// count as equal, because a proxy that serves `https` usually redirects from `http`.
#[must_use]
pub fn is_same_host(one: &Url, other: &Url) -> bool {
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https");
    let is_same_port =
        one.port() == other.port() || one.port_or_known_default() == other.port_or_known_default();
    is_http(one)
        && is_http(other)
        && is_same_port
        && host(one).is_some()
        && host(one) == host(other)
}

#[derive(PartialEq, Eq)]
enum PlainHost {
    Name(String),
    Ip(IpAddr),
}

fn host(url: &Url) -> Option<PlainHost> {
    Some(match url.host()? {
        Host::Domain(name) => PlainHost::Name(name.trim_end_matches('.').to_ascii_lowercase()),
        Host::Ipv4(ip) => PlainHost::Ip(ip.into()),
        Host::Ipv6(ip) => PlainHost::Ip(IpAddr::from(ip).to_canonical()),
    })
}

/// Returns the segments of a path after all normalisation that a chain of proxies may apply:
/// repeated percent-decoding, and removal of empty and dot segments.
fn plain_segments(path: &str) -> Vec<String> {
    let mut path = path.to_owned();
    while let decoded = percent_decode_str(&path).decode_utf8_lossy().into_owned()
        && decoded != path
    {
        path = decoded;
    }
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_lowercase()),
        }
    }
    segments
}
