//! Routes requests by host: a separate CDN host serves files only, all other hosts serve
//! everything.

use axum::Router;
use hyper::body::Incoming;
use hyper::header;
use hyper::http::uri::Authority;

use crate::domain::base_url::BaseUrl;

/// The routes that each host serves.
#[derive(Clone, Debug)]
pub struct HostRouter {
    /// Routes for all hosts except a separate CDN host.
    pub all: Router,
    /// CDN base URL and its routes, if the CDN has a separate host.
    pub files: Option<(BaseUrl, Router)>,
}

impl HostRouter {
    pub(super) fn route(&self, request: &hyper::Request<Incoming>) -> Router {
        let header = || {
            let host = request.headers().get(header::HOST)?;
            host.to_str().ok()
        };
        // An absolute request target takes precedence over the Host header (RFC 9112 section
        // 3.2.2).
        let host = request
            .uri()
            .authority()
            .map(Authority::as_str)
            .or_else(header);
        match &self.files {
            Some((cdn, files)) if host.is_some_and(|host| matches_host(cdn, host)) => files.clone(),
            _ => self.all.clone(),
        }
    }
}

/// Returns true if a `Host` header names the CDN host. Ports are not compared, because a reverse
/// proxy often forwards to a different port.
fn matches_host(cdn: &BaseUrl, host: &str) -> bool {
    let cdn = cdn.authority();
    without_port(&cdn).eq_ignore_ascii_case(without_port(host).trim_end_matches('.'))
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => authority,
    }
}
