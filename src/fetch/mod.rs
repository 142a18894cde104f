//! The only outbound HTTP client. Fetches files that other people host, from URLs that anybody may have written.
//!
//! What it owns: which URLs are clear ([`FetchUrl`]), which addresses are public ([`EgressPolicy`]), the one place that
//! connects, every limit in time and size, how many run at a time, and that none leads back to this server
//! ([`OwnServer`]). What it refuses to do: follow anything but https, use proxies or cookies, send credentials, undo
//! content encodings, repeat to anyone what a host said.
//!
//! Each fetch has a connection of its own, made for it and closed after it: tenants share nothing that one of them could
//! hold up, and no connection outlives the check of its address. TLS sessions are resumed.

mod address;
mod connect;
mod download;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod meter;
mod own;
mod url;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Response, StatusCode};
use prometheus_client::metrics::counter::Counter;
use rustls::RootCertStore;
use tokio::time::{Instant, timeout_at};

pub use address::EgressPolicy;
pub use connect::{Resolve, SystemResolver};
pub use download::Download;
pub use error::Error;
pub use meter::Flood;
pub use own::{OwnServer, is_below, is_same_host};
pub use url::{FetchUrl, InvalidUrl, MAX_URL_LENGTH};

use connect::Connector;
use exchange::{Driver, exchange, request};
use meter::Meter;

use crate::budget::{Budget, Reservation};

/// Longest validator that is kept.
const MAX_VALIDATOR_LENGTH: usize = 1024;

/// Limits of every fetch.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// How long all of it may take, redirects included.
    pub timeout: Duration,
    /// How long the host may send nothing.
    pub idle_timeout: Duration,
    /// How long finding the addresses of a name may take.
    pub resolve_timeout: Duration,
    /// How long making a TLS connection may take.
    pub connect_timeout: Duration,
    /// Most redirects.
    pub max_redirects: usize,
    /// Largest header of an answer, in bytes.
    pub max_header_bytes: usize,
}

/// What an origin gave to ask again with (RFC 9110 section 8.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// Fingerprint of the URL that the file came from in the end; another one is not asked with them.
    pub url: String,
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

/// What came of a fetch.
#[derive(Debug)]
pub enum Fetched {
    /// A file, whose bytes are still to be read.
    File(Box<Download>),
    /// The file has not changed since the validators were given.
    NotModified,
    /// A redirect to a URL of this server.
    Own(::url::Url),
}

/// The client.
#[derive(Debug)]
pub struct Fetcher {
    connector: Connector,
    own: Arc<OwnServer>,
    limits: Limits,
    /// One unit for each running fetch.
    budget: Budget,
    /// Bytes that all fetches have read.
    raw_bytes: Counter,
}

impl Fetcher {
    /// A client that trusts `roots`, reaches what is public or `allowed` but not `own`, and takes a unit of `budget` for
    /// each fetch. `raw_bytes` counts what is read of sockets.
    #[must_use]
    pub fn new(
        allowed: EgressPolicy,
        own: OwnServer,
        roots: RootCertStore,
        resolver: Arc<dyn Resolve>,
        limits: Limits,
        budget: Budget,
        raw_bytes: Counter,
    ) -> Self {
        let own = Arc::new(own);
        let connector = Connector::new(allowed, Arc::clone(&own), roots, resolver, &limits);
        Self {
            connector,
            own,
            limits,
            budget,
            raw_bytes,
        }
    }

    /// How the requests of this client, and the URLs that it must not reach, are recognised.
    #[must_use]
    pub fn own(&self) -> &OwnServer {
        &self.own
    }

    /// Asks for a file on behalf of a tenant, and follows redirects. `known` are the validators of an earlier answer.
    /// Dropping the future, or the download it gives, closes the connection.
    ///
    /// # Errors
    /// There is no file to be had from this URL.
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
        let deadline = Instant::now() + self.limits.timeout;
        let followed = timeout_at(deadline, self.follow(url, known, permit, deadline)).await;
        followed.map_err(|_| Error::TooSlow(self.limits.timeout))?
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
            self.limits.max_header_bytes,
            self.raw_bytes.clone(),
        ));
        for hop in 0..=self.limits.max_redirects {
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
                .ask(&url, known_here, &permit, &meter)
                .await
                .map_err(after)?;
            match response.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    match next(&url, response.headers(), &self.own).map_err(after)? {
                        Next::Own(url) => return Ok(Fetched::Own(url)),
                        Next::Other(other) => url = other,
                    }
                }
                StatusCode::NOT_MODIFIED
                    if known_here.is_some_and(|known| known.allow(response.headers())) =>
                {
                    return Ok(Fetched::NotModified);
                }
                // It speaks of another version (RFC 9111 section 4.3.4); so it is asked without conditions.
                StatusCode::NOT_MODIFIED if known_here.is_some() => known = None,
                status if status.is_success() => {
                    check(&response).map_err(after)?;
                    let validators = validators(fingerprint, response.headers());
                    let download = Download::new(
                        response,
                        validators,
                        &self.limits,
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
        Err(Error::TooManyRedirects(self.limits.max_redirects))
    }

    /// One request and the header of its answer.
    async fn ask(
        &self,
        url: &FetchUrl,
        known: Option<&Validators>,
        permit: &Arc<Reservation>,
        meter: &Arc<Meter>,
    ) -> Result<(Response<Incoming>, Driver), Error> {
        let asked = async {
            let stream = self.connector.connect(url, permit, meter).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            exchange(
                stream,
                request(url, known, http2, &self.own.pseudonym),
                http2,
                &self.limits,
                meter,
            )
            .await
        };
        // Whatever its end looked like to TLS and HTTP.
        asked
            .await
            .map_err(|error| meter.flood().map_or(error, Error::Flood))
    }
}

