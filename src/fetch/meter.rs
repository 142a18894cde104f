//! Meters a fetch: bounds the bytes read from its sockets in proportion to the size of the file.
//! The meter counts at the socket, below TLS, so it covers everything that a hostile origin can
//! send besides the file: handshakes, one-byte TLS records, HTTP/2 frames, interim responses, chunk
//! headers and trailers.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Number of bytes that a fetch may read in addition to the file and one response header of the
/// maximum size.
const OVERHEAD: u64 = 192 * 1024;
/// Number of socket reads that may be of any size. After that many, reads must return [`MIN_READ`]
/// bytes on average, because each read wakes three tasks.
const MAX_SMALL_READS: u64 = 4096;
const MIN_READ: u64 = 256;
/// Number of pieces of the file (chunks or HTTP/2 frames) that may be of any size. After that many,
/// pieces must have [`MIN_PIECE`] bytes on average.
const MAX_SMALL_PIECES: u64 = 4096;
const MIN_PIECE: u64 = 64;
/// Maximum number of HTTP/2 header blocks in one fetch: interim responses, the response header, and
/// its trailers. The HTTP library retains interim responses, which take many times more memory than
/// on the wire.
const MAX_HEADER_BLOCKS: u32 = 8;

/// Kinds of data of which an origin sent too much. Each message continues "the host sent far more
/// than the file: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    #[error("over {} KiB that are not part of it", .0 / 1024)]
    Bytes(u64),
    /// Too many small reads, or too many small pieces of the file.
    #[error("it came in too many small pieces")]
    Pieces,
    #[error("it came with more than {MAX_HEADER_BLOCKS} header blocks")]
    HeaderBlocks,
}

/// Counters of one fetch, summed over all its connections.
#[derive(Debug)]
pub(super) struct Meter {
    overhead: u64,
    raw: AtomicU64,
    reads: AtomicU64,
    file: AtomicU64,
    pieces: AtomicU64,
    flood: OnceLock<Flood>,
    /// Metrics counter of the bytes read by all fetches.
    total: Counter,
}

impl Meter {
    pub(super) fn new(max_header_bytes: usize, total: Counter) -> Self {
        let overhead = OVERHEAD.saturating_add(max_header_bytes as u64);
        let zero = AtomicU64::default;
        let flood = OnceLock::new();
        Self {
            overhead,
            raw: zero(),
            reads: zero(),
            file: zero(),
            pieces: zero(),
            flood,
            total,
        }
    }

    /// Counts a received piece of the file, which raises the number of bytes that may be read.
    pub(super) fn count_piece(&self, bytes: u64) -> Result<(), Flood> {
        let file = self.file.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let pieces = self.pieces.fetch_add(1, Ordering::Relaxed) + 1;
        if pieces > MAX_SMALL_PIECES + file / MIN_PIECE {
            Err(Flood::Pieces)
        } else {
            Ok(())
        }
    }

    /// Returns the reason if reading was stopped because the origin sent too much.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood.get().copied()
    }

    /// Returns the number of bytes read from the sockets so far.
    #[cfg(any(test, fuzzing))]
    pub(super) fn raw(&self) -> u64 {
        self.raw.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of bytes that the fetch may read: the size of the file so far, a
    /// fifth of it, and the overhead.
    pub(super) fn allowance(&self) -> u64 {
        let file = self.file.load(Ordering::Relaxed);
        file.saturating_add(file / 5).saturating_add(self.overhead)
    }

    /// Returns the maximum number of bytes that the next read may return.
    fn remaining(&self) -> io::Result<usize> {
        let raw = self.raw.load(Ordering::Relaxed);
        let remaining = self.allowance().saturating_sub(raw);
        if remaining == 0 {
            return Err(self.stop(Flood::Bytes(self.overhead)));
        }
        if self.reads.load(Ordering::Relaxed) > MAX_SMALL_READS + raw / MIN_READ {
            return Err(self.stop(Flood::Pieces));
        }
        Ok(usize::try_from(remaining).unwrap_or(usize::MAX))
    }

    fn count_read(&self, read: usize) {
        self.raw.fetch_add(read as u64, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.total.inc_by(read as u64);
    }

    /// Records the excess that stops the fetch, unless one is recorded already, and returns the
    /// recorded one as an I/O error.
    fn stop(&self, flood: Flood) -> io::Error {
        io::Error::other(*self.flood.get_or_init(|| flood))
    }
}

/// A socket that reports its reads to a meter.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining().min(self.meter.remaining()?);
        let mut within = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut within))?;
        let read = within.filled().len();
        self.meter.count_read(read);
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

/// A stream that counts the header blocks of an HTTP/2 connection as they are read (RFC 9113
/// section 4.1).
#[derive(Debug)]
pub(super) struct HeaderBlockCounter<S> {
    stream: S,
    meter: Arc<Meter>,
    /// Header of the current HTTP/2 frame, as far as it was read.
    header: [u8; 9],
    /// Number of bytes of the frame header read so far.
    at: usize,
    /// Number of bytes of the payload still to be read.
    payload: usize,
    blocks: u32,
}

