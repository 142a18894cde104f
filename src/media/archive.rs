//! Reads the central directory of a ZIP archive (PKWARE APPNOTE 6.3.10) one entry at a time, and
//! the start of an entry's content. Keeps no list of entries, because an archive may have millions.

use super::bounded_reader::BoundedReader;
use std::io::{self, Cursor, Read, Seek};

/// Maximum number of bytes decompressed from one entry.
const MAX_CONTENT: u64 = 1024 * 1024;

/// Those fields of a central directory entry that are needed to read the entry's content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    method: u16,
    packed: u64,
    /// Offset of the local file header.
    header: u64,
    encrypted: bool,
}

/// A ZIP archive. It can be nested: stored uncompressed as an entry of another archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Archive {
    start: u64,
    directory: u64,
    end: u64,
    /// Number of bytes that precede the archive in the file; added to every offset stored in it.
    shift: u64,
}

impl Archive {
    /// Locates the central directory of the archive that lies in `start..end`. Returns `None` if
    /// there is none.
    pub(super) fn open<R: Read + Seek>(
        source: &mut BoundedReader<R>,
        start: u64,
        end: u64,
    ) -> io::Result<Option<Self>> {
        let Some(record) = end_record(source, start, end)? else {
            return Ok(None);
        };
        let mut size = source.le32(record + 12)?.map_or(0, u64::from);
        let mut offset = source.le32(record + 16)?.map_or(0, u64::from);
        let mut directory_end = record;
        // The ZIP64 locator immediately precedes the end of central directory record (section
        // 4.3.15).
        if let Some(locator) = record.checked_sub(20).filter(|&at| at >= start)
            && source.at(locator, 4)? == b"PK\x06\x07"
        {
            let zip64 = start.saturating_add(source.le64(locator + 8)?.unwrap_or(u64::MAX));
            if source.at(zip64, 4)? == b"PK\x06\x06" {
                size = source.le64(zip64.saturating_add(40))?.unwrap_or(u64::MAX);
                offset = source.le64(zip64.saturating_add(48))?.unwrap_or(u64::MAX);
                directory_end = zip64;
            }
        }
        // The directory is located by its size, because its offset is wrong if data precedes the
        // archive.
        let Some(directory) = directory_end.checked_sub(size).filter(|&at| at >= start) else {
            return Ok(None);
        };
        let Some(shift) = directory.checked_sub(offset) else {
            return Ok(None);
        };
        let is_valid = size == 0 || source.at(directory, 4)? == b"PK\x01\x02";
        Ok(is_valid.then_some(Self {
            start,
            directory,
            end: directory_end,
            shift,
        }))
    }

    /// Calls `visit` with each entry's name and fields.
    pub(super) fn walk<R: Read + Seek>(
        &self,
        source: &mut BoundedReader<R>,
        mut visit: impl FnMut(&[u8], Entry),
    ) -> io::Result<()> {
        const ENTRY_HEADER: u64 = 46;
        let mut at = self.directory;
        while at + ENTRY_HEADER <= self.end {
            let Some(head) = source.array::<46>(at)? else {
                break;
            };
            if !head.starts_with(b"PK\x01\x02") {
                break;
            }
            let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
            let word = |at: usize| u64::from(half(at)) | u64::from(half(at + 2)) << 16;
            let (name, extra, comment) = (half(28), half(30), half(32));
            let mut entry = Entry {
                method: half(10),
                packed: word(20),
                header: word(42),
                encrypted: half(8) & 1 != 0,
            };
            let after_name = at + ENTRY_HEADER + u64::from(name);
            if entry.packed == 0xffff_ffff || entry.header == 0xffff_ffff {
                let has_size = word(24) == 0xffff_ffff;
                read_zip64_sizes(
                    source,
                    after_name,
                    after_name + u64::from(extra),
                    has_size,
                    &mut entry,
                )?;
            }
            entry.header = entry.header.saturating_add(self.shift);
            // Names longer than the reader's block are truncated; no name that detection looks for
            // is that long.
            visit(source.at(at + ENTRY_HEADER, usize::from(name))?, entry);
            at = after_name + u64::from(extra) + u64::from(comment);
        }
        Ok(())
    }

