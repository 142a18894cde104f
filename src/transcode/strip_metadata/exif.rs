//! Removes locations and serial numbers from Exif (CIPA DC-008), which consists of blocks of TIFF
//! tags, whatever container they are in.

use std::ops::Range;

use super::scan::Signature;

/// Byte sequences by which an Exif block is found: its byte order mark with the first directory
/// right behind it. They occur in JPEG, PNG, WebP, HEIC and TIFF itself, with or without a
/// signature in front. A block whose first directory is elsewhere is recognised only by the
/// signature in front of it.
pub(super) const SIGNATURES: [Signature; 5] = [
    signature(b"II*\0\x08\0\0\0", 0),
    signature(b"MM\0*\0\0\0\x08", 0),
    signature(b"Exif\0\0", 6),
    signature(b"eXIf", 4),
    signature(b"EXIF", 8),
];

const fn signature(bytes: &'static [u8], payload: usize) -> Signature {
    Signature {
        bytes,
        payload,
        blank,
    }
}

/// Maximum number of entries read per directory, and of directories read per block. Cameras write a
/// few dozen entries per directory, and chain two directories.
const MAX_ENTRIES: usize = 500;
const MAX_DIRECTORIES: usize = 8;
/// Tags whose values are blanked: serial numbers, the owner's name, the image id, and the maker
/// note, which contains all of these.
const PRIVATE_TAGS: [u16; 7] = [0x927c, 0xa420, 0xa430, 0xa431, 0xa435, 0xc62f, 0xc65b];

const GPS_DIRECTORY: u16 = 0x8825;
const EXIF_DIRECTORY: u16 = 0x8769;

/// Blanks the location, the owner's name and the serial numbers in a block of TIFF tags.
fn blank(block: &mut [u8]) {
    let little = match block.get(..4) {
        Some(b"II*\0") => true,
        Some(b"MM\0*") => false,
        _ => return,
    };
    let mut tags = Tags {
        block,
        little,
        read: Vec::new(),
        private: Vec::new(),
    };
    let mut next = long(tags.block, 4, little);
    // The second directory describes the thumbnail.
    while let Some(at) = next.filter(|at| *at > 0 && tags.directory(*at)) {
        let count = short(tags.block, at, little).map_or(0, usize::from);
        next = long(tags.block, at.saturating_add(2 + count * 12), little);
    }
    let private = tags.private;
    fill(block, private);
}

/// Finds the private values in a block of TIFF tags. Each directory is read once, however many
/// entries point to it, and all ranges are collected before any is blanked, so the work is linear
/// in the size of the block.
struct Tags<'a> {
    block: &'a [u8],
    little: bool,
    /// Offsets of the directories that were read so far.
    read: Vec<usize>,
    private: Vec<Range<usize>>,
}

impl Tags<'_> {
    /// Reads the directory at offset `at`. Returns false if it was read before, or if the maximum
    /// number of directories is exceeded.
    fn directory(&mut self, at: usize) -> bool {
        if !self.is_new(at) {
            return false;
        }
        for entry in self.entries(at) {
            let (block, little) = (self.block, self.little);
            let (Some(tag), Some(value)) = (
                short(block, entry, little),
                long(block, entry.saturating_add(8), little),
            ) else {
                break;
            };
            match tag {
                GPS_DIRECTORY => self.gps(value),
                EXIF_DIRECTORY => drop(self.directory(value)),
                _ if PRIVATE_TAGS.contains(&tag) => self.value(entry),
                _ => {}
            }
        }
        true
    }

    /// Marks all entries of the location (GPS) directory and their values as private. Blanking them
    /// leaves an empty directory.
    fn gps(&mut self, at: usize) {
        if !self.is_new(at) {
            return;
        }
        let entries = self.entries(at);
        self.private
            .push(at..at.saturating_add(2 + entries.len() * 12));
        for entry in entries {
            self.value(entry);
        }
    }

    fn is_new(&mut self, at: usize) -> bool {
        let is_new = self.read.len() < MAX_DIRECTORIES && !self.read.contains(&at);
        if is_new {
            self.read.push(at);
        }
        is_new
    }

    /// Returns the offsets of the entries in a directory.
    fn entries(&self, at: usize) -> Vec<usize> {
        let count = short(self.block, at, self.little)
            .map_or(0, usize::from)
            .min(MAX_ENTRIES);
        (0..count).map(|n| at.saturating_add(2 + n * 12)).collect()
    }

    /// Marks an entry's value as private. It is stored inline or at an offset.
    fn value(&mut self, entry: usize) {
        let (block, little) = (self.block, self.little);
        let at = |behind: usize| entry.saturating_add(behind);
        let (Some(kind), Some(count)) = (short(block, at(2), little), long(block, at(4), little))
        else {
            return;
        };
        let unit = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            5 | 10 | 12 => 8,
            _ => 4,
        };
        let size = count.saturating_mul(unit);
        let value = if size <= 4 {
            Some(at(8))
        } else {
            long(block, at(8), little)
        };
        self.private
            .extend(value.map(|at| at..at.saturating_add(size)));
    }
}

/// Zeroes those ranges that lie entirely within a block. Each byte is zeroed once, even if ranges
/// overlap.
fn fill(block: &mut [u8], mut ranges: Vec<Range<usize>>) {
    ranges.retain(|range| range.end <= block.len());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut done = 0;
    for range in ranges {
        if range.end > done {
            block[range.start.max(done)..range.end].fill(0);
            done = range.end;
        }
    }
}

fn short(block: &[u8], at: usize, little: bool) -> Option<u16> {
    let bytes = block.get(at..at.checked_add(2)?)?.try_into().ok()?;
    Some(if little {
        u16::from_le_bytes(bytes)
    } else {
        u16::from_be_bytes(bytes)
    })
}

fn long(block: &[u8], at: usize, little: bool) -> Option<usize> {
    let bytes = block.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(if little {
        u32::from_le_bytes(bytes)
    } else {
        u32::from_be_bytes(bytes)
    })
    .ok()
}
