//! Accepts HTTP connections, limits their number, closes idle and slow ones (slowloris protection),
//! and lets running requests finish at shutdown (graceful shutdown). `axum::serve` has none of
//! these limits.

mod backpressure;
mod clients;
mod config;
mod drain;
mod forwarded;
mod hosts;
mod idle_timeout;

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::header;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::budget::{AtCapacity, Reservation};
use crate::metrics::Metrics;
use backpressure::OneFrameInFlight;
use clients::Clients;
pub use config::Config;
use drain::DrainableBody;
pub use hosts::HostRouter;
use idle_timeout::IdleTimeoutStream;

/// Size of hyper's read and write buffers per connection, in bytes. An upload holds only these and
/// the batch being written in memory. The size does not exceed a file chunk, so that hyper writes
/// each chunk before it requests the next.
const BUFFER_SIZE: usize = 48 * 1024;
/// Maximum unsent response bytes that the kernel buffers (`TCP_NOTSENT_LOWAT`). With a small
/// buffer, the server soon notices a client that stops reading, and sees its progress in small
/// steps. Bytes in flight do not count, so fast connections with high latency are not slowed down.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 128 * 1024;
/// Delay before the next `accept` after one failed, for example because no file descriptors were
/// left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves requests until `shutdown` completes, then waits for running requests up to the grace
/// time. Returns false if requests were aborted.
///
/// # Panics
/// Never panics, because the limits were validated.
pub async fn serve(
    listener: TcpListener,
    hosts: HostRouter,
    config: &Config,
    metrics: &Metrics,
    shutdown: impl Future<Output = ()>,
) -> bool {
    let server = Server {
        http: http1_builder(config),
        hosts,
        clients: Clients::new(config, metrics),
        config,
        metrics,
        graceful: GracefulShutdown::new(),
    };
    let max_connections = usize::try_from(config.max_connections).unwrap_or(usize::MAX);
    let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            (accepted, permit) = accept(&listener, &permits) => match accepted {
                Ok((tcp, peer)) => server.spawn_connection(tcp, peer, permit),
                Err(error) => delay_after_failure(&error).await,
            },
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    tokio::time::timeout(config.shutdown_grace, server.graceful.shutdown())
        .await
        .is_ok()
}

/// Accepts the next connection, once fewer than the maximum number are open.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (io::Result<(TcpStream, SocketAddr)>, OwnedSemaphorePermit) {
    let permit = Arc::clone(permits).acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    (listener.accept().await, permit)
}

async fn delay_after_failure(error: &io::Error) {
    let is_of_client = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    );
    if !is_of_client {
        tracing::error!(%error, "cannot accept connections");
        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
    }
}

/// Configuration and state shared by all connections.
struct Server<'a> {
    http: http1::Builder,
    hosts: HostRouter,
    clients: Clients,
    config: &'a Config,
    metrics: &'a Metrics,
    graceful: GracefulShutdown,
}

impl Server<'_> {
    /// Serves a connection in a separate task, or rejects it if the client has too many
    /// connections.
    fn spawn_connection(&self, tcp: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let share = match self.clients.reserve_connection(peer) {
            Ok(share) => share,
            Err(refused) => return reject(tcp, refused),
        };
        let connection = self.http.serve_connection(
            wrap_stream(tcp, self.config),
            connection_service(self.hosts.clone(), self.clients.clone(), peer),
        );
        let connection = self.graceful.watch(connection);
        let open = OpenConnection::new(self.metrics, share, permit);
        tokio::spawn(async move {
            // The client disconnected, was too slow, or did not use HTTP.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(open);
        });
    }
}

/// Counts an open connection and holds its permits until its task ends, even if the task panics.
struct OpenConnection {
    gauge: Gauge,
    _share: Reservation,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(metrics: &Metrics, share: Reservation, permit: OwnedSemaphorePermit) -> Self {
        metrics.connections.inc();
        Self {
            gauge: metrics.connections.clone(),
            _share: share,
            _permit: permit,
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

fn http1_builder(config: &Config) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(config.max_header_bytes)
        .max_buf_size(BUFFER_SIZE.max(config.max_header_bytes))
        // A client that closes its side counts as disconnected, and its request is dropped.
        // Otherwise a fetch of a media URL would keep its permit although no client waits for it.
        .half_close(false);
    http
}

/// Answers 503 and closes the connection. Must not block, because the accept loop calls it; so the
/// response is lost if the new socket's send buffer is full.
fn reject(tcp: TcpStream, refused: AtCapacity) {
    let seconds = refused.retry_after;
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let Ok(mut tcp) = tcp.into_std() else { return };
    // Pending bytes are read first, because closing a socket with unread bytes sends a reset that
    // can overtake the response.
    let _ = tcp.read(&mut [0; 4096]);
    let _ = tcp.write(response.as_bytes());
    let _ = tcp.shutdown(std::net::Shutdown::Write);
}

fn wrap_stream(tcp: TcpStream, config: &Config) -> TokioIo<IdleTimeoutStream> {
    // Responses are written in large pieces, so Nagle's algorithm only delays them.
    let _ = tcp.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(MAX_UNSENT);
    TokioIo::new(IdleTimeoutStream::new(tcp, config.download_pace()))
}

/// Returns the hyper service for a connection. It adds the client address to each request, and
/// drains request bodies that the handler has not read completely.
fn connection_service(
    hosts: HostRouter,
    clients: Clients,
    peer: SocketAddr,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = Response,
    Error = Infallible,
    Future: Send,
> {
    hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let router = hosts.route(&request);
        let expects_continue = request.headers().contains_key(header::EXPECT);
        let (mut parts, body) = request.into_parts();
        let client = clients.address(peer.ip(), &parts.headers);
        parts.extensions.insert(client);
        let body = DrainableBody::new(body);
        async move {
            let request = Request::from_parts(parts, Body::new(body.clone()));
            let mut response = router.oneshot(request).await?;
            body.drain(expects_continue, response.headers_mut()).await;
            Ok(response.map(OneFrameInFlight::wrap))
        }
    })
}
