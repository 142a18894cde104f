//! The calls: signed, repeated for a moment when the bucket is busy, and never after that.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rand::RngExt;
use reqwest::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MATCH, RANGE,
};
use reqwest::redirect::Policy;
use reqwest::{Body, Method, Response, StatusCode};
use rusty_s3::S3Action;
use rusty_s3::actions::ListObjectsV2;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::io::ReaderStream;
use url::Url;

use super::super::spool::Spooled;
use super::super::{ByteStream, Error, Listed, Metadata, Reading};
use super::{S3Config, failure, listed};
use crate::clock::Timestamp;

/// How long the bucket may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to answer what costs it little.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to copy an object within itself.
const COPY: Duration = Duration::from_mins(1);
/// Slowest average rate at which it may take an object from us, in bytes a second.
const SLOWEST: u64 = 128 * 1024;
/// How long a body may go without a byte.
const IDLE: Duration = Duration::from_secs(30);
/// How often a call is made before it is given up.
const ATTEMPTS: u32 = 4;
/// The first pause between two; each further one is three times as long.
const PAUSE: Duration = Duration::from_millis(100);
/// A call that has taken this long is not made again.
const ENOUGH: Duration = Duration::from_secs(5);
/// How long the signature of a call of ours holds.
const SIGNED_FOR: Duration = Duration::from_mins(5);
/// Bytes that are read from a temporary file at a time.
const PIECE: usize = 128 * 1024;

/// RFC 3986: what a copy's source is written in.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Size and entity tag of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) size: u64,
    /// Without quotes.
    pub(super) etag: String,
}

impl Info {
    fn quoted(&self) -> String {
        format!("\"{}\"", self.etag)
    }
}

/// The bucket, as we reach it.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    config: S3Config,
}

/// One call, which can be made again.
struct Call<'a> {
    action: &'static str,
    method: Method,
    /// Below the prefix; none for the bucket itself.
    object: Option<&'a str>,
    /// Of a listing: where it goes on.
    token: Option<&'a str>,
    /// S3 wants all headers of its own signed.
    signed: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Payload<'a>,
    patience: Duration,
}

enum Payload<'a> {
    None,
    Bytes(Bytes),
    File(&'a Spooled),
}

impl<'a> Call<'a> {
    fn new(action: &'static str, method: Method, object: Option<&'a str>) -> Self {
        let (signed, headers) = (Vec::new(), HeaderMap::new());
        Self { action, method, object, token: None, signed, headers, body: Payload::None, patience: ANSWER }
    }

    fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).expect("types, tags and ranges are header values"));
        self
    }

    fn describing(self, metadata: &Metadata) -> Self {
        self.header(CONTENT_TYPE, &metadata.content_type)
            .header(CONTENT_DISPOSITION, &metadata.content_disposition)
            .header(CACHE_CONTROL, metadata.cache_control)
    }
}

impl Client {
    pub(super) fn new(config: S3Config) -> Result<Self, Error> {
        // There may be one already; either serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("haversack/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .build()
            .map_err(|error| failure::of_transport("prepare calls to the bucket", error))?;
        Ok(Self { http, config })
    }

    pub(super) fn presign_put(&self, object: &str, content_type: &str, length: u64, lifetime: Duration) -> String {
        let signed = [("content-length", length.to_string()), ("content-type", content_type.to_owned())];
        self.sign(&Method::PUT, Some(object), None, &signed, lifetime).into()
    }

    pub(super) fn presign_get(&self, object: &str, reading: Reading, lifetime: Duration) -> String {
        let method = match reading {
            Reading::Get => Method::GET,
            Reading::Head => Method::HEAD,
        };
        self.sign(&method, Some(object), None, &[], lifetime).into()
    }

    /// Size and entity tag of an object, if there is one.
    pub(super) async fn head(&self, object: &str) -> Result<Option<Info>, Error> {
        let call = Call::new("look at an object", Method::HEAD, Some(object));
        let response = match self.send(&call).await {
            Err(Error::Gone) => return Ok(None),
            response => response?,
        };
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let size = text(CONTENT_LENGTH).and_then(|size| size.parse().ok());
        let etag = text(ETAG).map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        // It becomes a part of headers of ours, where these would end it.
        let etag = etag.filter(|etag| !etag.is_empty() && !etag.contains(['"', ',']));
        match (size, etag) {
            (Some(size), Some(etag)) => Ok(Some(Info { size, etag })),
            _ => Err(Error::Refused {
                action: call.action,
                status: response.status().as_u16(),
                code: String::new(),
                hint: ": it tells no Content-Length or no ETag of objects, which Haversack needs".to_owned(),
            }),
        }
    }

