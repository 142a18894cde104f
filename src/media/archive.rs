//! The central directory of a ZIP archive (PKWARE APPNOTE 6.3.10), entry by entry, and the start of an entry's content.
//! Keeps no list of entries: an archive may have millions.

use super::source::Source;
use std::io::{self, Cursor, Read, Seek};

/// As much as is read of an entry's content.
const CONTENT: u64 = 1024 * 1024;

/// An entry, as much as is needed to read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    method: u16,
    packed: u64,
    /// Where its local header is.
    header: u64,
    encrypted: bool,
}

/// An archive, or an archive inside another one that stores it as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Archive {
    start: u64,
    directory: u64,
    end: u64,
    /// What has to be added to the offsets in it, because something stands in front of the archive.
    shift: u64,
}

impl Archive {
    /// Finds the directory of the archive between `start` and `end`.
    pub(super) fn open<R: Read + Seek>(source: &mut Source<R>, start: u64, end: u64) -> io::Result<Option<Self>> {
        let Some(record) = end_record(source, start, end)? else { return Ok(None) };
        let mut size = source.le32(record + 12)?.map_or(0, u64::from);
        let mut offset = source.le32(record + 16)?.map_or(0, u64::from);
        let mut directory_end = record;
        // The locator of the 64-bit record comes right before (section 4.3.15).
        if let Some(locator) = record.checked_sub(20).filter(|&at| at >= start)
            && source.at(locator, 4)? == b"PK\x06\x07"
        {
            let wide = start.saturating_add(source.le64(locator + 8)?.unwrap_or(u64::MAX));
            if source.at(wide, 4)? == b"PK\x06\x06" {
                size = source.le64(wide.saturating_add(40))?.unwrap_or(u64::MAX);
                offset = source.le64(wide.saturating_add(48))?.unwrap_or(u64::MAX);
                directory_end = wide;
            }
        }
        // The size says where the directory is even if something stands before the archive.
        let Some(directory) = directory_end.checked_sub(size).filter(|&at| at >= start) else { return Ok(None) };
        let Some(shift) = directory.checked_sub(offset) else { return Ok(None) };
        let whole = size == 0 || source.at(directory, 4)? == b"PK\x01\x02";
        Ok(whole.then_some(Self { start, directory, end: directory_end, shift }))
    }

