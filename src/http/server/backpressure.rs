//! An answer's body of which one piece is in memory at a time. hyper asks for pieces ahead until its buffer is full, and
//! an answer that nobody reads would hold them all.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::body::{Body as _, Frame, SizeHint};

/// Gives the next piece of a body once the one before has been written and dropped.
pub(super) struct OneAtATime {
    body: Body,
    written: Arc<Written>,
}

/// Whether a piece is still held, and who waits for it to be written.
#[derive(Default)]
struct Written {
    is_held: AtomicBool,
    waker: AtomicWaker,
}

/// A piece. Its drop says that it was written.
struct Piece {
    bytes: Bytes,
    written: Arc<Written>,
}

impl OneAtATime {
    /// The same body; one that is whole already stays as it is.
    pub(super) fn limit(body: Body) -> Body {
        if body.size_hint().exact() == Some(0) {
            return body;
        }
        Body::new(Self {
            body,
            written: Arc::default(),
        })
    }
}

impl hyper::body::Body for OneAtATime {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.written.is_held.load(Ordering::Acquire) {
            self.written.waker.register(cx.waker());
            // It may have been written just now.
            if self.written.is_held.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        frame.map(|frame| {
            frame.map(|frame| {
                frame.map(|frame| {
                    frame.map_data(|bytes| {
                        self.written.is_held.store(true, Ordering::Release);
                        Bytes::from_owner(Piece {
                            bytes,
                            written: Arc::clone(&self.written),
                        })
                    })
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.written.is_held.store(false, Ordering::Release);
        self.written.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use std::task::Waker;

    #[test]
    fn next_piece_waits_for_the_one_before() {
        let pieces =
            stream::iter(["a", "b"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece))));
        let mut body = OneAtATime::limit(Body::from_stream(pieces));
        let cx = &mut Context::from_waker(Waker::noop());
        let mut next = || Pin::new(&mut body).poll_frame(cx);
        let Poll::Ready(Some(Ok(first))) = next() else {
            panic!("a piece")
        };
        assert!(next().is_pending());
        drop(first);
        let Poll::Ready(Some(Ok(second))) = next() else {
            panic!("a piece")
        };
        assert_eq!(second.into_data().expect("data"), "b");
        assert!(matches!(next(), Poll::Ready(None)));
    }
}
