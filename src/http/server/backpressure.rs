//! Limits the response data buffered per connection to one frame. Otherwise hyper reads frames
//! ahead until its buffer is full, and keeps them all in memory if the client does not read.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body as _, Frame, SizeHint};

/// A response body that yields a frame only after the previous one has been written and dropped.
pub(super) struct OneFrameInFlight {
    body: Body,
    in_flight: Arc<InFlight>,
}

/// State shared by a response body and its frame in flight.
#[derive(Default)]
struct InFlight {
    is_held: AtomicBool,
    /// Waker of the task that waits until the frame is dropped.
    waker: AtomicWaker,
}

/// The data of a frame. Dropping it lets the body yield the next frame.
struct Data {
    bytes: Bytes,
    in_flight: Arc<InFlight>,
}

impl OneFrameInFlight {
    /// Wraps a response body. Empty bodies are returned unchanged.
    pub(super) fn wrap(body: Body) -> Body {
        if body.size_hint().exact() == Some(0) {
            return body;
        }
        Body::new(Self {
            body,
            in_flight: Arc::default(),
        })
    }
}

impl hyper::body::Body for OneFrameInFlight {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.in_flight.is_held.load(Ordering::Acquire) {
            self.in_flight.waker.register(cx.waker());
            // Checked again, because the frame may have been dropped before the waker was
            // registered.
            if self.in_flight.is_held.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            end_or_pending => return end_or_pending,
        };
        Poll::Ready(Some(Ok(frame.map_data(|bytes| {
            self.in_flight.is_held.store(true, Ordering::Release);
            Bytes::from_owner(Data {
                bytes,
                in_flight: Arc::clone(&self.in_flight),
            })
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AsRef<[u8]> for Data {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.in_flight.is_held.store(false, Ordering::Release);
        self.in_flight.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::task::Waker;

    #[test]
    fn next_frame_waits_for_drop_of_previous_one() {
        let chunks =
            stream::iter(["a", "b"].map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk))));
        let mut body = OneFrameInFlight::wrap(Body::from_stream(chunks));
        let cx = &mut Context::from_waker(Waker::noop());
        let mut next = || Pin::new(&mut body).poll_frame(cx);
        let Poll::Ready(Some(Ok(first))) = next() else {
            panic!("no first frame")
        };
        assert!(next().is_pending());
        drop(first);
        let Poll::Ready(Some(Ok(second))) = next() else {
            panic!("no second frame")
        };
        assert_eq!(second.into_data().expect("data"), "b");
        assert!(matches!(next(), Poll::Ready(None)));
    }
}
