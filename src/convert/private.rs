//! Where a picture or film was taken, and by which camera: blanked in place, so that everything else of the file, its
//! structure and its size stay as they are. Reads Exif (CIPA DC-008), XMP and the location of QuickTime files wherever
//! they stand: in a second picture behind the first or a film behind a picture as well.

use std::fs::File;
use std::io::{self, SeekFrom};
use std::os::unix::fs::FileExt;

use memchr::memmem;

use crate::blob::Content;

/// Bytes of a file that are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where.
    pub at: u64,
    /// By what.
    pub bytes: Vec<u8>,
}

/// Bytes searched at a time, and what two pieces have in common: the longest thing that is looked at as a whole.
const PIECE: usize = 1024 * 1024;
const OVERLAP: usize = 256 * 1024;
/// Entries of a directory that are looked at. Cameras write a few dozen.
const MOST_ENTRIES: usize = 500;
/// Patches of a file.
const MOST_PATCHES: usize = 1000;

/// Types that may say such things.
#[must_use]
pub fn may_tell(media_type: &str) -> bool {
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

/// What is to be replaced so that the file says neither place nor serial number.
///
/// # Errors
/// It cannot be read.
pub fn patches(content: &mut dyn Content) -> io::Result<Vec<Patch>> {
    let size = content.size()?;
    let mut patches: Vec<Patch> = Vec::new();
    let mut start = 0;
    loop {
        let piece = read(content, start, PIECE)?;
        let last = start + piece.len() as u64 >= size;
        // What starts in the overlap is found whole in the next piece.
        let own = if last { piece.len() } else { PIECE - OVERLAP };
        for (at, blank) in findings(&piece, start == 0).into_iter().filter(|(at, _)| *at < own) {
            let mut block = piece[at..].to_vec();
            block.truncate(OVERLAP);
            let before = block.clone();
            blank(&mut block);
            patches.extend(differences(start + at as u64, &before, &block));
        }
        if last || patches.len() > MOST_PATCHES {
            break;
        }
        start += own as u64;
    }
    checksums(content, &mut patches)?;
    Ok(patches)
}

/// The file with what is to be replaced replaced, in a file without a name; `None` if nothing is.
///
/// # Errors
/// It cannot be read, or the copy not be written.
pub fn cleaned(content: &mut dyn Content) -> io::Result<Option<File>> {
    let patches = patches(content)?;
    if patches.is_empty() {
        return Ok(None);
    }
    let mut copy = tempfile::tempfile()?;
    content.seek(SeekFrom::Start(0))?;
    io::copy(content, &mut copy)?;
    for Patch { at, bytes } in patches {
        copy.write_all_at(&bytes, at)?;
    }
    Ok(Some(copy))
}

type Blank = fn(&mut [u8]);

/// Everything in a piece that may tell, and how it is made not to.
fn findings(piece: &[u8], is_first: bool) -> Vec<(usize, Blank)> {
    let mut found: Vec<(usize, Blank)> = Vec::new();
    for order in [b"Exif\0\0II*\0", b"Exif\0\0MM\0*"] {
        found.extend(memmem::find_iter(piece, order).map(|at| (at + 6, exif as Blank)));
    }
    // PNG and WebP have it without that signature (PNG third edition section 11.3.3.4).
    for order in [b"eXIfII*\0", b"eXIfMM\0*"] {
        found.extend(memmem::find_iter(piece, order).map(|at| (at + 4, exif as Blank)));
    }
    found.extend(memmem::find_iter(piece, b"EXIF").map(|at| (at + 8, exif as Blank)));
    if is_first && (piece.starts_with(b"II*\0") || piece.starts_with(b"MM\0*")) {
        found.push((0, exif));
    }
    found.extend(memmem::find_iter(piece, b"<x:xmpmeta").map(|at| (at, xmp as Blank)));
    // QuickTime File Format: user data and metadata values; 3GPP TS 26.244 section 8.
    found.extend(memmem::find_iter(piece, b"\xa9xyz").map(|at| (at + 4, place as Blank)));
    found.extend(memmem::find_iter(piece, b"loci\0\0\0\0").map(|at| (at + 8, loci as Blank)));
    found.extend(memmem::find_iter(piece, b"data\0\0\0\x01").map(|at| (at + 8, place as Blank)));
    found
}

/// Blanks the location and the serial numbers of a block of TIFF tags.
fn exif(block: &mut [u8]) {
    let little = match block.get(..4) {
        Some(b"II*\0") => true,
        Some(b"MM\0*") => false,
        _ => return,
    };
    if let Some(first) = long(block, 4, little) {
        directory(block, first, little, 0);
    }
}

/// Tags whose values are blanked: serial numbers, the owner, an id of the picture, and the maker's own notes, which hold
/// all of these.
const PRIVATE_TAGS: [u16; 7] = [0x927c, 0xa420, 0xa430, 0xa431, 0xa435, 0xc62f, 0xc65b];
const GPS_DIRECTORY: u16 = 0x8825;
const EXIF_DIRECTORY: u16 = 0x8769;

fn directory(block: &mut [u8], at: usize, little: bool, depth: u8) {
    let Some(count) = short(block, at, little) else { return };
    for n in 0..usize::from(count).min(MOST_ENTRIES) {
        let entry = at + 2 + n * 12;
        let (Some(tag), Some(value)) = (short(block, entry, little), long(block, entry + 8, little)) else { return };
        match tag {
            GPS_DIRECTORY => gps(block, value, little),
            EXIF_DIRECTORY if depth == 0 => directory(block, value, little, 1),
            _ if PRIVATE_TAGS.contains(&tag) => blank_value(block, entry, little),
            _ => {}
        }
    }
}

/// Every value of the directory, and what its entries are.
fn gps(block: &mut [u8], at: usize, little: bool) {
    let count = short(block, at, little).map_or(0, usize::from).min(MOST_ENTRIES);
    for n in 0..count {
        blank_value(block, at + 2 + n * 12, little);
    }
    // An empty directory.
    if let Some(directory) = block.get_mut(at..(at + 2 + count * 12)) {
        directory.fill(0);
    }
}

/// The value of an entry, in it or where it points to.
fn blank_value(block: &mut [u8], entry: usize, little: bool) {
    let (Some(kind), Some(count)) = (short(block, entry + 2, little), long(block, entry + 4, little)) else { return };
    let each = match kind {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        5 | 10 | 12 => 8,
        _ => 4,
    };
    let size = count.saturating_mul(each);
    let value = if size <= 4 { Some(entry + 8) } else { long(block, entry + 8, little) };
    if let Some(bytes) = value.and_then(|at| block.get_mut(at..at.saturating_add(size))) {
        bytes.fill(0);
    }
}

fn short(block: &[u8], at: usize, little: bool) -> Option<u16> {
    let bytes = block.get(at..at.checked_add(2)?)?.try_into().ok()?;
    Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
}

fn long(block: &[u8], at: usize, little: bool) -> Option<usize> {
    let bytes = block.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }).ok()
}

