//! Bodies that nobody read. An answer that is given before its request has come whole leaves the rest on the connection;
//! hyper then closes it, and a client that is about to use it again finds it gone. A short rest is read and dropped; after
//! a long one the client is told that the connection ends.

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

/// Longest rest that is read, in bytes.
const MAX_DRAINED: u64 = 64 * 1024;
/// How long it may take to come.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A request's body, also when it has been given away.
#[derive(Clone, Debug)]
pub(crate) struct DrainableBody(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    body: Incoming,
    /// hyper does not say this of a chunked body.
    ended: bool,
}

impl DrainableBody {
    pub(crate) fn new(body: Incoming) -> Self {
        let ended = body.is_end_stream();
        Self(Arc::new(Mutex::new(State { body, ended })))
    }

    /// Reads what is left, if it is short; `answer` tells the client if something still is.
    pub(crate) async fn finish(mut self, expects_continue: bool, answer: &mut HeaderMap) {
        // A client that waits to be told to go on has sent nothing, and must not be told.
        let is_short = !expects_continue && self.size_hint().lower() <= MAX_DRAINED;
        let rest = async {
            let mut read = 0;
            while let Some(Ok(frame)) = self.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len) as u64;
                if read > MAX_DRAINED {
                    break;
                }
            }
        };
        if is_short {
            let _ = timeout(DRAIN_TIMEOUT, rest).await;
        }
        if !self.is_end_stream() {
            answer.insert(header::CONNECTION, HeaderValue::from_static("close"));
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
