//! Runs the fetch client over an in-memory stream, for fuzz targets and unit tests.

use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::body::Bytes;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::exchange::{exchange, request};
use super::meter::{Meter, Metered};
use super::{Config, Download, Error, OwnServer, check_response};
use crate::budget::{self, Budget};
use crate::domain::fetch_url::FetchUrl;
use crate::metrics::Metrics;

/// Fetch settings under which [`drive`] runs the client.
pub static CONFIG: LazyLock<Config> = LazyLock::new(|| Config {
    max_bytes: 1024 * 1024,
    timeout: Duration::from_secs(3),
    idle_timeout: Duration::from_secs(1),
    ..Config::default()
});

/// Result of a fetch from an in-memory stream.
#[derive(Debug)]
pub struct Driven {
    /// The received pieces of the file.
    pub file: Result<Vec<Bytes>, Error>,
    /// Number of bytes read from the stream.
    pub raw: u64,
    /// Maximum number of bytes that the meter allows for the received file.
    pub allowance: u64,
}

/// Runs the client against the origin at the other end of a stream, and returns the file that it
/// fetched.
pub async fn drive(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    http2: bool,
) -> Driven {
    let meter = Arc::new(Meter::new(CONFIG.max_header_bytes, Counter::default()));
    let file = file(Metered::new(stream, Arc::clone(&meter)), http2, &meter).await;
    Driven {
        file,
        raw: meter.raw(),
        allowance: meter.allowance(),
    }
}

async fn file(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    http2: bool,
    meter: &Arc<Meter>,
) -> Result<Vec<Bytes>, Error> {
    let url = FetchUrl::parse("https://origin.example/a.txt")?;
    let budget = Budget::new(
        "fetches",
        budget::Limits::without_queue(1, 1),
        &Metrics::default(),
    );
    let permit = Arc::new(budget.try_reserve("tenant", 1).map_err(Error::AtCapacity)?);
    let deadline = Instant::now() + CONFIG.timeout;
    let response = exchange(
        stream,
        request(&url, None, http2, &no_server().pseudonym),
        http2,
        &CONFIG,
        meter,
    )
    .await;
    let (response, driver) = response.map_err(|error| meter.flood().map_or(error, Error::Flood))?;
    check_response(&response)?;
    let mut download = Download::new(
        response,
        None,
        &CONFIG,
        deadline,
        Arc::clone(meter),
        (driver, permit),
    )?;
    let mut file = Vec::new();
    while let Some(chunk) = download.chunk().await? {
        file.push(chunk);
    }
    Ok(file)
}

/// Returns a server identity that matches no URL and no address, so loop protection never applies.
pub(super) fn no_server() -> OwnServer {
    let listen = (Ipv4Addr::UNSPECIFIED, 0).into();
    OwnServer {
        bases: Vec::new(),
        listen,
        pseudonym: "haversack-0".to_owned(),
    }
}

/// An origin for tests: waits for the first byte of a request, sends fixed bytes in pieces of equal
/// size whatever the request is, and ends the stream.
#[derive(Debug)]
pub struct Replay {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    has_request: bool,
    reader: Option<Waker>,
}

impl Replay {
    /// Creates an origin that sends `bytes` in pieces of `piece` bytes; the size is raised to at
    /// least one.
    #[must_use]
    pub fn new(bytes: Vec<u8>, piece: usize) -> Self {
        Self {
            bytes,
            at: 0,
            piece: piece.max(1),
            has_request: false,
            reader: None,
        }
    }
}

impl AsyncRead for Replay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_request {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let rest = &self.bytes[self.at..];
        let piece = self.piece.min(rest.len()).min(buf.remaining());
        buf.put_slice(&rest[..piece]);
        self.at += piece;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.has_request = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
