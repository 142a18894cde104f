//! A TCP stream that fails if its peer reads nothing or too slowly (the write side of slowloris
//! protection), and that closes so that a rejected peer still receives its response.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::pace::Pace;

/// Time for which bytes of the peer are drained after the write side was closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads are not limited here: hyper limits the time for headers, and handlers that for bodies.
pub(super) struct IdleTimeoutStream {
    tcp: TcpStream,
    /// The minimum rate of the peer. Only the time in which a write waits for it counts.
    pace: Pace,
    /// Start of the current wait.
    waiting_since: Option<Instant>,
    /// The timeout of a wait. It is allocated at the first one, which most connections never have.
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

    /// Passes on the result of a write. Fails if the peer has read nothing for too long, or less
    /// than the minimum rate.
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

    /// Reads and drops bytes until the peer closes its side, a read fails, or the timer ends.
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

    /// Closes the write side, then lingers. Closing a socket with unread bytes sends a reset, and a
    /// peer that is still sending a rejected body would lose the response that says why.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_lingering {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
            self.is_lingering = true;
            self.timer = Some(Box::pin(sleep(LINGER_TIMEOUT)));
        }
        self.poll_linger(cx).map(Ok)
    }
}
