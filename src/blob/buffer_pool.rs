//! Buffers for downloads, used again and again: a fresh one would have to be cleared for every piece of every file.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

/// Bytes of a buffer. An answer holds one at a time, so with what the connection needs itself, an unread download takes less
/// than 64 KiB.
pub(super) const SIZE: usize = 48 * 1024;
/// Free buffers that are kept.
const POOL_SIZE: usize = 256;

/// The free ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

/// A buffer in use.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    filled: usize,
    free: Buffers,
}

impl Buffers {
    /// A buffer of [`SIZE`] bytes with whatever was in it before.
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
    /// Where to read into.
    pub(super) fn space(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Its first `filled` bytes; what was in it before stays out of sight.
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
    fn a_buffer_comes_back_and_shows_only_what_was_filled() {
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
