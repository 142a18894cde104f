//! The HTTP client for untrusted URLs: fetches files from URLs that callers supply. The server's
//! other two outbound clients, for the S3 bucket ([`crate::blob`]) and for the command line
//! ([`crate::cli`]), connect only to hosts that the operator configures.
//!
//! * SSRF protection: a URL must have one unambiguous reading ([`FetchUrl`]), the egress policy
//!   allows public addresses and port 443 only ([`EgressPolicy`]), and no fetch leads back to this
//!   server ([`OwnServer`]).
//! * DNS rebinding protection: a name is resolved once per connection, and the connection goes to
//!   an address that was checked (`connect`). Several addresses are raced as in Happy Eyeballs (RFC
//!   8305).
//! * Redirect policy: https only, a bounded number of hops, and each target is checked like the
//!   first URL.
//! * Deadlines: for name resolution, for the TLS connection, for idle time, and for the whole
//!   fetch.
//! * Flood protection: the bytes read are bounded by the size of the file (`meter`).
//!
//! Proxies, cookies, credentials and content codings are not supported, and nothing that an origin
//! sends is shown to callers except its status code.
//!
//! Each fetch opens a connection and closes it. Tenants thus share nothing that one of them could
//! block, and no connection outlives the check of its address. TLS sessions are resumed.

mod address;
mod config;
mod connect;
mod download;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod meter;
mod own_server;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Response, StatusCode};
use prometheus_client::metrics::counter::Counter;
use rustls::RootCertStore;
use tokio::time::{Instant, timeout_at};

pub use address::EgressPolicy;
pub use config::Config;
pub use connect::{Resolve, SystemResolver};
pub use download::Download;
pub use error::Error;
pub use meter::Flood;
pub use own_server::OwnServer;

use connect::Connector;
use exchange::{Driver, exchange, request};
use meter::Meter;

use crate::budget::{Budget, Reservation};
use crate::domain::fetch_url::{FetchUrl, InvalidUrl};
use crate::domain::validators::Validators;
use crate::metrics::Metrics;

/// Maximum length in bytes of a validator (`ETag` or `Last-Modified`) that is stored.
const MAX_VALIDATOR_LENGTH: usize = 1024;

/// Result of a fetch.
#[derive(Debug)]
pub enum Fetched {
    /// A file whose body has not been read yet.
    File(Box<Download>),
    /// The file has not changed since the response that supplied the known validators.
    NotModified,
    /// The origin redirects to this URL of this server, which must not be fetched.
    Own(::url::Url),
}

/// The HTTP client for untrusted URLs.
#[derive(Debug)]
pub struct Fetcher {
    connector: Connector,
    own: Arc<OwnServer>,
    config: Config,
    /// Budget of concurrent fetches; a running fetch holds one unit.
    budget: Budget,
    /// Metrics counter of the bytes read from the sockets of all fetches.
    raw_bytes: Counter,
}

impl Fetcher {
    /// Creates a client that trusts the certificate authorities in `roots`.
    #[must_use]
    pub fn new(
        config: Config,
        own: OwnServer,
        roots: RootCertStore,
        resolver: Arc<dyn Resolve>,
        metrics: &Metrics,
    ) -> Self {
        let own = Arc::new(own);
        let connector = Connector::new(&config, Arc::clone(&own), roots, resolver);
        Self {
            connector,
            own,
            budget: Budget::new("fetches", config.fetches(), metrics),
            raw_bytes: metrics.fetch_raw_bytes.clone(),
            config,
        }
    }

    #[must_use]
    pub fn own(&self) -> &OwnServer {
        &self.own
    }

