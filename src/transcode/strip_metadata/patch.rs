//! Defines patches, which replace bytes in a file and keep its size.

use std::ops::Range;

/// Bytes that replace those at an offset in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub at: u64,
    pub bytes: Vec<u8>,
}

impl Patch {
    /// Returns the patch that turns `before` into `after`, from the first changed byte to the last,
    /// or `None` if they are equal. Both have the same length and start at offset `at` in the file.
    pub(super) fn between(at: u64, before: &[u8], mut after: Vec<u8>) -> Option<Self> {
        let differs = |n: &usize| before[*n] != after[*n];
        let first = (0..before.len()).find(differs)?;
        let last = (first..before.len()).rev().find(differs)?;
        after.truncate(last + 1);
        Some(Self {
            at: at + first as u64,
            bytes: after.split_off(first),
        })
    }

    /// Applies the part of the patch that overlaps `piece`, which starts at offset `start` in the
    /// file.
    pub(super) fn apply(&self, start: u64, piece: &mut [u8]) {
        let first = self.at.max(start);
        let last = (self.at + self.bytes.len() as u64).min(start + piece.len() as u64);
        let within = |from: u64, at: u64| {
            usize::try_from(at - from).expect("offsets within a piece fit usize")
        };
        if first < last {
            let new = &self.bytes[within(self.at, first)..within(self.at, last)];
            piece[within(start, first)..within(start, last)].copy_from_slice(new);
        }
    }
}

/// Returns the patches that start in a range of offsets. `patches` must be sorted by offset.
pub(super) fn within(patches: &[Patch], range: Range<u64>) -> &[Patch] {
    let first = patches.partition_point(|patch| patch.at < range.start);
    let last = patches.partition_point(|patch| patch.at < range.end);
    &patches[first..last]
}
