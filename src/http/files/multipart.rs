//! Combines several ranges into one response: `multipart/byteranges` (RFC 9110 section 14.6).

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use base16ct::lower::encode_string;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use crate::blob::{Blob, ByteStream};
use crate::id::random_bytes;

/// A `multipart/byteranges` body.
pub(super) struct Multipart {
    boundary: String,
    /// For each part: the boundary and headers before it, and its byte range.
    parts: Vec<(Bytes, RangeInclusive<u64>)>,
    end: Bytes,
}

impl Multipart {
    pub(super) fn new(ranges: Vec<RangeInclusive<u64>>, media_type: &str, size: u64) -> Self {
        // The boundary is random, so that an uploader cannot craft a file that contains it.
        let boundary = encode_string(&random_bytes::<16>());
        let parts = ranges.into_iter().map(|range| {
            let (first, last) = (range.start(), range.end());
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n"
            );
            (Bytes::from(head), range)
        });
        Self {
            parts: parts.collect(),
            end: Bytes::from(format!("\r\n--{boundary}--\r\n")),
            boundary,
        }
    }

    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    pub(super) fn content_length(&self) -> u64 {
        let parts = self
            .parts
            .iter()
            .map(|(head, range)| head.len() as u64 + range.end() - range.start() + 1);
        parts.sum::<u64>() + self.end.len() as u64
    }

    /// Returns the body as a stream, which opens each range only when it reaches it.
    pub(super) fn stream(self, blob: Arc<dyn Blob>) -> ByteStream {
        let text = |bytes: Bytes| stream::once(async move { Ok::<_, io::Error>(bytes) });
        let parts = stream::iter(self.parts).flat_map(move |(head, range)| {
            let read = Arc::clone(&blob).read(*range.start()..*range.end() + 1);
            text(head).chain(stream::once(read).map_err(io::Error::other).try_flatten())
        });
        parts.chain(text(self.end)).boxed()
    }
}