    /// Returns the start of an entry's content, decompressed, or nothing if the entry cannot be
    /// read.
    pub(super) fn read<R: Read + Seek>(
        &self,
        source: &mut BoundedReader<R>,
        entry: Entry,
    ) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        let Some((at, packed)) = self.data(source, entry)? else {
            return Ok(content);
        };
        // The local header may omit the sizes (section 4.4.4, bit 3), so it is replaced by a header
        // with the compressed size from the central directory.
        let mut local = b"PK\x03\x04\x14\0\0\0".to_vec();
        local.extend(entry.method.to_le_bytes());
        local.extend([0, 0, 0x21, 0, 0, 0, 0, 0]);
        local.extend(u32::try_from(packed).unwrap_or(u32::MAX).to_le_bytes());
        local.extend(u32::MAX.wrapping_sub(1).to_le_bytes());
        local.extend([1, 0, 0, 0, b'x']);
        let mut stream = Cursor::new(local).chain(source.stream_from(at)?.take(packed));
        if let Ok(Some(file)) = ::zip::read::read_zipfile_from_stream(&mut stream) {
            // Data decompressed before an error is enough for detection.
            let _ = file.take(MAX_CONTENT).read_to_end(&mut content);
        }
        Ok(content)
    }

    /// Opens the archive nested in an entry. Returns `None` unless the entry is stored
    /// uncompressed.
    pub(super) fn nested<R: Read + Seek>(
        &self,
        source: &mut BoundedReader<R>,
        entry: Entry,
    ) -> io::Result<Option<Self>> {
        match self.data(source, entry)? {
            Some((at, _)) if entry.method == 0 => {
                Self::open(source, at, at.saturating_add(entry.packed).min(self.end))
            }
            _ => Ok(None),
        }
    }

    /// Returns the offset of an entry's data and the number of compressed bytes to read, which has
    /// an upper limit.
    fn data<R: Read + Seek>(
        &self,
        source: &mut BoundedReader<R>,
        entry: Entry,
    ) -> io::Result<Option<(u64, u64)>> {
        if entry.encrypted
            || entry.header < self.start
            || source.at(entry.header, 4)? != b"PK\x03\x04"
        {
            return Ok(None);
        }
        let lengths = source
            .le16(entry.header + 26)?
            .zip(source.le16(entry.header + 28)?);
        Ok(lengths.map(|(name, extra)| {
            let at = entry.header + 30 + u64::from(name) + u64::from(extra);
            (at, entry.packed.min(2 * MAX_CONTENT))
        }))
    }
}

/// Finds the end of central directory record (section 4.3.16), and returns its offset.
fn end_record<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    start: u64,
    end: u64,
) -> io::Result<Option<u64>> {
    const RECORD: u64 = 22;
    const SEARCH_WINDOW: u64 = 4096;
    let lowest = end.saturating_sub(RECORD + u64::from(u16::MAX)).max(start);
    let Some(mut upper) = end.checked_sub(RECORD).map(|at| at + 4) else {
        return Ok(None);
    };
    // The search goes backwards, so that the outermost of several records is found. Search windows
    // overlap by the signature's length minus one byte, so that no record is missed.
    while upper >= lowest + 4 {
        let lower = upper.saturating_sub(SEARCH_WINDOW).max(lowest);
        let piece = source
            .at(lower, usize::try_from(upper - lower).unwrap_or(0))?
            .to_vec();
        for skip in memchr::memmem::rfind_iter(&piece, b"PK\x05\x06") {
            let at = lower + skip as u64;
            let comment = source.le16(at + 20)?.map_or(u64::MAX, u64::from);
            if comment <= end - at - RECORD {
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

/// Reads 64-bit values from the ZIP64 extra field (section 4.5.3), which holds only the values that
/// overflow their 32-bit fields, in the order uncompressed size, compressed size, header offset.
fn read_zip64_sizes<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    mut at: u64,
    end: u64,
    has_size: bool,
    entry: &mut Entry,
) -> io::Result<()> {
    while at + 4 <= end {
        let Some((id, size)) = source.le16(at)?.zip(source.le16(at + 2)?) else {
            break;
        };
        at += 4;
        if id == 1 {
            if has_size {
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