    /// A part of an object, or all of it; only if it still is what was found, if that is given.
    pub(super) async fn get(
        &self,
        object: &str,
        part: Option<Range<u64>>,
        found: Option<&Info>,
    ) -> Result<ByteStream, Error> {
        let action = "read an object";
        let mut call = Call::new(action, Method::GET, Some(object));
        let mut wanted = found.map(|found| found.size);
        if let Some(found) = found {
            call = call.header(IF_MATCH, &found.quoted());
        }
        if let Some(part) = &part {
            call = call.header(RANGE, &format!("bytes={}-{}", part.start, part.end - 1));
            wanted = Some(part.end - part.start);
        }
        let response = self.send(&call).await?;
        let expected = if part.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if response.status() != expected || (wanted.is_some() && response.content_length() != wanted) {
            return Err(Error::Unavailable {
                action,
                problem: "the bucket gave another part than was asked".to_owned(),
            });
        }
        let pieces = response.bytes_stream().boxed();
        Ok(stream::try_unfold(pieces, move |mut pieces| async move {
            let stalled = || Error::Unavailable { action, problem: "no byte came for a while".to_owned() };
            match timeout(IDLE, pieces.next()).await {
                Err(_) => Err(std::io::Error::other(stalled())),
                Ok(None) => Ok(None),
                Ok(Some(Ok(piece))) => Ok(Some((piece, pieces))),
                Ok(Some(Err(error))) => Err(std::io::Error::other(failure::of_transport(action, error))),
            }
        })
        .boxed())
    }

    /// The same at once; for parts of a size that memory can hold. One that is cut is asked for once more.
    pub(super) async fn get_bytes(&self, object: &str, part: Range<u64>, found: &Info) -> Result<Bytes, Error> {
        match self.collect(object, part.clone(), found).await {
            Err(error) if error.is_unavailable() => self.collect(object, part, found).await,
            done => done,
        }
    }

