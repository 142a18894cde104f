//! Reading here and there in a file: small pieces at any place, through one block of memory, and only so many of them.
//! Knows no format.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

/// Big enough for a signature and what follows it, small enough to be cheap where a walk takes long strides.
const BLOCK: usize = 8 * 1024;

/// Steps that may be taken in a file: pieces that are looked at, each a few nanoseconds. The largest honest files need a
/// third of it, and the slowest that can be made of it takes less than a second.
const STEPS: u32 = 16_000_000;
/// Steps that it counts to fill the block, about as many times as it takes longer than to look into it. So a file of
/// 100 MiB is read once for a twentieth of all steps.
const FILL: u32 = 64;

/// A file that is read in pieces. When its steps are spent it reads as if it ended everywhere, so that every walk
/// through it comes to its end.
pub(super) struct Source<R> {
    reader: R,
    left: u32,
    spent: bool,
    len: u64,
    block: Box<[u8]>,
    start: u64,
    filled: usize,
}

impl<R: Read + Seek> Source<R> {
    pub(super) fn new(mut reader: R) -> io::Result<Self> {
        let len = reader.seek(SeekFrom::End(0))?;
        Ok(Self { reader, left: STEPS, spent: false, len, block: vec![0; BLOCK].into(), start: 0, filled: 0 })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Whether the steps did not suffice. What was found out until then is not to be relied on.
    pub(super) fn spent(&self) -> bool {
        self.spent
    }

    /// Leaves so many steps.
    #[cfg(test)]
    pub(super) fn leave(mut self, steps: u32) -> Self {
        self.left = steps;
        self
    }

    /// Steps taken so far.
    #[cfg(test)]
    pub(super) fn steps(&self) -> u32 {
        STEPS - self.left
    }

    /// Takes that many steps, if there are as many left.
    fn step(&mut self, steps: u32) -> bool {
        self.spent |= self.left < steps;
        self.left = self.left.saturating_sub(steps);
        !self.spent
    }

    /// The bytes at `offset`, at most `wanted` and at most a block; fewer only at the end of the file.
    pub(super) fn at(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = wanted.min(BLOCK).min(left);
        if wanted == 0 || !self.step(1) {
            return Ok(&[]);
        }
        if offset < self.start || offset + wanted as u64 > self.start + self.filled as u64 {
            if !self.step(FILL) {
                return Ok(&[]);
            }
            self.filled = 0;
            self.reader.seek(SeekFrom::Start(offset))?;
            self.filled = fill(&mut self.reader, &mut self.block)?;
            self.start = offset;
        }
        let skip = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.filled);
        Ok(&self.block[skip..self.filled.min(skip + wanted)])
    }

    /// Exactly `N` bytes at `offset`, or `None` where the file ends before.
    pub(super) fn array<const N: usize>(&mut self, offset: u64) -> io::Result<Option<[u8; N]>> {
        Ok(self.at(offset, N)?.try_into().ok())
    }

    /// An unsigned number of `width` bytes, eight at most.
    pub(super) fn uint(&mut self, offset: u64, width: usize, little: bool) -> io::Result<Option<u64>> {
        let bytes = self.at(offset, width)?;
        let join = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Ok((bytes.len() == width)
            .then(|| if little { bytes.iter().rev().fold(0, join) } else { bytes.iter().fold(0, join) }))
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

    /// Reads on from `offset` to the end of the file, past the block.
    pub(super) fn from(&mut self, offset: u64) -> io::Result<&mut R> {
        self.reader.seek(SeekFrom::Start(offset))?;
        Ok(&mut self.reader)
    }
}

/// Reads until `buffer` is full or the reader at its end, and returns how much that was.
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
    fn a_file_ends_everywhere_when_its_steps_are_spent() {
        let mut source = Source::new(Cursor::new(vec![7; 3 * BLOCK])).expect("memory");
        let far = 2 * BLOCK as u64;
        for fills in 0..STEPS / (FILL + 1) {
            assert!(!source.spent());
            assert_eq!(source.at(if fills % 2 == 0 { far } else { 0 }, 1).expect("memory"), [7]);
        }
        assert!(source.at(BLOCK as u64, 1).expect("memory").is_empty());
        assert!(source.spent());
        assert_eq!(source.steps(), STEPS);
        assert_eq!(source.array::<1>(0).expect("memory"), None);
        assert!(source.at(far, 8).expect("memory").is_empty());
    }
}
