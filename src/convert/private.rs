//! Where a picture or film was taken, and by which camera: blanked in place, so that everything else of the file, its
//! structure and its size stay as they are. Reads Exif (CIPA DC-008), XMP and the location of QuickTime files wherever
//! they stand: in a second picture behind the first or a film behind a picture as well.

use std::fs::File;
use std::io::{self, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

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

impl Patch {
    /// Replaces what of it lies in a piece that starts at `start`.
    fn apply(&self, start: u64, piece: &mut [u8]) {
        let first = self.at.max(start);
        let last = (self.at + self.bytes.len() as u64).min(start + piece.len() as u64);
        let within = |from: u64, at: u64| usize::try_from(at - from).expect("both lie in memory");
        if first < last {
            let new = &self.bytes[within(self.at, first)..within(self.at, last)];
            piece[within(start, first)..within(start, last)].copy_from_slice(new);
        }
    }
}

/// Bytes searched at a time, and what two pieces have in common: the longest thing that is looked at as a whole. An Exif
/// block cannot be longer (CIPA DC-008 section 4.5.4).
const PIECE: usize = 1024 * 1024;
const OVERLAP: usize = 64 * 1024;
/// Entries of a directory that are looked at, and directories behind one another. Cameras write a few dozen, and two.
const MOST_ENTRIES: usize = 500;
const MOST_DIRECTORIES: usize = 8;
/// Bytes of a compressed profile in a PNG.
const LONGEST_PROFILE: u32 = 4 * 1024 * 1024;
/// Things in one file that may tell. A file with more is not let through.
const MOST_FINDINGS: usize = 500;

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
/// It cannot be read, or holds more that may tell than any file does.
pub fn patches(content: &mut dyn Content) -> io::Result<Vec<Patch>> {
    let size = content.size()?;
    let (mut patches, mut findings) = (Vec::new(), 0);
    let mut start = 0;
    loop {
        let piece = read(content, start, PIECE)?;
        let last = start + piece.len() as u64 >= size;
        // What starts in the overlap is found whole in the next piece.
        let own = if last { piece.len() } else { PIECE - OVERLAP };
        for (at, blank) in find(&piece).filter(|(at, _)| *at < own) {
            findings += 1;
            if findings > MOST_FINDINGS {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "more metadata than any file has"));
            }
            let end = piece.len().min(at + OVERLAP);
            let mut block = piece[at..end].to_vec();
            blank(&mut block);
            patches.extend(difference(start + at as u64, &piece[at..end], block));
        }
        if last {
            break;
        }
        start += own as u64;
    }
    if read(content, 0, 8)? == b"\x89PNG\r\n\x1a\n" {
        chunks(content, &mut patches)?;
    }
    Ok(patches)
}

/// The file with what is to be replaced replaced, in a file without a name; `None` if nothing is.
///
/// # Errors
/// It cannot be read, or the copy not be written.
pub fn cleaned(content: &mut dyn Content, folder: &Path) -> io::Result<Option<File>> {
    let patches = patches(content)?;
    if patches.is_empty() {
        return Ok(None);
    }
    let mut copy = tempfile::tempfile_in(folder)?;
    content.seek(SeekFrom::Start(0))?;
    io::copy(content, &mut copy)?;
    for Patch { at, bytes } in patches {
        copy.write_all_at(&bytes, at)?;
    }
    Ok(Some(copy))
}

type Blank = fn(&mut [u8]);

/// Everything in a piece that may tell, and how it is made not to.
fn find(piece: &[u8]) -> impl Iterator<Item = (usize, Blank)> {
    // Wherever it stands, a block of TIFF tags starts so, its first directory right behind: in JPEG, PNG, WebP, HEIC and
    // TIFF itself, with a signature of its own in front or none.
    let exif: [(&[u8], usize, Blank); 2] = [(b"II*\0\x08\0\0\0", 0, exif), (b"MM\0*\0\0\0\x08", 0, exif)];
    // With another place for the first directory only behind its signature.
    let signed: [(&[u8], usize, Blank); 3] =
        [(b"Exif\0\0", 6, self::exif), (b"eXIf", 4, self::exif), (b"EXIF", 8, self::exif)];
    let xmp: [(&[u8], usize, Blank); 2] = [(b":xmpmeta", 0, xmp), (b"<rdf:RDF", 0, xmp)];
    // QuickTime File Format: user data and metadata values; 3GPP TS 26.244 section 8.
    let places: [(&[u8], usize, Blank); 3] =
        [(b"\xa9xyz", 4, place), (b"loci\0\0\0\0", 8, loci), (b"data\0\0\0\x01", 8, place)];
    exif.into_iter().chain(signed).chain(xmp).chain(places).flat_map(move |(signature, behind, blank)| {
        memmem::find_iter(piece, signature).map(move |at| (at + behind, blank)).collect::<Vec<_>>()
    })
}