    /// Calls `visit` with the name of each entry, and the entry.
    pub(super) fn walk<R: Read + Seek>(
        &self,
        source: &mut Source<R>,
        mut visit: impl FnMut(&[u8], Entry),
    ) -> io::Result<()> {
        const FIXED: u64 = 46;
        let mut at = self.directory;
        while at + FIXED <= self.end {
            let Some(head) = source.array::<46>(at)? else { break };
            if !head.starts_with(b"PK\x01\x02") {
                break;
            }
            let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
            let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 2)) << 16;
            let (name, extra, comment) = (half(28), half(30), half(32));
            let mut entry = Entry { method: half(10), packed: word(20), header: word(42), encrypted: half(8) & 1 != 0 };
            let after_name = at + FIXED + u64::from(name);
            if entry.packed == 0xffff_ffff || entry.header == 0xffff_ffff {
                let full = word(24) == 0xffff_ffff;
                widen(source, after_name, after_name + u64::from(extra), full, &mut entry)?;
            }
            entry.header = entry.header.saturating_add(self.shift);
            // A name that is longer than a block is none of those that matter.
            visit(source.at(at + FIXED, usize::from(name))?, entry);
            at = after_name + u64::from(extra) + u64::from(comment);
        }
        Ok(())
    }

    /// The start of an entry's content, unpacked; empty where it cannot be read.
    pub(super) fn read<R: Read + Seek>(&self, source: &mut Source<R>, entry: Entry) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let Some((at, packed)) = self.data(source, entry)? else { return Ok(content) };
        // The local header may leave out the sizes (section 4.4.4, bit 3); this one has those of the directory.
        let mut local = b"PK\x03\x04\x14\0\0\0".to_vec();
        local.extend(entry.method.to_le_bytes());
        local.extend([0, 0, 0x21, 0, 0, 0, 0, 0]);
        local.extend(u32::try_from(packed).unwrap_or(u32::MAX).to_le_bytes());
        local.extend(u32::MAX.wrapping_sub(1).to_le_bytes());
        local.extend([1, 0, 0, 0, b'x']);
        let mut stream = Cursor::new(local).chain(source.from(at)?.take(packed));
        if let Ok(Some(file)) = ::zip::read::read_zipfile_from_stream(&mut stream) {
            // What comes before an error is good enough to look at.
            let _ = file.take(CONTENT).read_to_end(&mut content);
        }
        Ok(content)
    }

    /// The archive that an entry holds, if it is stored and not packed.
    pub(super) fn nested<R: Read + Seek>(&self, source: &mut Source<R>, entry: Entry) -> io::Result<Option<Self>> {
        match self.data(source, entry)? {
            Some((at, _)) if entry.method == 0 => Self::open(source, at, at.saturating_add(entry.packed).min(self.end)),
            _ => Ok(None),
        }
    }

    /// Where an entry's data is, and how much of it is read at most.
    fn data<R: Read + Seek>(&self, source: &mut Source<R>, entry: Entry) -> io::Result<Option<(u64, u64)>> {
        if entry.encrypted || entry.header < self.start || source.at(entry.header, 4)? != b"PK\x03\x04" {
            return Ok(None);
        }
        let lengths = source.le16(entry.header + 26)?.zip(source.le16(entry.header + 28)?);
        Ok(lengths.map(|(name, extra)| {
            let at = entry.header + 30 + u64::from(name) + u64::from(extra);
            (at, entry.packed.min(2 * CONTENT))
        }))
    }
}

/// Where the end of central directory record is (section 4.3.16).
fn end_record<R: Read + Seek>(source: &mut Source<R>, start: u64, end: u64) -> io::Result<Option<u64>> {
    const FIXED: u64 = 22;
    const STEP: u64 = 4096;
    let lowest = end.saturating_sub(FIXED + u64::from(u16::MAX)).max(start);
    let Some(mut upper) = end.checked_sub(FIXED).map(|at| at + 4) else { return Ok(None) };
    // Backwards, so that of two records the outer one is found; pieces overlap by a signature less one byte.
    while upper >= lowest + 4 {
        let lower = upper.saturating_sub(STEP).max(lowest);
        let piece = source.at(lower, usize::try_from(upper - lower).unwrap_or(0))?.to_vec();
        for skip in memchr::memmem::rfind_iter(&piece, b"PK\x05\x06") {
            let at = lower + skip as u64;
            let comment = source.le16(at + 20)?.map_or(u64::MAX, u64::from);
            if comment <= end - at - FIXED {
                return Ok(Some(at));
            }
        }
        if lower == lowest {
            break;
        }
        upper = lower + 3;
    }
    Ok(None)
}

/// Takes what does not fit 32 bits from the extra field for it (section 4.5.3): only those that do not, in this order.
fn widen<R: Read + Seek>(
    source: &mut Source<R>,
    mut at: u64,
    end: u64,
    full: bool,
    entry: &mut Entry,
) -> io::Result<()> {
    while at + 4 <= end {
        let Some((id, size)) = source.le16(at)?.zip(source.le16(at + 2)?) else { break };
        at += 4;
        if id == 1 {
            if full {
                at += 8;
            }
            if entry.packed == 0xffff_ffff {
                entry.packed = source.le64(at)?.unwrap_or(0);
                at += 8;
            }
            if entry.header == 0xffff_ffff {
                entry.header = source.le64(at)?.unwrap_or(u64::MAX / 2);
            }
            break;
        }
        at += u64::from(size);
    }
    Ok(())
}
