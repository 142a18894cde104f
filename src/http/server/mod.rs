//! Connections: accepting them, bounding them, closing the silent and the slow, and finishing the running ones when
//! the server stops. axum's own `serve` does none of the bounding.

mod backpressure;
mod clients;
mod config;
mod drain;
mod forwarded;
mod idle_timeout;

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::header;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::budget::AtCapacity;
use crate::domain::base_url::BaseUrl;
use crate::metrics::Metrics;
use backpressure::OneAtATime;
pub use config::Config;

use clients::Clients;
use drain::DrainableBody;
use idle_timeout::IdleTimeoutStream;

/// Bytes that hyper gathers of a request before it passes them on: with the batch being written, all that an upload
/// holds in memory. Of an answer it holds one piece ([`backpressure`]). No more than the pieces of files, so that hyper writes one
/// before it asks for the next.
const BUFFER: usize = 48 * 1024;
/// Bytes that the system holds of an answer and has not sent yet. What the network can take at a time is not bounded by
/// this, so long ways do not become slow; but a client that stops reading is noticed soon, and its progress is seen in
/// small steps.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 128 * 1024;
/// How long to wait after the system refused a connection (no file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which routes answer which host.
#[derive(Clone, Debug)]
pub struct HostRouter {
    /// Everything.
    pub all: Router,
    /// Files alone, for the CDN's host, if it has one of its own.
    pub files: Option<(BaseUrl, Router)>,
}

impl HostRouter {
    fn router(&self, request: &hyper::Request<Incoming>) -> Router {
        // An absolute request target wins over the Host header (RFC 9112 section 3.2.2).
        let header = || {
            request
                .headers()
                .get(hyper::header::HOST)
                .and_then(|host| host.to_str().ok())
        };
        let host = request
            .uri()
            .authority()
            .map(hyper::http::uri::Authority::as_str)
            .or_else(header);
        match &self.files {
            Some((cdn, files)) if host.is_some_and(|host| matches_host(cdn, host)) => files.clone(),
            _ => self.all.clone(),
        }
    }
}

/// Whether a `Host` names the CDN. The port is not compared: behind a proxy it is often another one.
fn matches_host(cdn: &BaseUrl, host: &str) -> bool {
    let name = |authority: &str| match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name.to_owned(),
        _ => authority.to_owned(),
    };
    name(&cdn.authority()).eq_ignore_ascii_case(name(host).trim_end_matches('.'))
}

/// Serves until `shutdown`, then lets running requests finish within the grace time. Says whether all did.
///
/// # Panics
/// Never: the limits were checked.
pub async fn serve(
    listener: TcpListener,
    hosts: HostRouter,
    config: &Config,
    metrics: &Metrics,
    shutdown: impl Future<Output = ()>,
) -> bool {
    let http = builder(config);
    let clients = Clients::new(config, metrics);
    let permits = usize::try_from(config.max_connections)
        .unwrap_or(Semaphore::MAX_PERMITS)
        .min(Semaphore::MAX_PERMITS);
    let permits = Arc::new(Semaphore::new(permits));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut shutdown => break,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let share = match clients.admit(peer) {
            Ok(share) => share,
            Err(refused) => {
                refuse(tcp, refused);
                continue;
            }
        };
        let connection = http.serve_connection(
            wrap_stream(tcp, config),
            connection_service(hosts.clone(), clients.clone(), peer),
        );
        let connection = graceful.watch(connection);
        let open = OpenConnection::count(metrics);
        tokio::spawn(async move {
            // Errors here are the client's: it went away, was too slow, or sent what is not HTTP.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop((open, share, permit));
        });
    }
    drop(listener);
    tokio::time::timeout(config.shutdown_grace, graceful.shutdown())
        .await
        .is_ok()
}

/// Counted as long as it lives, however its task ends.
struct OpenConnection(Gauge);

impl OpenConnection {
    fn count(metrics: &Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics.connections.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn builder(config: &Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(config.max_header_bytes)
        .max_buf_size(BUFFER.max(config.max_header_bytes))
        // A client that closes its side is one that has gone: what it asked for is given up. Waiting for a media URL on
        // behalf of nobody would keep others from it.
        .half_close(false);
    http
}

/// Answers a connection beyond its client's share and closes it. Never waits, so that nobody else waits behind it: what
/// the new socket does not take at once is lost.
fn refuse(tcp: TcpStream, refused: AtCapacity) {
    let seconds = refused.retry_after;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let Ok(mut tcp) = tcp.into_std() else { return };
    // A socket that is closed with unread bytes in it sends a reset, which can overtake the answer.
    let _ = tcp.read(&mut [0; 4096]);
    let _ = tcp.write(answer.as_bytes());
    let _ = tcp.shutdown(std::net::Shutdown::Write);
}

fn wrap_stream(tcp: TcpStream, config: &Config) -> TokioIo<IdleTimeoutStream> {
    // Answers are written whole; waiting to fill a packet only delays them.
    let _ = tcp.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(MAX_UNSENT);
    TokioIo::new(IdleTimeoutStream::new(tcp, config.download_pace()))
}

fn connection_service(
    hosts: HostRouter,
    clients: Clients,
    peer: SocketAddr,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = Infallible,
    Future: Send,
> {
    hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let router = hosts.router(&request);
        let expects_continue = request.headers().contains_key(header::EXPECT);
        let (mut parts, body) = request.into_parts();
        parts
            .extensions
            .insert(clients.address(peer.ip(), &parts.headers));
        let body = DrainableBody::new(body);
        async move {
            let mut answer = router
                .oneshot(Request::from_parts(parts, Body::new(body.clone())))
                .await?;
            body.finish(expects_continue, answer.headers_mut()).await;
            Ok(answer.map(OneAtATime::limit))
        }
    })
}

async fn pause(error: &io::Error) {
    let of_the_client = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    );
    if !of_the_client {
        tracing::error!(%error, "cannot accept connections");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
