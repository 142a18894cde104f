//! Wraps a TCP stream so that it fails if the peer reads nothing or too slowly (the write side of
//! slowloris protection), and closes it such that a rejected peer still receives its response.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::pace::Pace;

/// Maximum time for draining the peer's bytes after the write side was closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// A TCP stream with a timeout on writes. Reads are limited elsewhere: by hyper for headers, and by
/// the handlers for bodies.
pub(super) struct IdleTimeoutStream {
    tcp: TcpStream,
    /// Minimum rate at which the peer must read. Only time spent waiting in writes counts.
    pace: Pace,
    /// Time at which the current wait for the peer started.
    waiting_since: Option<Instant>,
    /// Timeout of the current wait. It is allocated at the first wait, which most connections never
    /// reach.
    timer: Option<Pin<Box<Sleep>>>,
    is_lingering: bool,
}

impl IdleTimeoutStream {
    pub(super) fn new(tcp: TcpStream, pace: Pace) -> Self {
        Self {
            tcp,
            pace,
            waiting_since: None,
            timer: None,
            is_lingering: false,
        }
    }

    /// Returns the result of a write, or an error if the peer has read nothing for too long or is
    /// slower than the minimum rate.
    fn check_pace(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            let waited = self.waiting_since.take().map(|since| since.elapsed());
            self.pace
                .moved(waited.unwrap_or_default(), *result.as_ref().unwrap_or(&0));
            return Poll::Ready(result);
        }
        let next_chunk_timeout = self.pace.next_chunk_timeout();
        if self.waiting_since.is_none() {
            let now = Instant::now();
            self.waiting_since = Some(now);
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(now + next_chunk_timeout);
            }
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(next_chunk_timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer reads nothing or too slowly",
        )))
    }

    /// Reads and discards bytes until the peer closes its side, a read fails, or the timeout
    /// expires.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut sink = [0; 8192];
        loop {
            let timer = self.timer.as_mut();
            if timer.is_none_or(|timer| timer.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(());
            }
            let mut buf = ReadBuf::new(&mut sink);
            match ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for IdleTimeoutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for IdleTimeoutStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.check_pace(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.check_pace(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    /// Closes the write side, then drains the read side for a while. Closing a socket with unread
    /// bytes sends a reset, and a peer that is still sending a rejected body would then lose the
    /// response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_lingering {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
            self.is_lingering = true;
            self.timer = Some(Box::pin(sleep(LINGER_TIMEOUT)));
        }
        self.poll_linger(cx).map(Ok)
    }
}
