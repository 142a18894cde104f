//! Reuses download buffers in a pool, because a new buffer would have to be zeroed for every chunk.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

/// Size of a buffer in bytes. A response holds one at a time, so a stalled download occupies less
/// than 64 KiB together with its connection.
pub(super) const SIZE: usize = 48 * 1024;
/// Maximum number of free buffers in the pool.
const POOL_SIZE: usize = 256;

/// A pool of free buffers; clones share the buffers.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

/// A buffer in use; returns to the pool on drop.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    free: Buffers,
}

impl Buffers {
    /// Returns a buffer of [`SIZE`] bytes with arbitrary contents.
    pub(super) fn take(&self) -> Buffer {
        let bytes = self.0.lock().expect("no panic while locked").pop();
        Buffer {
            bytes: bytes.unwrap_or_else(|| vec![0; SIZE].into()),
            filled: 0,
            free: self.clone(),
        }
    }
}

impl Buffer {
    /// Returns the whole buffer, to read into.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Returns the first `filled` bytes; the rest is not accessible.
    pub(super) fn freeze(mut self, filled: usize) -> Bytes {
        self.filled = filled.min(self.bytes.len());
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.free.0.lock().expect("no panic while locked");
        if free.len() < POOL_SIZE {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reused_buffer_exposes_only_the_filled_bytes() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take();
        buffer.space()[..6].copy_from_slice(b"secret");
        let first = buffer.freeze(6);
        assert_eq!(&first[..], b"secret");
        drop(first);
        assert_eq!(buffers.0.lock().expect("lock").len(), 1);
        let mut buffer = buffers.take();
        buffer.space()[..2].copy_from_slice(b"hi");
        assert_eq!(&buffer.freeze(2)[..], b"hi");
    }
}