    /// Requests a file for a tenant, and follows redirects. `known` are the validators from an
    /// earlier response. Dropping the future or the returned download closes the connection.
    ///
    /// # Errors
    /// The URL is not allowed, or the origin does not serve a file.
    pub async fn get(
        &self,
        tenant: &str,
        url: &FetchUrl,
        known: Option<&Validators>,
    ) -> Result<Fetched, Error> {
        let permit = self
            .budget
            .reserve(tenant, 1)
            .await
            .map_err(Error::AtCapacity)?;
        let permit = Arc::new(permit);
        let deadline = Instant::now() + self.config.timeout;
        let followed = timeout_at(deadline, self.follow(url, known, permit, deadline)).await;
        followed.map_err(|_| Error::TooSlow(self.config.timeout))?
    }

    async fn follow(
        &self,
        url: &FetchUrl,
        known: Option<&Validators>,
        permit: Arc<Reservation>,
        deadline: Instant,
    ) -> Result<Fetched, Error> {
        let mut url = url.clone();
        let mut known = known;
        let meter = Arc::new(Meter::new(
            self.config.max_header_bytes,
            self.raw_bytes.clone(),
        ));
        for hop in 0..=self.config.max_redirects {
            let after = |error: Error| {
                if hop == 0 {
                    error
                } else {
                    Error::Redirected(Box::new(error))
                }
            };
            let fingerprint = url.fingerprint();
            let known_here = known.filter(|known| known.url == fingerprint);
            let (response, driver) = self
                .send(&url, known_here, &permit, &meter)
                .await
                .map_err(after)?;
            match response.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    match redirect_target(&url, response.headers(), &self.own).map_err(after)? {
                        Target::Own(url) => return Ok(Fetched::Own(url)),
                        Target::Other(other) => url = other,
                    }
                }
                StatusCode::NOT_MODIFIED
                    if known_here.is_some_and(|known| known.match_etag(response.headers())) =>
                {
                    return Ok(Fetched::NotModified);
                }
                // The 304 response is about another version of the file (RFC 9111 section 4.3.4),
                // so retry without conditions.
                StatusCode::NOT_MODIFIED if known_here.is_some() => known = None,
                status if status.is_success() => {
                    check_response(&response).map_err(after)?;
                    let validators = validators(fingerprint, response.headers());
                    let download = Download::new(
                        response,
                        validators,
                        &self.config,
                        deadline,
                        meter,
                        (driver, permit),
                    );
                    return download
                        .map(|download| Fetched::File(Box::new(download)))
                        .map_err(after);
                }
                status => return Err(after(Error::Status(status.as_u16()))),
            }
        }
        Err(Error::TooManyRedirects(self.config.max_redirects))
    }

    /// Opens a connection, sends a request, and reads the response header.
    async fn send(
        &self,
        url: &FetchUrl,
        known: Option<&Validators>,
        permit: &Arc<Reservation>,
        meter: &Arc<Meter>,
    ) -> Result<(Response<Incoming>, Driver), Error> {
        let response = async {
            let stream = self.connector.connect(url, permit, meter).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            exchange(
                stream,
                request(url, known, http2, &self.own.pseudonym),
                http2,
                &self.config,
                meter,
            )
            .await
        };
        // An excess that the meter found takes precedence over the error: TLS and HTTP see only
        // that the stream ended.
        response
            .await
            .map_err(|error| meter.flood().map_or(error, Error::Flood))
    }
}

/// Target of a redirect: a URL of this server, or another URL.
enum Target {
    Own(::url::Url),
    Other(FetchUrl),
}

/// Returns the target of a redirect from its `Location` header, checked like the first URL.
fn redirect_target(url: &FetchUrl, headers: &HeaderMap, own: &OwnServer) -> Result<Target, Error> {
    let location = headers
        .get(header::LOCATION)
        .filter(|location| !location.is_empty())
        .ok_or(Error::NoLocation)?;
    // The header is decoded as UTF-8, as browsers do.
    let location = std::str::from_utf8(location.as_bytes())
        .map_err(|_| Error::BadRedirect(InvalidUrl::Malformed))?;
    // URLs of this server are recognised first, with a lenient parser, because they may be http
    // URLs.
    match url.as_url().join(location) {
        Ok(url) if own.covers(&url) => Ok(Target::Own(url)),
        _ => url
            .join(location)
            .map(Target::Other)
            .map_err(Error::BadRedirect),
    }
}

