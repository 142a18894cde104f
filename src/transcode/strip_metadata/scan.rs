//! Searches a whole file for metadata signatures, whatever its container. Knows no structure: a
//! metadata block is recognised by its first bytes, and the module for its kind blanks what is
//! private in it.

use std::io;

use memchr::memmem;

use super::patch::Patch;
use super::{MAX_BLOCKS, exif, isobmff, read, too_many_blocks, xmp};
use crate::blob::RandomAccess;

/// Size in bytes of the search window, and of the overlap of two windows. The overlap is the length
/// of the longest structure that is processed as a whole: an Exif block cannot be longer (CIPA
/// DC-008 section 4.5.4).
const WINDOW: usize = 1024 * 1024;
const OVERLAP: usize = 64 * 1024;

/// Function that overwrites what is private in a block that starts with the metadata.
pub(super) type Blank = fn(&mut [u8]);

/// Bytes by which metadata is found, and the function that blanks it.
#[derive(Clone, Copy)]
pub(super) struct Signature {
    pub(super) bytes: &'static [u8],
    /// Offset of the metadata from the start of the signature.
    pub(super) payload: usize,
    pub(super) blank: Blank,
}

/// Returns the patches that blank the private metadata in all blocks in a file.
pub(super) fn patches(content: &mut dyn RandomAccess) -> io::Result<Vec<Patch>> {
    let size = content.size()?;
    let (mut patches, mut blocks) = (Vec::new(), 0);
    let mut start = 0;
    loop {
        let window = read(content, start, WINDOW)?;
        let is_last = start + window.len() as u64 >= size;
        // A block that starts in the overlap is left to the next window, which contains all of it.
        let own = if is_last {
            window.len()
        } else {
            WINDOW - OVERLAP
        };
        for (at, blank) in find(&window).filter(|(at, _)| *at < own) {
            blocks += 1;
            if blocks > MAX_BLOCKS {
                return Err(too_many_blocks());
            }
            let end = window.len().min(at + OVERLAP);
            let mut block = window[at..end].to_vec();
            blank(&mut block);
            patches.extend(Patch::between(start + at as u64, &window[at..end], block));
        }
        if is_last {
            return Ok(patches);
        }
        start += own as u64;
    }
}

/// Finds all blocks in a window that can contain private metadata. Returns each block's offset and
/// the function that blanks it.
fn find(window: &[u8]) -> impl Iterator<Item = (usize, Blank)> {
    exif::SIGNATURES
        .iter()
        .chain(&xmp::SIGNATURES)
        .chain(&isobmff::SIGNATURES)
        .flat_map(move |signature| {
            memmem::find_iter(window, signature.bytes)
                .map(|at| (at + signature.payload, signature.blank))
                .collect::<Vec<_>>()
        })
}
