//! Reads the box headers of ISO base media files (ISO/IEC 14496-12 section 4.2). QuickTime calls
//! boxes atoms.
//!
//! Written by hand to bound memory: box headers are read through one block of 8 KiB, whatever the
//! size of the file. Parser crates would read a `moov` box with its sample tables into memory, and
//! a crafted file of 100 MiB can consist of one such box.

use super::bounded_reader::BoundedReader;
use std::io::{self, Read, Seek};

/// A box of an ISO base media file, called an atom in QuickTime.
#[derive(Clone, Copy, Debug)]
pub(super) struct Atom {
    pub(super) name: [u8; 4],
    /// Offset of the box's content.
    pub(super) start: u64,
    /// Offset of the box's end according to its header; can lie past the end of the file.
    pub(super) end: u64,
}

impl Atom {
    /// Truncates the box to `end`, the end of its parent. Otherwise a box that claims to extend
    /// past its parent would be walked again for each sibling of the parent.
    pub(super) fn before(self, end: u64) -> Self {
        Self {
            end: self.end.min(end),
            ..self
        }
    }
}

/// Reads the header of the box at `at`, in a parent box or file that ends at `end`.
pub(super) fn atom<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    at: u64,
    end: u64,
) -> io::Result<Option<Atom>> {
    if at.saturating_add(8) > end {
        return Ok(None);
    }
    let Some((&size, rest)) = source.at(at, 16)?.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let Some((&name, wide)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let (header, size) = match u32::from_be_bytes(size) {
        // Size 0 means that the box extends to the end; size 1 means that a 64-bit size follows
        // (section 4.2).
        0 => (8, end - at),
        1 => (16, wide.try_into().map_or(0, u64::from_be_bytes)),
        size => (8, u64::from(size)),
    };
    Ok((size >= header).then(|| Atom {
        name,
        start: at + header,
        end: at.saturating_add(size),
    }))
}

/// Reads the header of the box at `at` inside `parent`, and truncates the box to the parent.
pub(super) fn child<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    at: u64,
    parent: Atom,
) -> io::Result<Option<Atom>> {
    Ok(atom(source, at, parent.end)?.map(|child| child.before(parent.end)))
}

/// Finds the first box called `name` inside `parent`, and truncates it to the parent.
pub(super) fn inside<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    parent: Atom,
    name: [u8; 4],
) -> io::Result<Option<Atom>> {
    Ok(find(source, parent.start, parent.end, name)?.map(|child| child.before(parent.end)))
}

/// Finds the first box called `name` between the offsets `at` and `end`.
pub(super) fn find<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    mut at: u64,
    end: u64,
    name: [u8; 4],
) -> io::Result<Option<Atom>> {
    // Bounds the walk. Fragmented recordings have about two top-level boxes per second.
    for _ in 0..100_000 {
        match atom(source, at, end)? {
            Some(found) if found.name == name => return Ok(Some(found)),
            Some(other) => at = other.end,
            None => break,
        }
    }
    Ok(None)
}