/// Checks that a successful response has the whole file, without a content coding.
fn check_response<B>(response: &Response<B>) -> Result<(), Error> {
    let headers = response.headers();
    // hyper decodes the transfer coding `chunked` only, and would return any other as part of the
    // file.
    let transfer = headers.get_all(header::TRANSFER_ENCODING).iter();
    if transfer.into_iter().any(|coding| {
        !coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    }) {
        return Err(Error::Encoded);
    }
    let encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.into_iter().any(|encoding| {
        !encoding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"identity")
    }) {
        return Err(Error::Encoded);
    }
    match response.status() {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => Ok(()),
        StatusCode::PARTIAL_CONTENT if is_whole(headers) => Ok(()),
        StatusCode::PARTIAL_CONTENT => Err(Error::Partial),
        status => Err(Error::Status(status.as_u16())),
    }
}

/// Returns true if `Content-Range` covers the whole file, as `bytes 0-41/42` does (RFC 9110 section
/// 14.4).
fn is_whole(headers: &HeaderMap) -> bool {
    let covers_all = |range: &str| -> Option<bool> {
        let (last, size) = range.strip_prefix("bytes 0-")?.split_once('/')?;
        Some(last.parse::<u64>().ok()?.checked_add(1)? == size.parse::<u64>().ok()?)
    };
    headers
        .get(header::CONTENT_RANGE)
        .and_then(|range| range.to_str().ok())
        .and_then(covers_all)
        .unwrap_or(false)
}