/// Blanks the location and the serial numbers of a block of TIFF tags.
fn exif(block: &mut [u8]) {
    let little = match block.get(..4) {
        Some(b"II*\0") => true,
        Some(b"MM\0*") => false,
        _ => return,
    };
    let mut next = long(block, 4, little);
    // The second is of the small picture inside.
    for _ in 0..MOST_DIRECTORIES {
        let Some(at) = next.filter(|at| *at > 0) else { return };
        directory(block, at, little, 0);
        let count = short(block, at, little).map_or(0, usize::from);
        next = long(block, at.saturating_add(2 + count * 12), little);
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
        let entry = at.saturating_add(2 + n * 12);
        let (Some(tag), Some(value)) = (short(block, entry, little), long(block, entry.saturating_add(8), little))
        else {
            return;
        };
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
        blank_value(block, at.saturating_add(2 + n * 12), little);
    }
    // An empty directory.
    if let Some(directory) = block.get_mut(at..at.saturating_add(2 + count * 12)) {
        directory.fill(0);
    }
}

/// The value of an entry, in it or where it points to.
fn blank_value(block: &mut [u8], entry: usize, little: bool) {
    let at = |behind: usize| entry.saturating_add(behind);
    let (Some(kind), Some(count)) = (short(block, at(2), little), long(block, at(4), little)) else { return };
    let each = match kind {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        5 | 10 | 12 => 8,
        _ => 4,
    };
    let size = count.saturating_mul(each);
    let value = if size <= 4 { Some(at(8)) } else { long(block, at(8), little) };
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

/// Blanks attributes `exif:GPSLatitude="..."` and all that is in elements `<exif:GPSLatitude>...</exif:GPSLatitude>`.
fn xmp(block: &mut [u8]) {
    let end = [&b":xmpmeta>"[..], b"</rdf:RDF>"].iter().filter_map(|end| memmem::rfind(block, end)).max();
    let end = end.unwrap_or(block.len());
    for property in PROPERTIES {
        let mut from = 0;
        while let Some(found) = memmem::find(&block[from..end], property) {
            let name = from + found + 1;
            let length = block[name..end].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            from = name + length;
            let blanks = block[from..end].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if block.get(from + blanks) == Some(&b'=') {
                blank_attribute(&mut block[from + blanks + 1..end]);
            } else if is_start_tag(block, name) {
                let name = block[name..name + length].to_vec();
                blank_element(&mut block[from..end], &name);
            }
        }
    }
}

/// Whether a name with a prefix stands in `<prefix:name`.
fn is_start_tag(block: &[u8], name: usize) -> bool {
    let before = block[..name - 1].iter().rev().find(|byte| !byte.is_ascii_alphanumeric());
    before == Some(&b'<')
}

/// What is between the quotes that follow.
fn blank_attribute(block: &mut [u8]) {
    let Some(open) = block.iter().take(16).position(|byte| matches!(byte, b'"' | b'\'')) else { return };
    let quote = block[open];
    let value = &mut block[open + 1..];
    let length = value.iter().position(|byte| *byte == quote).unwrap_or(value.len());
    value[..length].fill(b' ');
}

/// What is between the end of this start tag and the end tag of the name.
fn blank_element(block: &mut [u8], name: &[u8]) {
    let Some(start) = block.iter().position(|byte| *byte == b'>') else { return };
    if start > 0 && block[start - 1] == b'/' {
        return;
    }
    let end = memmem::find_iter(&block[start..], b"</").map(|at| start + at).find(|at| {
        let tag = &block[at + 2..];
        let colon = tag.iter().take(32).position(|byte| *byte == b':');
        colon.is_some_and(|colon| tag[colon + 1..].starts_with(name))
    });
    let end = end.unwrap_or(block.len());
    block[start + 1..end].fill(b' ');
}

/// Blanks digits of the first thing that reads like a place of ISO 6709, `+37.3318-122.0312+010.000/`.
fn place(block: &mut [u8]) {
    const SOON: usize = 16;
    let Some(start) = block.iter().take(SOON).position(|byte| matches!(byte, b'+' | b'-')) else { return };
    let is_of_place = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'/');
    let length = block[start..].iter().take(64).take_while(|byte| is_of_place(byte)).count();
    let text = &mut block[start..start + length];
    let signs = text.iter().filter(|byte| matches!(byte, b'+' | b'-')).count();
    if signs >= 2 && (text.contains(&b'.') || text.ends_with(b"/")) {
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

/// The part of a block from the first byte that was changed to the last.
fn difference(at: u64, before: &[u8], mut after: Vec<u8>) -> Option<Patch> {
    let differs = |n: &usize| before[*n] != after[*n];
    let first = (0..before.len()).find(differs)?;
    let last = (first..before.len()).rev().find(differs)?;
    after.truncate(last + 1);
    Some(Patch { at: at + first as u64, bytes: after.split_off(first) })
}

/// Chunks of PNG (third edition, section 5): those that hold what is compressed and may tell become chunks that nobody
/// knows, and the checksums of all that change are made anew.
fn chunks(content: &mut dyn Content, patches: &mut Vec<Patch>) -> io::Result<()> {
    const MOST_CHUNKS: usize = 100_000;
    let (size, mut at) = (content.size()?, 8);
    for _ in 0..MOST_CHUNKS {
        let head = read(content, at, 8 + 80)?;
        let Some(length) = head.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes) else { break };
        let (kind, data, end) = (at + 4, at + 8, at + 8 + u64::from(length));
        if end + 4 > size {
            break;
        }
        if is_profile_as_text(&head[4..]) {
            // Ancillary, private, safe to copy: section 5.4.
            patches.push(Patch { at: kind, bytes: b"prVt".to_vec() });
            if length > LONGEST_PROFILE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a longer profile than any file has"));
            }
            patches.push(Patch { at: data, bytes: vec![0; length as usize] });
        }
        if patches.iter().any(|patch| (kind..end).contains(&patch.at)) {
            patches.push(Patch { at: end, bytes: checksum(content, patches, kind, end)?.to_be_bytes().to_vec() });
        }
        at = end + 4;
    }
    Ok(())
}