    async fn collect(&self, object: &str, part: Range<u64>, found: &Info) -> Result<Bytes, Error> {
        let mut pieces = self.get(object, Some(part), Some(found)).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece.map_err(Error::of_read)?);
        }
        Ok(bytes.into())
    }

    pub(super) async fn put_file(&self, object: &str, file: &Spooled, metadata: &Metadata) -> Result<(), Error> {
        let mut call = Call::new("write an object", Method::PUT, Some(object)).describing(metadata);
        call.headers.insert(CONTENT_LENGTH, file.digests.size.into());
        call.patience = ANSWER + Duration::from_secs(file.digests.size / SLOWEST);
        call.body = Payload::File(file);
        self.send(&call).await.map(drop)
    }

    pub(super) async fn put_bytes(&self, object: &str, bytes: Bytes) -> Result<(), Error> {
        let mut call = Call::new("write an object", Method::PUT, Some(object));
        call.body = Payload::Bytes(bytes);
        self.send(&call).await.map(drop)
    }

    /// Copies an object within the bucket, if it still is what was found.
    pub(super) async fn copy(&self, from: &str, found: &Info, to: &str, metadata: &Metadata) -> Result<(), Error> {
        let source = format!("{}/{}{from}", self.config.bucket.name(), self.config.prefix);
        let mut call = Call::new("copy an object", Method::PUT, Some(to)).describing(metadata);
        call.signed = vec![
            ("x-amz-copy-source", format!("/{}", utf8_percent_encode(&source, PATH))),
            ("x-amz-copy-source-if-match", found.quoted()),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
        ];
        call.headers.insert(CONTENT_LENGTH, 0.into());
        call.patience = COPY;
        let start = Instant::now();
        let mut attempt = 1;
        loop {
            let copied = self.send(&call).await;
            let failed = match copied {
                Ok(response) => {
                    let (status, headers) = (response.status(), response.headers().clone());
                    let told = timeout(COPY, response.text()).await;
                    let told = told.map_err(|_| Error::Unavailable {
                        action: call.action,
                        problem: "no byte came for a while".to_owned(),
                    })?;
                    let xml = told.map_err(|error| failure::of_transport(call.action, error))?;
                    // A copy that fails after its answer began is answered 200 as well (Amazon S3, CopyObject).
                    if !xml.contains("<Error>") {
                        return Ok(());
                    }
                    failure::of_xml(call.action, status, &headers, &xml)
                }
                Err(error) => return Err(gone_is_changed(error)),
            };
            if !failed.is_unavailable() || attempt == ATTEMPTS || start.elapsed() > ENOUGH {
                return Err(gone_is_changed(failed));
            }
            sleep(pause(attempt)).await;
            attempt += 1;
        }
    }

    pub(super) async fn delete(&self, object: &str) -> Result<(), Error> {
        match self.send(&Call::new("remove an object", Method::DELETE, Some(object))).await {
            Err(Error::Gone) => Ok(()),
            done => done.map(drop),
        }
    }

    /// A page of what is below the prefix, and how the next one is asked for.
    pub(super) async fn list(&self, token: Option<&str>) -> Result<(Vec<Listed>, Option<String>), Error> {
        let action = "list objects";
        let mut call = Call::new(action, Method::GET, None);
        call.token = token;
        let response = self.send(&call).await?;
        let stalled = || Error::Unavailable { action, problem: "no byte came for a while".to_owned() };
        let xml = timeout(IDLE, response.text()).await.map_err(|_| stalled())?;
        let xml = xml.map_err(|error| failure::of_transport(action, error))?;
        let page = ListObjectsV2::parse_response(&xml).map_err(|error| Error::Refused {
            action,
            status: 200,
            code: String::new(),
            hint: format!(": its listing cannot be read ({error})"),
        })?;
        let listed = page.contents.iter().filter_map(|object| {
            let name = object.key.strip_prefix(&self.config.prefix)?;
            let modified = object.last_modified.as_deref().and_then(|at| at.parse::<jiff::Timestamp>().ok());
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
        let S3Config { bucket, prefix, credentials } = &self.config;
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

    /// Makes a call, and again if the bucket could not be reached or was busy. Every call of ours can be repeated.
    async fn send(&self, call: &Call<'_>) -> Result<Response, Error> {
        let start = Instant::now();
        let mut attempt = 1;
        loop {
            match self.attempt(call).await {
                Err(error) if error.is_unavailable() && attempt < ATTEMPTS && start.elapsed() < ENOUGH => {
                    tracing::debug!(%error, attempt, "a call to the bucket is made again");
                    sleep(pause(attempt)).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Response, Error> {
        let url = self.sign(&call.method, call.object, call.token, &call.signed, SIGNED_FOR);
        let mut request = self.http.request(call.method.clone(), url).headers(call.headers.clone());
        for (name, value) in &call.signed {
            request = request.header(*name, value);
        }
        request = match &call.body {
            Payload::None => request,
            Payload::Bytes(bytes) => request.body(bytes.clone()),
            Payload::File(file) => {
                let file = tokio::fs::File::from_std(file.reopen()?);
                request.body(Body::wrap_stream(ReaderStream::with_capacity(file, PIECE)))
            }
        };
        let late = || Error::Unavailable {
            action: call.action,
            problem: format!("the bucket gave no answer in {} s", call.patience.as_secs()),
        };
        let response = timeout(call.patience, request.send()).await.map_err(|_| late())?;
        let response = response.map_err(|error| failure::of_transport(call.action, error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let patience = call.patience;
        timeout(patience, failure::of_answer(call.action, response)).await.map_or_else(|_| Err(late()), Err)
    }
}

/// The signature is of the time there is, whatever clock the server goes by: that of the bucket.
fn signed<'a>(mut action: impl S3Action<'a>, headers: &'a [(&'static str, String)], lifetime: Duration) -> Url {
    for (name, value) in headers {
        action.headers_mut().insert(*name, value.as_str());
    }
    action.sign(lifetime)
}

/// The source of a copy was replaced or removed: both mean that it is not what was found.
fn gone_is_changed(error: Error) -> Error {
    if matches!(error, Error::Gone) { Error::Changed } else { error }
}

/// Half of it by chance, so that those who failed together do not come back together.
fn pause(attempt: u32) -> Duration {
    let most = PAUSE * 3_u32.pow(attempt - 1);
    most.mul_f64(rand::rng().random_range(0.5..1.0))
}
