//! Removes metadata profiles from text chunks in PNG files, and recomputes the checksums of changed
//! chunks (PNG, third edition, section 5).

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

use super::patch::{Patch, within};
use super::{MAX_BLOCKS, read, too_many_blocks};
use crate::blob::RandomAccess;

pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Size in bytes of the pieces in which a chunk is read to compute its checksum.
const PIECE: usize = 1024 * 1024;
/// Maximum size in bytes of a metadata profile in a PNG text chunk.
const MAX_PROFILE: u32 = 4 * 1024 * 1024;

/// Number of bytes read at the start of a chunk: its length, its type, and the first 80 bytes of
/// its data.
const HEAD: u64 = 8 + 80;

/// Completes the patches of a PNG file: adds patches that turn text chunks with metadata profiles
/// into chunks of an unknown type, and that correct the checksums of all changed chunks.
pub(super) fn complete(
    content: &mut dyn RandomAccess,
    mut patches: Vec<Patch>,
) -> io::Result<Vec<Patch>> {
    patches.sort_by_key(|patch| patch.at);
    let (mut profiles, mut changed) = (Vec::new(), Vec::new());
    let size = content.size()?;
    let mut heads = BufReader::new(&mut *content);
    let mut at = heads.seek(SeekFrom::Start(SIGNATURE.len() as u64))?;
    loop {
        let mut head = Vec::new();
        heads.by_ref().take(HEAD).read_to_end(&mut head)?;
        let Some(length) = head
            .get(..4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
        else {
            break;
        };
        let (kind, end) = (at + 4, at + 8 + u64::from(length));
        if end + 4 > size {
            break;
        }
        if is_profile_as_text(&head[4..]) {
            if profiles.len() == MAX_BLOCKS || length > MAX_PROFILE {
                return Err(too_many_blocks());
            }
            // An unused chunk type that is ancillary, private and safe to copy (section 5.4), so
            // decoders skip it.
            let mut bytes = b"prVt".to_vec();
            bytes.resize(4 + length as usize, 0);
            bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
            profiles.push(Patch { at: kind, bytes });
        } else if !within(&patches, kind..end).is_empty() {
            changed.push(kind..end);
        }
        // This skips within the reader's buffer if the buffer extends that far.
        heads.seek_relative(
            i64::from(length) + 12 - i64::try_from(head.len()).unwrap_or_default(),
        )?;
        at = end + 4;
    }
    let sums = changed.into_iter().map(|chunk| {
        let sum = checksum(content, within(&patches, chunk.clone()), chunk.clone())?;
        Ok(Patch {
            at: chunk.end,
            bytes: sum.to_be_bytes().to_vec(),
        })
    });
    let sums = sums.collect::<io::Result<Vec<_>>>()?;
    patches.extend(profiles);
    patches.extend(sums);
    Ok(patches)
}

/// Returns true if a chunk contains Exif, IPTC or XMP as text or compressed text, which is how
/// `ImageMagick` and other tools store it.
fn is_profile_as_text(chunk: &[u8]) -> bool {
    let (kind, data) = chunk.split_at(4.min(chunk.len()));
    let is_profile = data.starts_with(b"Raw profile type");
    let is_xmp = data.starts_with(b"XML:com.adobe.xmp\0\x01");
    let is_property = data.starts_with(b"exif:") || data.starts_with(b"aux:");
    match kind {
        b"zTXt" | b"tEXt" | b"iTXt" => is_profile || is_xmp || is_property,
        _ => false,
    }
}

/// Returns the checksum over a chunk's type and data, with the patches applied.
fn checksum(
    content: &mut dyn RandomAccess,
    patches: &[Patch],
    chunk: Range<u64>,
) -> io::Result<u32> {
    let (mut sum, mut at) = (crc32fast::Hasher::new(), chunk.start);
    while at < chunk.end {
        let length = usize::try_from(chunk.end - at).unwrap_or(PIECE).min(PIECE);
        let mut piece = read(content, at, length)?;
        if piece.is_empty() {
            break;
        }
        for patch in patches {
            patch.apply(at, &mut piece);
        }
        sum.update(&piece);
        at += piece.len() as u64;
    }
    Ok(sum.finalize())
}
