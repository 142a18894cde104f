//! Strips private metadata from files: locations, camera serial numbers and owners' names. They are
//! overwritten in place, so that a file's structure and size stay unchanged.
//!
//! The metadata blocks (`exif`, `xmp`, `isobmff`) are found by a signature search over the
//! whole file (`scan`), even in a second image or a video appended to the first image. PNG needs
//! more work, because it has checksums and stores some metadata as text (`png`).

mod exif;
mod isobmff;
mod patch;
mod png;
mod scan;
mod xmp;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

pub use patch::Patch;

use crate::blob::RandomAccess;

/// Maximum number of metadata blocks in a file; a file with more is rejected.
const MAX_BLOCKS: usize = 500;

/// Returns true for media types whose files can contain private metadata.
#[must_use]
pub fn may_contain_metadata(media_type: &str) -> bool {
    matches!(
        media_type,
        "image/jpeg"
            | "image/heic"
            | "image/heif"
            | "image/png"
            | "image/webp"
            | "image/tiff"
            | "video/quicktime"
            | "video/mp4"
            | "video/x-m4v"
            | "video/3gpp"
            | "audio/x-m4a"
    )
}

/// Returns the patches that remove private metadata from a file. Where patches overlap, the later
/// one applies.
///
/// # Errors
/// The file cannot be read, or contains more metadata than any legitimate file.
pub fn patches(content: &mut dyn RandomAccess) -> io::Result<Vec<Patch>> {
    let mut patches = scan::patches(content)?;
    if read(content, 0, png::SIGNATURE.len())? == png::SIGNATURE {
        patches = png::complete(content, patches)?;
    }
    Ok(patches)
}

/// Writes a copy of the input without private metadata to `output`. Writes nothing if the input has
/// no private metadata.
///
/// # Errors
/// The file cannot be read, the copy cannot be written, or the file contains more metadata than any
/// legitimate file.
pub(crate) fn strip(input: &mut File, output: &mut File) -> io::Result<()> {
    let patches = patches(input)?;
    if patches.is_empty() {
        return Ok(());
    }
    input.rewind()?;
    io::copy(input, output)?;
    for Patch { at, bytes } in patches {
        output.write_all_at(&bytes, at)?;
    }
    Ok(())
}

/// Reads `length` bytes at offset `at`, or fewer at the end of the file.
fn read(content: &mut dyn RandomAccess, at: u64, length: usize) -> io::Result<Vec<u8>> {
    content.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    content.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn too_many_blocks() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "more metadata than any file has",
    )
}

#[cfg(test)]
mod tests;
