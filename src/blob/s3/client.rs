//! Makes signed S3 calls with timeouts, and retries them with exponential backoff and jitter.

use std::ops::Range;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, IF_MATCH, RANGE,
};
use reqwest::redirect::Policy;
use reqwest::{Body, Method, Response, StatusCode};
use rusty_s3::S3Action;
use rusty_s3::actions::ListObjectsV2;
use tokio::time::{Instant, timeout};
use tokio_util::io::ReaderStream;
use url::Url;

use super::super::staging::Spooled;
use super::super::{BlobMeta, ByteStream, Error, ObjectHeaders};
use super::{S3Config, error, listed};
use crate::clock::{Timestamp, system_time};

/// Timeout for connecting to the bucket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for responses to inexpensive calls.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for a copy within the bucket.
const COPY_TIMEOUT: Duration = Duration::from_mins(1);
/// Minimum average rate of an upload to the bucket, in bytes per second; determines its timeout.
const MIN_UPLOAD_RATE: u64 = 128 * 1024;
/// Idle timeout of a response body.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum number of retries of a call.
const MAX_RETRIES: usize = 3;
/// Delay before the first retry. Jitter adds up to as much again, so that clients that failed
/// together do not retry together.
const BASE_BACKOFF: Duration = Duration::from_millis(50);
/// Factor by which the delay grows with each retry.
const BACKOFF_FACTOR: f32 = 3.0;
/// Total duration of a call after which it is not retried.
const RETRY_BUDGET: Duration = Duration::from_secs(5);
/// Validity of the signatures of this server's own calls.
const SIGNATURE_LIFETIME: Duration = Duration::from_mins(5);
/// Read size for temporary files, in bytes.
const CHUNK_SIZE: usize = 128 * 1024;

/// Percent-encode set for the source of a copy (RFC 3986).
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Size and entity tag of an object, as returned by HEAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectMeta {
    pub(super) size: u64,
    /// Entity tag without its quotes.
    pub(super) etag: String,
}

impl ObjectMeta {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.etag)
    }
}

/// The HTTP client for one bucket.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    config: S3Config,
}

/// An S3 call that can be repeated.
struct Call<'a> {
    action: &'static str,
    method: Method,
    /// Object key below the prefix; `None` for the bucket itself.
    object: Option<&'a str>,
    /// Continuation token for the next page of a bucket listing.
    token: Option<&'a str>,
    /// `x-amz-*` headers, which S3 requires to be signed.
    signed: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Payload<'a>,
    response_timeout: Duration,
}

enum Payload<'a> {
    None,
    Bytes(Bytes),
    File(&'a Spooled),
}

impl<'a> Call<'a> {
    fn new(action: &'static str, method: Method, object: Option<&'a str>) -> Self {
        let (signed, headers) = (Vec::new(), HeaderMap::new());
        Self {
            action,
            method,
            object,
            token: None,
            signed,
            headers,
            body: Payload::None,
            response_timeout: RESPONSE_TIMEOUT,
        }
    }

    fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.insert(
            name,
            HeaderValue::from_str(value).expect("a valid header value"),
        );
        self
    }

    fn object_headers(self, headers: &ObjectHeaders) -> Self {
        self.header(CONTENT_TYPE, &headers.content_type)
            .header(CONTENT_DISPOSITION, &headers.content_disposition)
            .header(CACHE_CONTROL, headers.cache_control)
    }
}

impl Client {
    pub(super) fn new(config: S3Config) -> Result<Self, Error> {
        // Fails if a cryptography provider is already installed, which is fine: either one works.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("haversack/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| error::from_transport("prepare calls to the bucket", error))?;
        Ok(Self { http, config })
    }

    pub(super) fn presign_put(
        &self,
        object: &str,
        content_type: &str,
        length: u64,
        lifetime: Duration,
    ) -> String {
        let signed = [
            ("content-length", length.to_string()),
            ("content-type", content_type.to_owned()),
        ];
        self.sign(&Method::PUT, Some(object), None, &signed, lifetime)
            .into()
    }

