//! Limits what a connection buffers of a response to one frame. hyper reads frames ahead until its
//! buffer is full; a response that its client does not read would hold all of them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body as _, Frame, SizeHint};

/// A body that yields its next frame once the previous one has been written and dropped.
pub(super) struct OneFrameInFlight {
    body: Body,
    in_flight: Arc<InFlight>,
}

/// Shared by the body and its frame in flight.
#[derive(Default)]
struct InFlight {
    is_held: AtomicBool,
    /// The task that waits for the drop of the frame.
    waker: AtomicWaker,
}

/// The data of a frame. Dropping it releases the next one.
struct Data {
    bytes: Bytes,
    in_flight: Arc<InFlight>,
}

impl OneFrameInFlight {
    /// Wraps a body. An empty one stays as it is.
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
            // The frame may have been dropped before the waker was registered.
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
