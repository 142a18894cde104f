//! Drains request bodies that handlers have not read completely.
//!
//! If a response is sent before the request has arrived completely, the rest of the body remains on
//! the connection. hyper then closes the connection, and a client that is about to reuse it fails.
//! To avoid this, a short rest is read and discarded; if the rest is long, the response announces
//! that the connection will be closed.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use tokio::time::timeout;

/// Maximum size of the unread rest of a body that is drained, in bytes.
const MAX_DRAINED: u64 = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A request body shared with its handler, so that its unread rest can be drained after the handler
/// has dropped it.
#[derive(Clone, Debug)]
pub(super) struct DrainableBody(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    body: Incoming,
    /// True after the last frame; needed because `Incoming` does not report the end of a chunked
    /// body.
    ended: bool,
}

impl DrainableBody {
    pub(super) fn new(body: Incoming) -> Self {
        let ended = body.is_end_stream();
        Self(Arc::new(Mutex::new(State { body, ended })))
    }

    /// Drains the unread rest of the body if it is short. Adds `Connection: close` to the response
    /// if bytes remain.
    pub(super) async fn drain(mut self, expects_continue: bool, response: &mut HeaderMap) {
        // A client that expects `100 Continue` has not sent its body, and reading would request it.
        let is_short = !expects_continue && self.size_hint().lower() <= MAX_DRAINED;
        if is_short {
            let _ = timeout(DRAIN_TIMEOUT, self.read_rest()).await;
        }
        if !self.is_end_stream() {
            response.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    async fn read_rest(&mut self) {
        let mut read = 0;
        while let Some(Ok(frame)) = self.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len) as u64;
            if read > MAX_DRAINED {
                break;
            }
        }
    }
}

impl Body for DrainableBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut state = self.0.lock().expect("no panic while locked");
        let frame = Pin::new(&mut state.body).poll_frame(context);
        state.ended |= matches!(frame, Poll::Ready(None)) || state.body.is_end_stream();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().expect("no panic while locked").ended
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .lock()
            .expect("no panic while locked")
            .body
            .size_hint()
    }
}