    pub(super) fn presign_get(&self, object: &str, method: &Method, lifetime: Duration) -> String {
        self.sign(method, Some(object), None, &[], lifetime).into()
    }

    /// Returns size and entity tag of an object; `None` if it does not exist.
    pub(super) async fn head(&self, object: &str) -> Result<Option<ObjectMeta>, Error> {
        let call = Call::new("find an object", Method::HEAD, Some(object));
        let response = match self.send(&call).await {
            Err(Error::NotFound) => return Ok(None),
            response => response?,
        };
        let text = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let size = text(CONTENT_LENGTH).and_then(|size| size.parse().ok());
        let etag =
            text(ETAG).map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        // The entity tag is embedded in `If-Match` headers, where a quote or comma would terminate
        // it.
        let etag = etag.filter(|etag| !etag.is_empty() && !etag.contains(['"', ',']));
        match (size, etag) {
            (Some(size), Some(etag)) => Ok(Some(ObjectMeta { size, etag })),
            _ => Err(Error::InvalidResponse {
                action: call.action,
                problem: "lacks Content-Length or ETag, which Haversack needs".to_owned(),
            }),
        }
    }

    /// Reads an object, or a range of it. If `found` is given, fails with
    /// [`Error::PreconditionFailed`] unless the object still has that entity tag.
    pub(super) async fn get(
        &self,
        object: &str,
        part: Option<Range<u64>>,
        found: Option<&ObjectMeta>,
    ) -> Result<ByteStream, Error> {
        let call = get_call(object, part.as_ref(), found);
        let response = self.send(&call).await?;
        body(response, part.as_ref(), found)
    }

    /// Reads a range into memory. Retries even if the body is cut off.
    pub(super) async fn get_bytes(
        &self,
        object: &str,
        part: Range<u64>,
        found: &ObjectMeta,
    ) -> Result<Bytes, Error> {
        let call = get_call(object, Some(&part), Some(found));
        with_retries(|| async {
            let response = self.attempt(&call).await?;
            let mut chunks = body(response, Some(&part), Some(found))?;
            let mut bytes = Vec::new();
            while let Some(chunk) = chunks.next().await {
                bytes.extend_from_slice(&chunk.map_err(Error::from_read)?);
            }
            Ok(bytes.into())
        })
        .await
    }

    pub(super) async fn put_file(
        &self,
        object: &str,
        file: &Spooled,
        headers: &ObjectHeaders,
    ) -> Result<(), Error> {
        let mut call =
            Call::new("write an object", Method::PUT, Some(object)).object_headers(headers);
        call.headers
            .insert(CONTENT_LENGTH, file.digests.size.into());
        call.response_timeout =
            RESPONSE_TIMEOUT + Duration::from_secs(file.digests.size / MIN_UPLOAD_RATE);
        call.body = Payload::File(file);
        self.send(&call).await.map(drop)
    }

    pub(super) async fn put_bytes(&self, object: &str, bytes: Bytes) -> Result<(), Error> {
        let mut call = Call::new("write an object", Method::PUT, Some(object));
        call.body = Payload::Bytes(bytes);
        self.send(&call).await.map(drop)
    }

    /// Copies an object within the bucket, if its entity tag is still that of `found`.
    pub(super) async fn copy(
        &self,
        from: &str,
        found: &ObjectMeta,
        to: &str,
        headers: &ObjectHeaders,
    ) -> Result<(), Error> {
        let source = format!("{}/{}{from}", self.config.bucket.name(), self.config.prefix);
        let mut call = Call::new("copy an object", Method::PUT, Some(to)).object_headers(headers);
        call.signed = vec![
            (
                "x-amz-copy-source",
                format!("/{}", utf8_percent_encode(&source, COPY_SOURCE)),
            ),
            ("x-amz-copy-source-if-match", found.quoted()),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
        ];
        call.headers.insert(CONTENT_LENGTH, 0.into());
        call.response_timeout = COPY_TIMEOUT;
        with_retries(|| async {
            let response = self.attempt(&call).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let xml = text(call.action, response, COPY_TIMEOUT).await?;
            // A copy that fails after the response started is reported with status 200 as well
            // (Amazon S3, CopyObject).
            if xml.contains("<Error>") {
                return Err(error::from_xml(call.action, status, &headers, &xml));
            }
            Ok(())
        })
        .await
        .map_err(not_found_as_changed)
    }

