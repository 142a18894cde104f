//! Drains request bodies that their handler has not read.
//!
//! A response that is sent before its request has arrived completely leaves the rest of the body on
//! the connection. hyper then closes the connection, and a client that is about to reuse it fails.
//! So a short rest is read and dropped, and after a long one the response announces that the
//! connection closes.

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

/// Longest rest that is drained, in bytes.
const MAX_DRAINED: u64 = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A request body that is shared with its handler, so that it can be drained after the handler has
/// dropped it.
#[derive(Clone, Debug)]
pub(super) struct DrainableBody(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    body: Incoming,
    /// `Incoming` does not report the end of a chunked body.
    ended: bool,
}

impl DrainableBody {
    pub(super) fn new(body: Incoming) -> Self {
        let ended = body.is_end_stream();
        Self(Arc::new(Mutex::new(State { body, ended })))
    }

    /// Drains a short rest, and adds `Connection: close` to the response if something is left.
    pub(super) async fn drain(mut self, expects_continue: bool, response: &mut HeaderMap) {
        // A client that expects `100 Continue` has not sent its body, and reading would ask for it.
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
