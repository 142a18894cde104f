//! Reads small pieces of a file at any offset, through one block buffer and within a budget that
//! bounds the number of reads. Knows no file format.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

/// Size of the block buffer in bytes: enough for a signature and the data after it, yet small
/// enough that reading headers far apart is cheap.
const BLOCK_SIZE: usize = 8 * 1024;

/// Maximum number of steps per file. A step is one access to the block buffer, which takes a few
/// nanoseconds. The largest legitimate files use a third of the budget, and the slowest crafted
/// file takes less than a second.
const STEP_BUDGET: u32 = 16_000_000;
/// Number of steps charged for filling the block buffer: about its cost divided by that of an
/// access. Reading a file of 100 MiB once thus takes a twentieth of the budget.
const FILL_STEPS: u32 = 64;

/// A reader with a step budget. Once the budget is exhausted, every read behaves as at the end of
/// the file, so that every loop over the file terminates.
pub(super) struct BoundedReader<R> {
    reader: R,
    budget: u32,
    is_exhausted: bool,
    len: u64,
    block: Box<[u8]>,
    start: u64,
    filled: usize,
}

impl<R: Read + Seek> BoundedReader<R> {
    pub(super) fn new(mut reader: R) -> io::Result<Self> {
        let len = reader.seek(SeekFrom::End(0))?;
        Ok(Self {
            reader,
            budget: STEP_BUDGET,
            is_exhausted: false,
            len,
            block: vec![0; BLOCK_SIZE].into(),
            start: 0,
            filled: 0,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns true if the step budget is exhausted. Results obtained so far are then unreliable.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    /// Sets the remaining number of steps, so that tests can exhaust the budget early.
    #[cfg(test)]
    pub(super) fn with_budget(mut self, steps: u32) -> Self {
        self.budget = steps;
        self
    }

    /// Returns the number of steps used so far.
    #[cfg(test)]
    pub(super) fn steps_used(&self) -> u32 {
        STEP_BUDGET - self.budget
    }

    /// Charges `steps` to the budget. Returns false if the budget is exhausted.
    fn charge(&mut self, steps: u32) -> bool {
        self.is_exhausted |= self.budget < steps;
        self.budget = self.budget.saturating_sub(steps);
        !self.is_exhausted
    }

    /// Returns up to `wanted` bytes at `offset`, but at most one block. There are fewer only at the
    /// end of the file.
    pub(super) fn at(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let rest = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = wanted.min(BLOCK_SIZE).min(rest);
        if wanted == 0 || !self.charge(1) {
            return Ok(&[]);
        }
        if offset < self.start || offset + wanted as u64 > self.start + self.filled as u64 {
            if !self.charge(FILL_STEPS) {
                return Ok(&[]);
            }
            self.filled = 0;
            self.reader.seek(SeekFrom::Start(offset))?;
            self.filled = fill(&mut self.reader, &mut self.block)?;
            self.start = offset;
        }
        let skip = usize::try_from(offset - self.start)
            .unwrap_or(usize::MAX)
            .min(self.filled);
        Ok(&self.block[skip..self.filled.min(skip + wanted)])
    }

    /// Returns exactly `N` bytes at `offset`, or `None` if the file ends before that.
    pub(super) fn array<const N: usize>(&mut self, offset: u64) -> io::Result<Option<[u8; N]>> {
        Ok(self.at(offset, N)?.try_into().ok())
    }

    /// Reads an unsigned integer of `width` bytes, at most eight.
    pub(super) fn uint(
        &mut self,
        offset: u64,
        width: usize,
        little: bool,
    ) -> io::Result<Option<u64>> {
        let bytes = self.at(offset, width)?;
        let join = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Ok((bytes.len() == width).then(|| {
            if little {
                bytes.iter().rev().fold(0, join)
            } else {
                bytes.iter().fold(0, join)
            }
        }))
    }

    pub(super) fn be16(&mut self, offset: u64) -> io::Result<Option<u16>> {
        Ok(self.array(offset)?.map(u16::from_be_bytes))
    }

    pub(super) fn be32(&mut self, offset: u64) -> io::Result<Option<u32>> {
        Ok(self.array(offset)?.map(u32::from_be_bytes))
    }

    pub(super) fn be64(&mut self, offset: u64) -> io::Result<Option<u64>> {
        Ok(self.array(offset)?.map(u64::from_be_bytes))
    }

    pub(super) fn le16(&mut self, offset: u64) -> io::Result<Option<u16>> {
        Ok(self.array(offset)?.map(u16::from_le_bytes))
    }

    pub(super) fn le32(&mut self, offset: u64) -> io::Result<Option<u32>> {
        Ok(self.array(offset)?.map(u32::from_le_bytes))
    }

    pub(super) fn le64(&mut self, offset: u64) -> io::Result<Option<u64>> {
        Ok(self.array(offset)?.map(u64::from_le_bytes))
    }

    /// Returns the underlying reader, positioned at `offset`. Reads from it bypass the block buffer
    /// and the step budget.
    pub(super) fn stream_from(&mut self, offset: u64) -> io::Result<&mut R> {
        self.reader.seek(SeekFrom::Start(offset))?;
        Ok(&mut self.reader)
    }
}

/// Reads until `buffer` is full or the reader ends. Returns the number of bytes read.
pub(super) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn exhausted_budget_reads_as_end_of_file() {
        let mut source =
            BoundedReader::new(Cursor::new(vec![7; 3 * BLOCK_SIZE])).expect("in-memory I/O");
        let far = 2 * BLOCK_SIZE as u64;
        for fills in 0..STEP_BUDGET / (FILL_STEPS + 1) {
            assert!(!source.is_exhausted());
            assert_eq!(
                source
                    .at(if fills % 2 == 0 { far } else { 0 }, 1)
                    .expect("in-memory I/O"),
                [7]
            );
        }
        assert!(
            source
                .at(BLOCK_SIZE as u64, 1)
                .expect("in-memory I/O")
                .is_empty()
        );
        assert!(source.is_exhausted());
        assert_eq!(source.steps_used(), STEP_BUDGET);
        assert_eq!(source.array::<1>(0).expect("in-memory I/O"), None);
        assert!(source.at(far, 8).expect("in-memory I/O").is_empty());
    }
}