/// Properties of XMP whose values are blanked (Exif 2.32 metadata for XMP, CIPA DC-010).
const PROPERTIES: [&[u8]; 6] =
    [b":GPS", b":SerialNumber", b":BodySerialNumber", b":LensSerialNumber", b":CameraOwnerName", b":ImageUniqueID"];

/// Blanks attributes `exif:GPSLatitude="..."` and elements `<exif:GPSLatitude>...</exif:GPSLatitude>`.
fn xmp(block: &mut [u8]) {
    let end = memmem::find(block, b"</x:xmpmeta>").unwrap_or(block.len());
    for property in PROPERTIES {
        let mut from = 0;
        while let Some(found) = memmem::find(&block[from..end], property) {
            let name = from + found;
            let Some(value) = block[name..end].iter().position(|byte| matches!(byte, b'=' | b'>')) else { break };
            let value = name + value + 1;
            let (value, close) = match block.get(value) {
                Some(quote @ (b'"' | b'\'')) if block[value - 1] == b'=' => (value + 1, *quote),
                _ => (value, b'<'),
            };
            let length = block[value..end].iter().position(|byte| *byte == close).unwrap_or(0);
            block[value..value + length].fill(b' ');
            from = value + length;
        }
    }
}

/// Blanks digits of the first thing that reads like a place of ISO 6709, `+37.3318-122.0312+010.000/`.
fn place(block: &mut [u8]) {
    const SOON: usize = 16;
    let Some(start) = block.iter().take(SOON).position(|byte| matches!(byte, b'+' | b'-')) else { return };
    let is_of_place = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'/');
    let length = block[start..].iter().take(64).take_while(|byte| is_of_place(byte)).count();
    let text = &mut block[start..start + length];
    let signs = text.iter().filter(|byte| matches!(byte, b'+' | b'-')).count();
    if signs >= 2 && text.contains(&b'.') {
        text.iter_mut().filter(|byte| byte.is_ascii_digit()).for_each(|digit| *digit = b'0');
    }
}

/// Blanks the location box of 3GPP: name, role, longitude, latitude, altitude, all up to the text that follows.
fn loci(block: &mut [u8]) {
    const FIXED: usize = 13;
    // A language, then the name of the place, which ends in a zero.
    let Some(name) = block.get(2..).and_then(|rest| rest.iter().take(256).position(|byte| *byte == 0)) else { return };
    if let Some(bytes) = block.get_mut(2..2 + name) {
        bytes.fill(b' ');
    }
    if let Some(bytes) = block.get_mut(2 + name + 1..2 + name + 1 + FIXED) {
        bytes.fill(0);
    }
}

