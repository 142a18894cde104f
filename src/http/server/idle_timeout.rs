//! A TCP stream that gives up on a peer who takes nothing or too little, and closes so that a refused peer still reads its
//! answer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::pace::Pace;

/// How long a peer that is still sending is listened to after we closed our side.
const LINGER: Duration = Duration::from_secs(2);

/// The stream. Reading is bounded elsewhere: headers by hyper, bodies by those who read them.
pub(crate) struct IdleTimeoutStream {
    tcp: TcpStream,
    /// How fast the peer must take bytes. Only the time that it is waited for counts.
    pace: Pace,
    /// Since when the peer is waited for.
    waiting: Option<Instant>,
    /// Runs while the peer is waited for; most peers never make it start.
    timer: Option<Pin<Box<Sleep>>>,
    lingering: bool,
}

impl IdleTimeoutStream {
    /// Over `tcp`, for a peer that takes bytes at this pace.
    pub(crate) fn new(tcp: TcpStream, pace: Pace) -> Self {
        Self {
            tcp,
            pace,
            waiting: None,
            timer: None,
            lingering: false,
        }
    }

    /// Passes on the result of a write, or fails if the peer took nothing for too long, or too little.
    fn bounded(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            let waited = self
                .waiting
                .take()
                .map(|since| since.elapsed())
                .unwrap_or_default();
            self.pace.moved(waited, *result.as_ref().unwrap_or(&0));
            return Poll::Ready(result);
        }
        let next_chunk_timeout = self.pace.next_chunk_timeout();
        if self.waiting.is_none() {
            let now = Instant::now();
            self.waiting = Some(now);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(now + next_chunk_timeout),
                None => self.timer = Some(Box::pin(sleep(next_chunk_timeout))),
            }
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(next_chunk_timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer takes no bytes, or too few",
        )))
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
        self.bounded(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.bounded(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    /// Closes our side, then reads on for a moment. A socket that is closed with unread bytes in it sends a reset, and
    /// a peer that is still sending a body we refused would lose the answer that says why.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.lingering {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
            self.lingering = true;
            self.timer = Some(Box::pin(sleep(LINGER)));
        }
        let mut sink = [0; 8192];
        loop {
            if self
                .timer
                .as_mut()
                .is_none_or(|timer| timer.as_mut().poll(cx).is_ready())
            {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut sink);
            match ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
