//! The host that a request is for (RFC 9110 section 7.2, RFC 9112 section 3.2). It decides which routes there are, so one
//! that cannot be relied on is refused before any route is looked for.

use std::net::Ipv6Addr;

use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};

/// Says what is wrong with a request's host, if anything is.
pub(super) fn check(request: &Request) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => {
            return Err("an HTTP/1.1 request needs a Host header");
        }
        (Some(_), Some(_)) => return Err("a request has one Host header, not several"),
        (host, _) => host,
    };
    // An absolute request target wins over the header, which must be right all the same.
    let target = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    for host in host.map(HeaderValue::as_bytes).into_iter().chain(target) {
        if !str::from_utf8(host).is_ok_and(is_host) {
            return Err("the host is not a name or an address, with a port or without one");
        }
    }
    Ok(())
}

/// A name as DNS has them, or an address; then perhaps a port. Names with escapes, which are other spellings of the same
/// host, are refused.
fn is_host(text: &str) -> bool {
    let after_name = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return false;
        }
        rest
    } else {
        let end = text.find(':').unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        if name.is_empty()
            || !name
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c))
        {
            return false;
        }
        rest
    };
    match after_name.strip_prefix(':') {
        Some(port) => {
            port.bytes().all(|c| c.is_ascii_digit())
                && (port.is_empty() || port.parse::<u16>().is_ok())
        }
        None => after_name.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses() {
        for host in [
            "x",
            "cdn.example.com",
            "cdn.example.com.",
            "a_b:8080",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:443",
            "x:",
        ] {
            assert!(is_host(host), "{host}");
        }
        for nonsense in [
            "",
            " ",
            ":80",
            "a b",
            "a,b",
            "a/b",
            "http://a",
            "u@a",
            "a:b",
            "a:-1",
            "a:65536",
            "a:1:2",
            "[::1",
            "::1",
            "[a]",
            "[::1]x",
            "%61",
            "a?",
            "a#b",
            "*",
            "ä",
            "a\\b",
            "[::1%25eth0]",
        ] {
            assert!(!is_host(nonsense), "{nonsense}");
        }
    }
}
