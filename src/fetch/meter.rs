//! The meter of a fetch: how many bytes of its connections it may read for the file that it gets. It counts at the
//! socket, below TLS, so it bounds whatever a hostile origin sends besides the file: handshakes, TLS records of one byte,
//! HTTP/2 frames, interim answers, chunk headers, trailers.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes besides the file that a fetch may read, without those of one header of the largest size.
const OVERHEAD: u64 = 192 * 1024;
/// Reads of a socket that a fetch may take whatever they bring. Further ones must bring [`MIN_READ`] bytes on average:
/// each wakes three tasks.
const MAX_SMALL_READS: u64 = 4096;
/// The least that a read brings on average once many have brought less.
const MIN_READ: u64 = 256;
/// Pieces of the file (chunks, HTTP/2 frames) that a fetch may take whatever their size. Further ones must have
/// [`MIN_PIECE`] bytes on average.
const MAX_SMALL_PIECES: u64 = 4096;
/// The least that a piece of the file has on average once many have had less.
const MIN_PIECE: u64 = 64;
/// Header blocks of an HTTP/2 origin: interim answers, the answer, its trailers. The HTTP library keeps those of interim
/// answers, each many times as large in memory as on the wire.
const MAX_HEADER_BLOCKS: u32 = 8;

/// Too much that is not the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// Bytes.
    #[error("over {} KiB that are not part of it", .0 / 1024)]
    Bytes(u64),
    /// Reads, or pieces of the file.
    #[error("it came in too many small pieces")]
    Pieces,
    /// HTTP/2 header blocks.
    #[error("it came with more than {MAX_HEADER_BLOCKS} header blocks")]
    HeaderBlocks,
}

/// What one fetch has read, over all its connections.
#[derive(Debug)]
pub(super) struct Meter {
    overhead: u64,
    raw: AtomicU64,
    reads: AtomicU64,
    file: AtomicU64,
    pieces: AtomicU64,
    flood: OnceLock<Flood>,
    /// Raw bytes of all fetches.
    total: Counter,
}

impl Meter {
    /// For answers whose header is at most `max_header_bytes`.
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

    /// Counts a piece of the file: more bytes of it allow more of what carries them.
    pub(super) fn deliver(&self, bytes: u64) -> Result<(), Flood> {
        let file = self.file.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let pieces = self.pieces.fetch_add(1, Ordering::Relaxed) + 1;
        if pieces > MAX_SMALL_PIECES + file / MIN_PIECE {
            Err(Flood::Pieces)
        } else {
            Ok(())
        }
    }

    /// Why no more was read, if that is so.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.flood.get().copied()
    }

    /// All bytes that were read.
    #[cfg(any(test, fuzzing))]
    pub(super) fn raw(&self) -> u64 {
        self.raw.load(Ordering::Relaxed)
    }

    /// The most that may have been read: the file, a fifth of it, and the overhead.
    pub(super) fn allowance(&self) -> u64 {
        let file = self.file.load(Ordering::Relaxed);
        file.saturating_add(file / 5).saturating_add(self.overhead)
    }

    /// How many bytes the next read may bring.
    fn left(&self) -> io::Result<usize> {
        let raw = self.raw.load(Ordering::Relaxed);
        let left = self.allowance().saturating_sub(raw);
        if left == 0 {
            return Err(self.refuse(Flood::Bytes(self.overhead)));
        }
        if self.reads.load(Ordering::Relaxed) > MAX_SMALL_READS + raw / MIN_READ {
            return Err(self.refuse(Flood::Pieces));
        }
        Ok(usize::try_from(left).unwrap_or(usize::MAX))
    }

    fn count(&self, read: usize) {
        self.raw.fetch_add(read as u64, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.total.inc_by(read as u64);
    }

    fn refuse(&self, flood: Flood) -> io::Error {
        io::Error::other(*self.flood.get_or_init(|| flood))
    }
}

/// A socket whose reads are counted.
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
        let room = buf.remaining().min(self.meter.left()?);
        let mut within = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut within))?;
        let read = within.filled().len();
        self.meter.count(read);
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

/// Counts the header blocks of an HTTP/2 connection that it reads (RFC 9113 section 4.1).
#[derive(Debug)]
pub(super) struct Frames<S> {
    stream: S,
    meter: Arc<Meter>,
    header: [u8; 9],
    /// Bytes of the header that have been read.
    at: usize,
    /// Bytes of the payload that are still to come.
    payload: usize,
    blocks: u32,
}

impl<S> Frames<S> {
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

    fn look(&mut self, mut bytes: &[u8]) -> io::Result<()> {
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
                    return Err(self.meter.refuse(Flood::HeaderBlocks));
                }
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.look(&buf.filled()[before..]))
    }
}

/// Writes go through as they are.
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
write_through!(Frames);

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::body::Bytes;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::super::Error;
    use super::super::fuzzing::{LIMITS, Replay, drive};
    use super::*;

    fn answer(body: usize) -> Vec<u8> {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n{}",
            "x".repeat(body)
        )
        .into_bytes()
    }

    #[tokio::test]
    async fn a_file_in_pieces_of_one_byte_is_given_up() {
        let driven = drive(Replay::new(answer(500_000), 1), false).await;
        assert!(
            matches!(driven.file, Err(Error::Flood(Flood::Pieces))),
            "{:?}",
            driven.file
        );
        assert!(driven.raw < 2 * MAX_SMALL_READS, "{}", driven.raw);
        for (size, piece) in [(500_000, 256), (500_000, 1460), (1000, 1)] {
            let driven = drive(Replay::new(answer(size), piece), false).await;
            assert_eq!(driven.file.expect("a file").concat().len(), size);
        }
    }

    #[tokio::test]
    async fn no_byte_more_than_the_allowance_is_read() {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000);
        let driven = drive(Replay::new(interim, 4096), false).await;
        assert!(
            matches!(driven.file, Err(Error::Flood(Flood::Bytes(262_144)))),
            "{:?}",
            driven.file
        );
        assert_eq!(driven.raw, driven.allowance);
    }

    /// A server that keeps to the flow control of HTTP/2.
    #[tokio::test]
    async fn a_large_file_over_http2_stays_within_the_allowance() {
        let size = usize::try_from(LIMITS.max_bytes).expect("a size");
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
            driven.raw < LIMITS.max_bytes + LIMITS.max_bytes / 50,
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
        fn whatever_an_http1_origin_repeats_is_bounded(
            start in "HTTP/1.1 (200 OK|100 Continue|103 Early Hints)\r\n(transfer-encoding: chunked\r\n)?\r\n",
            repeated in "([0-9a-f]{1,3}(;a=b)?\r\n|x{1,9}\r\n|HTTP/1.1 100 Continue\r\n\r\n|[ -~]{1,9}){1,9}",
            piece in 1_usize..5000,
        ) {
            let driven = run([start.as_bytes(), &repeated.as_bytes().repeat(20_000)].concat(), piece, false);
            proptest::prop_assert!(driven.raw <= driven.allowance, "{driven:?}");
        }

        #[test]
        fn whatever_an_http2_origin_repeats_is_bounded(
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
