//! Host routing: a CDN host of its own serves files only, every other host everything.

use axum::Router;
use hyper::body::Incoming;
use hyper::header;
use hyper::http::uri::Authority;

use crate::domain::base_url::BaseUrl;

/// The routes of each host.
#[derive(Clone, Debug)]
pub struct HostRouter {
    /// Routes of every host but the CDN's.
    pub all: Router,
    /// Routes of the CDN's host, if it has one of its own.
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

/// Returns true if a `Host` names the CDN. Ports are not compared: a reverse proxy often forwards
/// to another one.
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