    pub(super) async fn delete(&self, object: &str) -> Result<(), Error> {
        match self
            .send(&Call::new("remove an object", Method::DELETE, Some(object)))
            .await
        {
            Err(Error::NotFound) => Ok(()),
            done => done.map(drop),
        }
    }

    /// Returns one page of the objects below the prefix, and the continuation token of the next
    /// page.
    pub(super) async fn list(
        &self,
        token: Option<&str>,
    ) -> Result<(Vec<BlobMeta>, Option<String>), Error> {
        let action = "list objects";
        let mut call = Call::new(action, Method::GET, None);
        call.token = token;
        let response = self.send(&call).await?;
        let xml = text(action, response, IDLE_TIMEOUT).await?;
        let page = ListObjectsV2::parse_response(&xml).map_err(|error| Error::InvalidResponse {
            action,
            problem: format!("cannot be parsed ({error})"),
        })?;
        let listed = page.contents.iter().filter_map(|object| {
            let name = object.key.strip_prefix(&self.config.prefix)?;
            let modified = object
                .last_modified
                .as_deref()
                .and_then(|at| at.parse::<jiff::Timestamp>().ok());
            let modified = modified.map_or(0, jiff::Timestamp::as_millisecond);
            let modified = Timestamp::from_millis(modified).to_system_time();
            Some(listed(name, object.size.unwrap_or_default(), modified))
        });
        Ok((listed.collect(), page.next_continuation_token))
    }

