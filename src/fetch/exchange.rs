//! Sends one request over one connection and reads the response header. Defines the headers sent to
//! origins, and the tasks that drive a connection.

use std::future::Future;
use std::sync::{Arc, Mutex};

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::rt::Executor;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::meter::{HeaderBlockCounter, Meter};
use super::{Config, Error, OwnServer};
use crate::domain::fetch_url::FetchUrl;
use crate::domain::validators::Validators;

/// Maximum number of header fields in an HTTP/1.1 response. Their total size has a limit of its
/// own.
const MAX_HEADERS: usize = 1000;
/// HTTP/2 flow control window in bytes. It is smaller than the overhead that the meter allows,
/// because bytes that were received but not delivered yet count as overhead.
const HTTP2_WINDOW: u32 = 128 * 1024;

/// The tasks that drive a connection. Dropping the driver aborts the tasks, and so closes the
/// connection. This includes hyper's own HTTP/2 tasks, which otherwise run as long as the origin
/// reads nothing.
#[derive(Debug)]
pub(super) struct Driver(Tasks);

/// Executor that spawns the tasks of one connection.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0
            .lock()
            .expect("no panic while locked")
            .spawn(async move { drop(task.await) });
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.0.lock().expect("no panic while locked").abort_all();
    }
}

/// Sends a request over a new connection. Returns the response, with its body still unread, and the
/// driver that keeps the connection open.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Empty<Bytes>>,
    http2: bool,
    config: &Config,
    meter: &Arc<Meter>,
) -> Result<(Response<Incoming>, Driver), Error> {
    let from_http = |error: hyper::Error| Error::from_http(&error, config.max_header_bytes);
    let driver = Driver(Tasks::default());
    let tasks = &driver.0;
    let response = async {
        if http2 {
            let stream = TokioIo::new(HeaderBlockCounter::new(stream, Arc::clone(meter)));
            let (mut sender, connection) = hyper::client::conn::http2::Builder::new(tasks.clone())
                .timer(TokioTimer::new())
                .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
                .initial_stream_window_size(HTTP2_WINDOW)
                .initial_connection_window_size(HTTP2_WINDOW)
                .handshake(stream)
                .await
                .map_err(from_http)?;
            tasks.execute(connection);
            sender.send_request(request).await.map_err(from_http)
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
                .max_buf_size(config.max_header_bytes)
                .max_headers(MAX_HEADERS)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(from_http)?;
            tasks.execute(connection);
            sender.send_request(request).await.map_err(from_http)
        }
    };
    let response = timeout(config.idle_timeout, response).await;
    let response = response.map_err(|_| Error::Idle(config.idle_timeout))??;
    // hyper checks the size of the header between two reads only, so a header over the limit can
    // pass; it is checked here.
    let size: usize = response
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if size > config.max_header_bytes {
        return Err(Error::HeaderTooLarge(config.max_header_bytes));
    }
    Ok((response, driver))
}

/// Builds the GET request for a file.
pub(super) fn request(
    url: &FetchUrl,
    known: Option<&Validators>,
    http2: bool,
    pseudonym: &str,
) -> Request<Empty<Bytes>> {
    let target = &url.as_url()[::url::Position::BeforePath..::url::Position::AfterQuery];
    // RFC 9113 section 8.3.1: in HTTP/2 the target contains the authority, and there is no Host.
    let target = if http2 {
        format!("https://{}{target}", url.authority())
    } else {
        target.to_owned()
    };
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target.parse().expect("a parsed URL is a request target");
    let headers = request.headers_mut();
    if !http2 {
        headers.insert(
            header::HOST,
            value(&url.authority()).expect("a host is a header value"),
        );
    }
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("haversack/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers.insert(
        OwnServer::LOOP_HEADER,
        value(pseudonym).expect("a pseudonym is a header value"),
    );
    if let Some(known) = known {
        let mut conditional = |name: HeaderName, text: &Option<String>| {
            if let Some(value) = text.as_deref().and_then(value) {
                headers.insert(name, value);
            }
        };
        conditional(header::IF_NONE_MATCH, &known.etag);
        conditional(header::IF_MODIFIED_SINCE, &known.last_modified);
    }
    request
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn dropping_driver_ends_connection_tasks() {
        let driver = Driver(Tasks::default());
        // Like hyper's own tasks, this one holds the executor and never ends by itself.
        let (tasks, (sender, receiver)) = (driver.0.clone(), tokio::sync::oneshot::channel::<()>());
        driver.0.execute(async move {
            let _held = (tasks, sender);
            std::future::pending::<()>().await;
        });
        drop(driver);
        timeout(Duration::from_secs(1), receiver)
            .await
            .expect("the task is dropped")
            .expect_err("nothing is sent");
    }

    proptest::proptest! {
        #[test]
        fn accepted_url_becomes_request_target(rest in "[ -~é]{0,40}") {
            if let Ok(url) = FetchUrl::parse(&format!("https://example.com/{rest}")) {
                for http2 in [false, true] {
                    let request = request(&url, None, http2, "haversack-1234");
                    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
                    proptest::prop_assert!(url.as_url().as_str().contains(target));
                }
            }
        }
    }
}