/// Where a redirect leads.
enum Next {
    Own(::url::Url),
    Other(FetchUrl),
}

fn next(url: &FetchUrl, headers: &HeaderMap, own: &OwnServer) -> Result<Next, Error> {
    let location = headers
        .get(header::LOCATION)
        .filter(|location| !location.is_empty())
        .ok_or(Error::NoLocation)?;
    // Browsers read the bytes as UTF-8, and so do we.
    let location = std::str::from_utf8(location.as_bytes())
        .map_err(|_| Error::BadRedirect(InvalidUrl::Malformed))?;
    // Looked at as any client would read it, before it is held against what can be fetched: our own base may be http.
    match url.as_url().join(location) {
        Ok(url) if own.covers(&url) => Ok(Next::Own(url)),
        _ => url
            .join(location)
            .map(Next::Other)
            .map_err(Error::BadRedirect),
    }
}

/// Whether a successful answer brings the whole file as it is.
fn check<B>(response: &Response<B>) -> Result<(), Error> {
    let headers = response.headers();
    // hyper undoes `chunked` alone, and takes whatever else there is for the file.
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

/// Whether a `Content-Range` names the whole file: `bytes 0-41/42` (RFC 9110 section 14.4).
fn is_whole(headers: &HeaderMap) -> bool {
    let whole = |range: &str| -> Option<bool> {
        let (last, size) = range.strip_prefix("bytes 0-")?.split_once('/')?;
        Some(last.parse::<u64>().ok()?.checked_add(1)? == size.parse::<u64>().ok()?)
    };
    headers
        .get(header::CONTENT_RANGE)
        .and_then(|range| range.to_str().ok())
        .and_then(whole)
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

/// RFC 9110 section 8.8.3. Anything else, `*` above all, would mean something else in `If-None-Match`.
fn is_entity_tag(text: &str) -> bool {
    let opaque = text.strip_prefix("W/").unwrap_or(text);
    opaque.len() >= 2
        && opaque.starts_with('"')
        && opaque.ends_with('"')
        && !opaque[1..opaque.len() - 1].contains('"')
}

/// Whether a time of change tells two versions apart: not if the second in which the file was sent had not passed yet
/// (RFC 9110 section 8.8.2.2).
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
    /// Whether an answer that nothing has changed speaks of the version that these came with.
    fn allow(&self, headers: &HeaderMap) -> bool {
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

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits {
        max_bytes: 1024,
        timeout: SECOND,
        idle_timeout: SECOND,
        resolve_timeout: SECOND,
        connect_timeout: SECOND,
        max_redirects: 5,
        max_header_bytes: 8192,
    };

    /// What a line of the list says a name resolves to.
    #[derive(Debug)]
    struct Stub(Vec<IpAddr>);

    #[async_trait]
    impl Resolve for Stub {
        async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            Ok(self.0.clone())
        }
    }

    fn hint(why: &str) -> Vec<IpAddr> {
        let Some((hint, _)) = why
            .strip_prefix("[dns ")
            .and_then(|rest| rest.split_once(']'))
        else {
            return vec!["93.184.215.14".parse().expect("address")];
        };
        hint.split(',')
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

    /// Whether policy lets a URL through to the one function that connects.
    async fn admits(url: &str, answers: Vec<IpAddr>) -> Result<(), Error> {
        let url = FetchUrl::parse(url)?;
        let own = Arc::new(fuzzing::nobody());
        let connector = Connector::new(
            EgressPolicy::default(),
            own,
            RootCertStore::empty(),
            Arc::new(Stub(answers)),
            &LIMITS,
        );
        let permit = Arc::new(budget().try_reserve("tenant", 1).expect("a permit"));
        connector.resolve_allowed(&url, &permit).await.map(drop)
    }

    #[tokio::test]
    async fn every_url_of_the_list_is_judged_as_it_says() {
        let list = include_str!("../../tests/it/data/fetch_urls.tsv");
        let mut lines = 0;
        for line in list.lines().filter(|line| !line.starts_with('#')) {
            let [verdict, url, why] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            // Served by an origin, in the tests of hostile origins.
            if why.starts_with("[redirect") {
                continue;
            }
            let inspected = admits(url, hint(why)).await;
            let as_listed = match verdict {
                "allow" => inspected.is_ok(),
                "block" => {
                    matches!(
                        inspected,
                        Err(Error::Url(_) | Error::Port(_) | Error::LocalName | Error::NotPublic)
                    )
                }
                _ => false,
            };
            assert!(as_listed, "{url} ({why}): {inspected:?}");
            lines += 1;
        }
        assert!(lines > 100, "{lines}");
    }

    #[tokio::test]
    async fn one_address_that_is_not_public_spoils_a_name() {
        let answers = |ips: &[&str]| ips.iter().map(|ip| ip.parse().expect("address")).collect();
        assert!(
            admits(
                "https://a.example/",
                answers(&["93.184.215.14", "2606:4700::1"])
            )
            .await
            .is_ok()
        );
        for ips in [["93.184.215.14", "10.0.0.1"], ["fd00::1", "93.184.215.14"]] {
            assert!(matches!(
                admits("https://a.example/", answers(&ips)).await,
                Err(Error::NotPublic)
            ));
        }
        assert!(matches!(
            admits("https://a.example/", Vec::new()).await,
            Err(Error::Unresolved)
        ));
    }

    #[test]
    fn a_part_may_be_the_whole() {
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