    fn sign(
        &self,
        method: &Method,
        object: Option<&str>,
        token: Option<&str>,
        headers: &[(&'static str, String)],
        lifetime: Duration,
    ) -> Url {
        let S3Config {
            bucket,
            prefix,
            credentials,
        } = &self.config;
        let credentials = Some(&credentials.0);
        let Some(object) = object else {
            let mut list = bucket.list_objects_v2(credentials);
            list.with_prefix(prefix);
            if let Some(token) = token {
                list.with_continuation_token(token);
            }
            return signed(list, headers, lifetime);
        };
        let name = format!("{prefix}{object}");
        match *method {
            Method::PUT => signed(bucket.put_object(credentials, &name), headers, lifetime),
            Method::DELETE => signed(bucket.delete_object(credentials, &name), headers, lifetime),
            Method::HEAD => signed(bucket.head_object(credentials, &name), headers, lifetime),
            _ => signed(bucket.get_object(credentials, &name), headers, lifetime),
        }
    }

    /// Sends a call, with retries.
    async fn send(&self, call: &Call<'_>) -> Result<Response, Error> {
        with_retries(|| self.attempt(call)).await
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Response, Error> {
        let url = self.sign(
            &call.method,
            call.object,
            call.token,
            &call.signed,
            SIGNATURE_LIFETIME,
        );
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .headers(call.headers.clone());
        for (name, value) in &call.signed {
            request = request.header(*name, value);
        }
        request = match &call.body {
            Payload::None => request,
            Payload::Bytes(bytes) => request.body(bytes.clone()),
            Payload::File(file) => {
                let file = tokio::fs::File::from_std(file.reopen()?);
                request.body(Body::wrap_stream(ReaderStream::with_capacity(
                    file, CHUNK_SIZE,
                )))
            }
        };
        let late = || Error::Unavailable {
            action: call.action,
            problem: format!(
                "the bucket did not respond within {} s",
                call.response_timeout.as_secs()
            ),
        };
        let response = timeout(call.response_timeout, request.send())
            .await
            .map_err(|_| late())?;
        let response = response.map_err(|error| error::from_transport(call.action, error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let response_timeout = call.response_timeout;
        timeout(
            response_timeout,
            error::from_response(call.action, response),
        )
        .await
        .map_or_else(|_| Err(late()), Err)
    }
}

/// Repeats a call while the bucket is unreachable or busy. All calls are idempotent.
async fn with_retries<T, F>(attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let backoff = ExponentialBuilder::new()
        .with_min_delay(BASE_BACKOFF)
        .with_factor(BACKOFF_FACTOR)
        .with_max_times(MAX_RETRIES)
        .with_jitter();
    let start = Instant::now();
    attempt
        .retry(backoff)
        .when(|error: &Error| error.is_transient() && start.elapsed() < RETRY_BUDGET)
        .notify(|error, delay| {
            tracing::debug!(%error, ?delay, "call to the bucket failed; retrying");
        })
        .await
}

fn get_call<'a>(
    object: &'a str,
    part: Option<&Range<u64>>,
    found: Option<&ObjectMeta>,
) -> Call<'a> {
    let mut call = Call::new("read an object", Method::GET, Some(object));
    if let Some(found) = found {
        call = call.header(IF_MATCH, &found.quoted());
    }
    if let Some(part) = part {
        call = call.header(RANGE, &format!("bytes={}-{}", part.start, part.end - 1));
    }
    call
}

/// Streams the body of a response to [`get_call`], with an idle timeout. Fails unless status and
/// length fit the request.
fn body(
    response: Response,
    part: Option<&Range<u64>>,
    found: Option<&ObjectMeta>,
) -> Result<ByteStream, Error> {
    let action = "read an object";
    let (status, length) = match part {
        Some(part) => (StatusCode::PARTIAL_CONTENT, Some(part.end - part.start)),
        None => (StatusCode::OK, found.map(|found| found.size)),
    };
    if response.status() != status || (length.is_some() && response.content_length() != length) {
        return Err(Error::Unavailable {
            action,
            problem: "the bucket returned another range than requested".to_owned(),
        });
    }
    let chunks = response.bytes_stream().boxed();
    Ok(stream::try_unfold(chunks, move |mut chunks| async move {
        match timeout(IDLE_TIMEOUT, chunks.next()).await {
            Err(_) => Err(std::io::Error::other(stalled(action))),
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some((chunk, chunks))),
            Ok(Some(Err(error))) => {
                Err(std::io::Error::other(error::from_transport(action, error)))
            }
        }
    })
    .boxed())
}

/// Reads the whole body of a response.
async fn text(action: &'static str, response: Response, limit: Duration) -> Result<String, Error> {
    timeout(limit, response.text())
        .await
        .map_err(|_| stalled(action))?
        .map_err(|error| error::from_transport(action, error))
}

fn stalled(action: &'static str) -> Error {
    Error::Unavailable {
        action,
        problem: "the bucket stopped sending its response".to_owned(),
    }
}

/// Signs with the system time even under a mock clock: the bucket verifies it.
fn signed<'a>(
    mut action: impl S3Action<'a>,
    headers: &'a [(&'static str, String)],
    lifetime: Duration,
) -> Url {
    for (name, value) in headers {
        action.headers_mut().insert(*name, value.as_str());
    }
    let now = jiff::Timestamp::try_from(system_time()).unwrap_or(jiff::Timestamp::MAX);
    action.sign_with_time(lifetime, &now)
}

/// Maps a missing copy source to [`Error::PreconditionFailed`]: whether it was replaced or deleted,
/// it is no longer the object that was found.
fn not_found_as_changed(error: Error) -> Error {
    if matches!(error, Error::NotFound) {
        Error::PreconditionFailed
    } else {
        error
    }
}