/// The runs of bytes in which two blocks differ.
fn differences(at: u64, before: &[u8], after: &[u8]) -> Vec<Patch> {
    let mut patches: Vec<Patch> = Vec::new();
    for (n, (old, new)) in before.iter().zip(after).enumerate() {
        if old == new {
            continue;
        }
        let here = at + n as u64;
        match patches.last_mut() {
            Some(patch) if patch.at + patch.bytes.len() as u64 == here => patch.bytes.push(*new),
            _ => patches.push(Patch { at: here, bytes: vec![*new] }),
        }
    }
    patches
}

/// PNG has a checksum behind each chunk (PNG third edition section 5.3); those of the chunks that change are made anew.
fn checksums(content: &mut dyn Content, patches: &mut Vec<Patch>) -> io::Result<()> {
    if patches.is_empty() || read(content, 0, 8)? != b"\x89PNG\r\n\x1a\n" {
        return Ok(());
    }
    let (size, mut at, mut sums) = (content.size()?, 8, Vec::new());
    while at + 12 <= size {
        let head = read(content, at, 8)?;
        let Some(length) = head.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes) else { break };
        let end = at + 8 + u64::from(length);
        if length as usize <= OVERLAP && patches.iter().any(|patch| (at + 8..end).contains(&patch.at)) {
            let mut chunk = read(content, at + 4, 4 + length as usize)?;
            for patch in patches.iter().filter(|patch| (at + 8..end).contains(&patch.at)) {
                let start = usize::try_from(patch.at - at - 4).unwrap_or(usize::MAX);
                if let Some(bytes) = chunk.get_mut(start..start.saturating_add(patch.bytes.len())) {
                    bytes.copy_from_slice(&patch.bytes);
                }
            }
            sums.push(Patch { at: end, bytes: crc32fast::hash(&chunk).to_be_bytes().to_vec() });
        }
        at = end + 4;
    }
    patches.extend(sums);
    Ok(())
}

fn read(content: &mut dyn Content, at: u64, most: usize) -> io::Result<Vec<u8>> {
    use std::io::Read;
    content.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    content.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(bytes).expect("write");
        file
    }

    fn cleaned(bytes: &[u8]) -> Vec<u8> {
        let mut clean = bytes.to_vec();
        for patch in patches(&mut file(bytes)).expect("readable") {
            let at = usize::try_from(patch.at).expect("small");
            clean[at..at + patch.bytes.len()].copy_from_slice(&patch.bytes);
        }
        clean
    }

    fn corpus(name: &str) -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/").to_owned() + name).expect(name)
    }

    #[test]
    fn what_tells_nothing_stays_as_it_is() {
        for name in ["photo.jpg", "screenshot.png", "clip.mp4", "voice.m4a", "notes.txt", "animated.png"] {
            let bytes = corpus(name);
            assert!(cleaned(&bytes) == bytes, "{name}");
        }
    }

    #[test]
    fn texts_of_places_and_serial_numbers() {
        let blanked = |blank: Blank, text: &[u8]| {
            let mut block = text.to_vec();
            blank(&mut block);
            String::from_utf8(block).expect("text")
        };
        assert_eq!(blanked(place, b"+37.3318-122.0312+010.000/x"), "+00.0000-000.0000+000.000/x");
        assert_eq!(blanked(place, b"+12025550100"), "+12025550100", "a phone number is no place");
        let attributes = b"<x:xmpmeta exif:GPSLatitude=\"52,31N\" tiff:Model='X' aux:SerialNumber='123'/></x:xmpmeta>";
        let clean = "<x:xmpmeta exif:GPSLatitude=\"      \" tiff:Model='X' aux:SerialNumber='   '/></x:xmpmeta>";
        assert_eq!(blanked(xmp, attributes), clean);
        let elements = b"<x:xmpmeta><exif:GPSLatitude>52,31N</exif:GPSLatitude></x:xmpmeta>";
        assert_eq!(blanked(xmp, elements), "<x:xmpmeta><exif:GPSLatitude>      </exif:GPSLatitude></x:xmpmeta>");
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_the_size_stays(bytes in proptest::collection::vec(any::<u8>(), 0..300), which in 0..6_usize) {
            let start = [&b"Exif\0\0II*\0\x08\0\0\0"[..], b"Exif\0\0MM\0*\0\0\0\x08", b"eXIfII*\0\x08\0\0\0", b"<x:xmpmeta :GPS",
                b"\xa9xyz", b"loci\0\0\0\0"][which];
            let whole = [start, &bytes].concat();
            prop_assert_eq!(cleaned(&whole).len(), whole.len());
        }
    }
}
