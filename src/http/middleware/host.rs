//! Validates the host that a request names (RFC 9110 section 7.2, RFC 9112 section 3.2). The host
//! decides which routes are reachable, so ambiguous hosts are rejected.

use std::net::Ipv6Addr;

use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::error::ApiError;

pub(super) async fn check(request: Request, next: Next) -> Response {
    match problem(&request) {
        Some(problem) => ApiError::InvalidParameter(problem.to_owned()).into_response(),
        None => next.run(request).await,
    }
}

fn problem(request: &Request) -> Option<&'static str> {
    let mut headers = request.headers().get_all(header::HOST).iter();
    let header = match (headers.next(), headers.next()) {
        (None, _) if request.version() == Version::HTTP_11 => {
            return Some("an HTTP/1.1 request needs a Host header");
        }
        (Some(_), Some(_)) => return Some("a request has one Host header, not several"),
        (header, _) => header,
    };
    // An absolute request target takes precedence over the `Host` header, but both must be valid.
    let target = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let mut hosts = header.map(HeaderValue::as_bytes).into_iter().chain(target);
    let is_valid = hosts.all(|host| str::from_utf8(host).is_ok_and(is_host));
    (!is_valid).then_some("the host is not a name or an address, with a port or without one")
}

/// Returns true for a DNS name or an IP address, with or without a port. Percent-encoded names are
/// rejected, because they are a second spelling of the same host.
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