/// Exif, IPTC and XMP as `ImageMagick` and others put them into text, or as compressed text.
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

fn checksum(content: &mut dyn Content, patches: &[Patch], from: u64, end: u64) -> io::Result<u32> {
    let (mut sum, mut at) = (crc32fast::Hasher::new(), from);
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let mut piece = read(content, at, most)?;
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
        let spaced = b"<rdf:RDF exif:GPSLatitude = \"52,31N\"/></rdf:RDF>";
        assert_eq!(blanked(xmp, spaced), "<rdf:RDF exif:GPSLatitude = \"      \"/></rdf:RDF>");
        let nested = b"<y:xmpmeta><exif:GPSLatitude xml:lang=\"x\"><rdf:li>52</rdf:li></exif:GPSLatitude></y:xmpmeta>";
        let clean =
            format!("<y:xmpmeta><exif:GPSLatitude xml:lang=\"x\">{}</exif:GPSLatitude></y:xmpmeta>", " ".repeat(19));
        assert_eq!(blanked(xmp, nested), clean);
        assert_eq!(blanked(place, b"+374520-1220130/"), "+000000-0000000/");
        let elements = b"<x:xmpmeta><exif:GPSLatitude>52,31N</exif:GPSLatitude></x:xmpmeta>";
        assert_eq!(blanked(xmp, elements), "<x:xmpmeta><exif:GPSLatitude>      </exif:GPSLatitude></x:xmpmeta>");
    }

    /// A PNG of these chunks.
    fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, data) in chunks {
            let body = [&kind[..], data].concat();
            bytes.extend(u32::try_from(data.len()).expect("short").to_be_bytes());
            bytes.extend_from_slice(&body);
            bytes.extend(crc32fast::hash(&body).to_be_bytes());
        }
        bytes
    }

    #[test]
    fn text_in_png_that_tells_is_made_unknown() {
        let zeros = |length: usize| vec![0; length];
        let large =
            [b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta exif:GPSLatitude='1'/>".to_vec(), vec![b' '; 300_000]].concat();
        let clean_large = String::from_utf8(large.clone()).expect("text").replace("'1'", "' '").into_bytes();
        let with = [
            (b"IHDR", &b"x"[..]),
            (b"zTXt", b"Raw profile type exif\0\0abc"),
            (b"tEXt", b"exif:GPSLatitude\x0052"),
            (b"tEXt", b"Title\0x"),
            (b"iTXt", &large),
        ];
        let without = [
            (b"IHDR", &b"x"[..]),
            (b"prVt", &zeros(26)),
            (b"prVt", &zeros(19)),
            (b"tEXt", b"Title\0x"),
            (b"iTXt", &clean_large),
        ];
        assert!(cleaned(&png(&with)) == png(&without));
    }

    #[test]
    fn what_has_more_than_any_file_is_not_let_through() {
        let many = b"Exif\0\0II*\0\x08\0\0\0\0\0".repeat(MOST_FINDINGS + 1);
        assert!(patches(&mut file(&many)).is_err());
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