impl<S> HeaderBlockCounter<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self {
            stream,
            meter,
            header: [0; 9],
            at: 0,
            payload: 0,
            blocks: 0,
        }
    }

    fn count_blocks(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        const HEADERS: u8 = 1;
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len());
                (self.payload, bytes) = (self.payload - skipped, &bytes[skipped..]);
                continue;
            }
            self.header[self.at] = bytes[0];
            (self.at, bytes) = (self.at + 1, &bytes[1..]);
            if self.at == self.header.len() {
                let [a, b, c, kind, ..] = self.header;
                (self.at, self.payload) = (0, u32::from_be_bytes([0, a, b, c]) as usize);
                self.blocks += u32::from(kind == HEADERS);
                if self.blocks > MAX_HEADER_BLOCKS {
                    return Err(self.meter.stop(Flood::HeaderBlocks));
                }
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeaderBlockCounter<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.count_blocks(&buf.filled()[before..]))
    }
}

/// Implements `AsyncWrite` for a stream by passing all calls to the inner stream.
macro_rules! write_through {
    ($stream:ident) => {
        impl<S: AsyncWrite + Unpin> AsyncWrite for $stream<S> {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write(cx, buf)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.stream.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_shutdown(cx)
            }
        }
    };
}

write_through!(Metered);
write_through!(HeaderBlockCounter);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::body::Bytes;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::super::Error;
    use super::super::fuzzing::{CONFIG, Replay, drive};
    use super::*;

    fn response(body: usize) -> Vec<u8> {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n{}",
            "x".repeat(body)
        )
        .into_bytes()
    }

    #[tokio::test]
    async fn file_in_one_byte_pieces_is_aborted() {
        let driven = drive(Replay::new(response(500_000), 1), false).await;
        assert!(
            matches!(driven.file, Err(Error::Flood(Flood::Pieces))),
            "{:?}",
            driven.file
        );
        assert!(driven.raw < 2 * MAX_SMALL_READS, "{}", driven.raw);
        for (size, piece) in [(500_000, 256), (500_000, 1460), (1000, 1)] {
            let driven = drive(Replay::new(response(size), piece), false).await;
            assert_eq!(driven.file.expect("a file").concat().len(), size);
        }
    }

    #[tokio::test]
    async fn reading_stops_at_allowance() {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000);
        let driven = drive(Replay::new(interim, 4096), false).await;
        assert!(
            matches!(driven.file, Err(Error::Flood(Flood::Bytes(262_144)))),
            "{:?}",
            driven.file
        );
        assert_eq!(driven.raw, driven.allowance);
    }

    /// An origin that obeys HTTP/2 flow control must not be taken for a flood.
    #[tokio::test]
    async fn large_http2_file_stays_within_allowance() {
        let size = usize::try_from(CONFIG.max_bytes).expect("a size");
        let (client, origin) = tokio::io::duplex(16 * 1024);
        let file = Bytes::from(vec![b'x'; size]);
        let service = service_fn(move |_: Request<_>| {
            let file = file.clone();
            async move { Ok::<_, Infallible>(Response::new(Full::new(file))) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(TokioIo::new(origin), service));
        let driven = drive(client, true).await;
        assert_eq!(driven.file.expect("a file").concat().len(), size);
        assert!(
            driven.raw < CONFIG.max_bytes + CONFIG.max_bytes / 50,
            "{}",
            driven.raw
        );
    }

    fn run(sent: Vec<u8>, piece: usize, http2: bool) -> super::super::fuzzing::Driven {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(drive(Replay::new(sent, piece), http2))
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn reading_from_repetitive_http1_origin_is_bounded(
            start in "HTTP/1.1 (200 OK|100 Continue|103 Early Hints)\r\n(transfer-encoding: chunked\r\n)?\r\n",
            repeated in "([0-9a-f]{1,3}(;a=b)?\r\n|x{1,9}\r\n|HTTP/1.1 100 Continue\r\n\r\n|[ -~]{1,9}){1,9}",
            piece in 1_usize..5000,
        ) {
            let driven = run([start.as_bytes(), &repeated.as_bytes().repeat(20_000)].concat(), piece, false);
            proptest::prop_assert!(driven.raw <= driven.allowance, "{driven:?}");
        }

        #[test]
        fn reading_from_repetitive_http2_origin_is_bounded(
            frames in proptest::collection::vec(
                (0_u8..12, proptest::num::u8::ANY, 0_u32..4, proptest::collection::vec(proptest::num::u8::ANY, 0..20)),
                1..6,
            ),
            piece in 1_usize..5000,
        ) {
            let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
                let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
                [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
            };
            let start = [frame(4, 0, 0, &[]), frame(1, 4, 1, &[0x88])].concat();
            let frames = frames.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload));
            let driven = run([start, frames.collect::<Vec<u8>>().repeat(10_000)].concat(), piece, true);
            proptest::prop_assert!(driven.raw <= driven.allowance, "{driven:?}");
        }
    }
}