fn validators(url: String, headers: &HeaderMap) -> Option<Validators> {
    let etag = text(headers, &header::ETAG)
        .filter(|etag| is_entity_tag(etag) && etag.len() <= MAX_VALIDATOR_LENGTH);
    let modified = text(headers, &header::LAST_MODIFIED);
    let last_modified =
        modified.filter(|modified| is_strong_date(modified, text(headers, &header::DATE)));
    let own = |text: Option<&str>| text.map(str::to_owned);
    let validators = Validators {
        url,
        etag: own(etag),
        last_modified: own(last_modified),
    };
    (validators.etag.is_some() || validators.last_modified.is_some()).then_some(validators)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns true for a well-formed entity tag (RFC 9110 section 8.8.3). Other values, above all `*`,
/// would have another meaning in `If-None-Match`.
fn is_entity_tag(text: &str) -> bool {
    let opaque = text.strip_prefix("W/").unwrap_or(text);
    opaque.len() >= 2
        && opaque.starts_with('"')
        && opaque.ends_with('"')
        && !opaque[1..opaque.len() - 1].contains('"')
}

/// Returns true if a modification time is a strong validator: it must be at least a second before
/// the time of the response, because the file can change several times in a second (RFC 9110
/// section 8.8.2.2).
fn is_strong_date(modified: &str, sent: Option<&str>) -> bool {
    let Ok(modified) = httpdate::parse_http_date(modified) else {
        return false;
    };
    let sent = sent
        .and_then(|sent| httpdate::parse_http_date(sent).ok())
        .unwrap_or_else(crate::clock::system_time);
    sent.duration_since(modified)
        .is_ok_and(|age| age >= Duration::from_secs(1))
}

impl Validators {
    /// Returns false if a 304 response has an entity tag other than the known one, and so is about
    /// another version of the file.
    fn match_etag(&self, headers: &HeaderMap) -> bool {
        let opaque = |etag: &str| etag.strip_prefix("W/").unwrap_or(etag).to_owned();
        match (&self.etag, text(headers, &header::ETAG)) {
            (Some(ours), Some(theirs)) => opaque(ours) == opaque(theirs),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget;
    use async_trait::async_trait;
    use hyper::header::HeaderValue;
    use std::io;
    use std::net::IpAddr;

    /// A resolver that gives the same answer for all names.
    #[derive(Debug)]
    struct FixedResolver(Vec<IpAddr>);

    #[async_trait]
    impl Resolve for FixedResolver {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.clone())
        }
    }

    /// Parses the DNS answers that the comment of a test URL specifies, such as `[dns A=10.0.0.1]`.
    fn dns_answers(comment: &str) -> Vec<IpAddr> {
        let Some((answers, _)) = comment
            .strip_prefix("[dns ")
            .and_then(|rest| rest.split_once(']'))
        else {
            return vec!["93.184.215.14".parse().expect("address")];
        };
        answers
            .split(',')
            .map(|answer| {
                answer
                    .split_once('=')
                    .expect("record")
                    .1
                    .parse()
                    .expect("address")
            })
            .collect()
    }

    fn budget() -> Budget {
        Budget::new(
            "fetches",
            budget::Limits::without_queue(1, 1),
            &crate::metrics::Metrics::default(),
        )
    }

    /// Parses and resolves a URL, and checks its addresses against the egress policy.
    async fn check(url: &str, answers: Vec<IpAddr>) -> Result<(), Error> {
        let url = FetchUrl::parse(url)?;
        let own = Arc::new(fuzzing::no_server());
        let connector = Connector::new(
            &Config::default(),
            own,
            RootCertStore::empty(),
            Arc::new(FixedResolver(answers)),
        );
        let permit = Arc::new(budget().try_reserve("tenant", 1).expect("a permit"));
        connector.resolve_allowed(&url, &permit).await.map(drop)
    }

    #[tokio::test]
    async fn listed_urls_are_allowed_or_blocked_as_listed() {
        let list = include_str!("../../tests/it/data/fetch_urls.tsv");
        let mut lines = 0;
        for line in list.lines().filter(|line| !line.starts_with('#')) {
            let [verdict, url, comment] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            // Redirects are covered by the tests with hostile origins.
            if comment.starts_with("[redirect") {
                continue;
            }
            let checked = check(url, dns_answers(comment)).await;
            let as_listed = match verdict {
                "allow" => checked.is_ok(),
                "block" => {
                    matches!(
                        checked,
                        Err(Error::Url(_) | Error::Port(_) | Error::LocalName | Error::NotPublic)
                    )
                }
                _ => false,
            };
            assert!(as_listed, "{url} ({comment}): {checked:?}");
            lines += 1;
        }
        assert!(lines > 100, "{lines}");
    }

    #[tokio::test]
    async fn name_with_one_private_address_is_rejected() {
        let answers = |ips: &[&str]| ips.iter().map(|ip| ip.parse().expect("address")).collect();
        assert!(
            check(
                "https://a.example/",
                answers(&["93.184.215.14", "2606:4700::1"])
            )
            .await
            .is_ok()
        );
        for ips in [["93.184.215.14", "10.0.0.1"], ["fd00::1", "93.184.215.14"]] {
            assert!(matches!(
                check("https://a.example/", answers(&ips)).await,
                Err(Error::NotPublic)
            ));
        }
        assert!(matches!(
            check("https://a.example/", Vec::new()).await,
            Err(Error::Unresolved)
        ));
    }

    #[test]
    fn content_range_of_whole_file_is_accepted() {
        let whole = |range: &'static str| {
            is_whole(&HeaderMap::from_iter([(
                header::CONTENT_RANGE,
                HeaderValue::from_static(range),
            )]))
        };
        assert!(whole("bytes 0-41/42"));
        for range in [
            "bytes 0-40/42",
            "bytes 1-41/42",
            "bytes 0-41/*",
            "bytes */42",
            "bytes 0-18446744073709551615/0",
        ] {
            assert!(!whole(range), "{range}");
        }
        assert!(!is_whole(&HeaderMap::new()));
    }
}
