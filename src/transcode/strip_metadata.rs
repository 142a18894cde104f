//! Strips private metadata: overwrites location and camera serial numbers in place, so that the structure
//! and the size of a file stay unchanged. Finds Exif (CIPA DC-008), XMP and QuickTime locations anywhere in
//! a file, also in a second image or a video appended to the first image.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use memchr::memmem;

use crate::blob::RandomAccess;

/// A replacement of bytes in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub at: u64,
    pub bytes: Vec<u8>,
}

impl Patch {
    /// Applies the part of the patch that overlaps `piece`, which starts at offset `start` of the file.
    fn apply(&self, start: u64, piece: &mut [u8]) {
        let first = self.at.max(start);
        let last = (self.at + self.bytes.len() as u64).min(start + piece.len() as u64);
        let within = |from: u64, at: u64| {
            usize::try_from(at - from).expect("offsets within a piece fit usize")
        };
        if first < last {
            let new = &self.bytes[within(self.at, first)..within(self.at, last)];
            piece[within(start, first)..within(start, last)].copy_from_slice(new);
        }
    }
}

/// Size in bytes of the search window, and of the overlap of two windows: the longest structure that is
/// processed as a whole. An Exif block cannot be longer (CIPA DC-008 section 4.5.4).
const PIECE: usize = 1024 * 1024;
const OVERLAP: usize = 64 * 1024;
/// Maximum number of entries read per directory, and of directories per block. Cameras write a few dozen
/// entries and chain two directories.
const MAX_ENTRIES: usize = 500;
const MAX_DIRECTORIES: usize = 8;
/// Maximum size in bytes of a metadata profile in a PNG text chunk.
const MAX_PROFILE: u32 = 4 * 1024 * 1024;
/// Maximum number of metadata blocks in a file. A file with more is rejected.
const MAX_FINDINGS: usize = 500;

/// Returns true for types that can contain private metadata.
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

/// Returns the patches that remove locations and serial numbers from a file.
///
/// # Errors
/// The file cannot be read, or contains more metadata than any legitimate file.
pub fn patches(content: &mut dyn RandomAccess) -> io::Result<Vec<Patch>> {
    let size = content.size()?;
    let (mut patches, mut findings) = (Vec::new(), 0);
    let mut start = 0;
    loop {
        let piece = read(content, start, PIECE)?;
        let last = start + piece.len() as u64 >= size;
        // A block that starts in the overlap is whole in the next window.
        let own = if last { piece.len() } else { PIECE - OVERLAP };
        for (at, blank) in find(&piece).filter(|(at, _)| *at < own) {
            findings += 1;
            if findings > MAX_FINDINGS {
                return Err(too_much());
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

/// Writes a copy of the file without private metadata to `output`; writes nothing if there is none to
/// remove.
///
/// # Errors
/// The file cannot be read, the copy cannot be written, or the file contains more metadata than any
/// legitimate file.
pub(crate) fn clean(input: &mut File, output: &mut File) -> io::Result<()> {
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

type Blank = fn(&mut [u8]);

/// Finds all metadata in a window that may be private. Returns the offset of each block and the function
/// that blanks it.
fn find(piece: &[u8]) -> impl Iterator<Item = (usize, Blank)> {
    // A block of TIFF tags starts like this if its first directory follows at once: in JPEG, PNG, WebP,
    // HEIC and TIFF itself, with or without a signature in front.
    let exif: [(&[u8], usize, Blank); 2] =
        [(b"II*\0\x08\0\0\0", 0, exif), (b"MM\0*\0\0\0\x08", 0, exif)];
    // With the first directory elsewhere, a block is recognised only by the signature in front of it.
    let signed: [(&[u8], usize, Blank); 3] = [
        (b"Exif\0\0", 6, self::exif),
        (b"eXIf", 4, self::exif),
        (b"EXIF", 8, self::exif),
    ];
    let xmp: [(&[u8], usize, Blank); 2] = [(b":xmpmeta", 0, xmp), (b"<rdf:RDF", 0, xmp)];
    // QuickTime File Format: user data and metadata values; 3GPP TS 26.244 section 8.
    let places: [(&[u8], usize, Blank); 3] = [
        (b"\xa9xyz", 4, place),
        (b"loci\0\0\0\0", 8, loci),
        (b"data\0\0\0\x01", 8, place),
    ];
    exif.into_iter()
        .chain(signed)
        .chain(xmp)
        .chain(places)
        .flat_map(move |(signature, behind, blank)| {
            memmem::find_iter(piece, signature)
                .map(move |at| (at + behind, blank))
                .collect::<Vec<_>>()
        })
}

/// Blanks the location and the serial numbers in a block of TIFF tags.
fn exif(block: &mut [u8]) {
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

/// Tags whose values are blanked: serial numbers, the owner's name, the image id, and the maker note, which
/// holds all of these.
const PRIVATE_TAGS: [u16; 7] = [0x927c, 0xa420, 0xa430, 0xa431, 0xa435, 0xc62f, 0xc65b];
const GPS_DIRECTORY: u16 = 0x8825;
const EXIF_DIRECTORY: u16 = 0x8769;

/// Walks the directories of a block of TIFF tags. Each directory is read once, however many entries point
/// to it, and ranges are collected before any is blanked, so the work is linear in the size of the block.
struct Tags<'a> {
    block: &'a [u8],
    little: bool,
    /// Offsets of the directories that were read.
    read: Vec<usize>,
    private: Vec<Range<usize>>,
}

impl Tags<'_> {
    /// Reads the directory at `at`. Returns false if it was read before or exceeds the maximum number of
    /// directories.
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

    /// Marks all values of the location directory and its entries, which leaves an empty directory.
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

    /// Returns the offsets of the entries of a directory.
    fn entries(&self, at: usize) -> Vec<usize> {
        let count = short(self.block, at, self.little)
            .map_or(0, usize::from)
            .min(MAX_ENTRIES);
        (0..count).map(|n| at.saturating_add(2 + n * 12)).collect()
    }

    /// Marks the value of an entry, which is stored inline or at an offset.
    fn value(&mut self, entry: usize) {
        let (block, little) = (self.block, self.little);
        let at = |behind: usize| entry.saturating_add(behind);
        let (Some(kind), Some(count)) = (short(block, at(2), little), long(block, at(4), little))
        else {
            return;
        };
        let each = match kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            5 | 10 | 12 => 8,
            _ => 4,
        };
        let size = count.saturating_mul(each);
        let value = if size <= 4 {
            Some(at(8))
        } else {
            long(block, at(8), little)
        };
        self.private
            .extend(value.map(|at| at..at.saturating_add(size)));
    }
}

/// Zeroes the ranges that lie entirely within a block, each byte once.
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

/// XMP properties whose values are blanked (Exif 2.32 metadata for XMP, CIPA DC-010).
const PROPERTIES: [&[u8]; 6] = [
    b":GPS",
    b":SerialNumber",
    b":BodySerialNumber",
    b":LensSerialNumber",
    b":CameraOwnerName",
    b":ImageUniqueID",
];

/// Blanks the values of attributes (`exif:GPSLatitude="..."`) and the content of elements
/// (`<exif:GPSLatitude>...</exif:GPSLatitude>`) in one pass: no value or tag is searched twice.
fn xmp(block: &mut [u8]) {
    let end = [&b":xmpmeta>"[..], b"</rdf:RDF>"]
        .iter()
        .filter_map(|end| memmem::rfind(block, end))
        .max();
    let end = end.unwrap_or(block.len());
    let block = &mut block[..end];
    let (mut from, mut tag_end) = (0, 0);
    while let Some(found) = memchr::memchr(b':', &block[from..]) {
        let colon = from + found;
        from = colon + 1;
        if !PROPERTIES
            .iter()
            .any(|property| block[colon..].starts_with(property))
        {
            continue;
        }
        let name = from;
        from += block[name..]
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        let length = from - name;
        let equals = from
            + block[from..]
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
        if block.get(equals) == Some(&b'=') {
            from = blank_attribute(block, equals + 1);
        } else if is_start_tag(block, name) {
            if tag_end < from {
                tag_end = memchr::memchr(b'>', &block[from..]).map_or(block.len(), |at| from + at);
            }
            if tag_end < block.len() && block[tag_end - 1] != b'/' {
                let name = block[name..name + length].to_vec();
                from = blank_element(block, tag_end + 1, &name);
            }
        }
    }
}

/// Maximum length of a namespace prefix that is recognised.
const MAX_PREFIX: usize = 64;

/// Returns true if the name at `name` belongs to a start tag, `<prefix:name`.
fn is_start_tag(block: &[u8], name: usize) -> bool {
    let before = block[..name - 1]
        .iter()
        .rev()
        .take(MAX_PREFIX)
        .find(|byte| !byte.is_ascii_alphanumeric());
    before == Some(&b'<')
}

/// Blanks the quoted value that follows `at`. Returns the offset of its end.
fn blank_attribute(block: &mut [u8], at: usize) -> usize {
    let quotes = block[at..]
        .iter()
        .take(16)
        .position(|byte| matches!(byte, b'"' | b'\''));
    let Some(open) = quotes.map(|open| at + open) else {
        return at;
    };
    let value = &mut block[open..];
    let length = memchr::memchr(value[0], &value[1..]).unwrap_or(value.len() - 1);
    value[1..=length].fill(b' ');
    open + 1 + length
}

/// Blanks the content between a start tag that ends at `start` and the end tag of the same name. Returns
/// the offset of its end.
fn blank_element(block: &mut [u8], start: usize, name: &[u8]) -> usize {
    let end = memmem::find_iter(&block[start..], b"</")
        .map(|at| start + at)
        .find(|at| {
            let tag = &block[at + 2..];
            let colon = tag.iter().take(32).position(|byte| *byte == b':');
            colon.is_some_and(|colon| tag[colon + 1..].starts_with(name))
        });
    let end = end.unwrap_or(block.len());
    block[start..end].fill(b' ');
    end
}

/// Zeroes the digits of an ISO 6709 location near the start of a block, `+37.3318-122.0312+010.000/`.
fn place(block: &mut [u8]) {
    const SEARCH_WINDOW: usize = 16;
    let Some(start) = block
        .iter()
        .take(SEARCH_WINDOW)
        .position(|byte| matches!(byte, b'+' | b'-'))
    else {
        return;
    };
    let is_of_place =
        |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'/');
    let length = block[start..]
        .iter()
        .take(64)
        .take_while(|byte| is_of_place(byte))
        .count();
    let text = &mut block[start..start + length];
    let signs = text
        .iter()
        .filter(|byte| matches!(byte, b'+' | b'-'))
        .count();
    if signs >= 2 && (text.contains(&b'.') || text.ends_with(b"/")) {
        text.iter_mut()
            .filter(|byte| byte.is_ascii_digit())
            .for_each(|digit| *digit = b'0');
    }
}

/// Blanks the 3GPP location box: name, role, longitude, latitude and altitude, up to the text that follows.
fn loci(block: &mut [u8]) {
    const FIXED: usize = 13;
    // A language code, then the zero-terminated name of the place.
    let Some(name) = block
        .get(2..)
        .and_then(|rest| rest.iter().take(256).position(|byte| *byte == 0))
    else {
        return;
    };
    if let Some(bytes) = block.get_mut(2..2 + name) {
        bytes.fill(b' ');
    }
    if let Some(bytes) = block.get_mut(2 + name + 1..2 + name + 1 + FIXED) {
        bytes.fill(0);
    }
}

/// Returns a patch from the first byte that was changed to the last, or `None` if none was.
fn difference(at: u64, before: &[u8], mut after: Vec<u8>) -> Option<Patch> {
    let differs = |n: &usize| before[*n] != after[*n];
    let first = (0..before.len()).find(differs)?;
    let last = (first..before.len()).rev().find(differs)?;
    after.truncate(last + 1);
    Some(Patch {
        at: at + first as u64,
        bytes: after.split_off(first),
    })
}

/// Patches the chunks of a PNG (third edition, section 5): turns text chunks that hold metadata profiles
/// into chunks of an unknown type, and recomputes the checksums of all changed chunks.
fn chunks(content: &mut dyn RandomAccess, patches: &mut Vec<Patch>) -> io::Result<()> {
    patches.sort_by_key(|patch| patch.at);
    let (mut profiles, mut changed) = (Vec::new(), Vec::new());
    let size = content.size()?;
    let mut heads = BufReader::new(&mut *content);
    let mut at = heads.seek(SeekFrom::Start(8))?;
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
            if profiles.len() == MAX_FINDINGS || length > MAX_PROFILE {
                return Err(too_much());
            }
            // A chunk type that is ancillary, private and safe to copy (section 5.4).
            let mut bytes = b"prVt".to_vec();
            bytes.resize(4 + length as usize, 0);
            bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
            profiles.push(Patch { at: kind, bytes });
        } else if !within(patches, kind..end).is_empty() {
            changed.push(kind..end);
        }
        // Skips within the buffer if it extends that far.
        heads.seek_relative(
            i64::from(length) + 12 - i64::try_from(head.len()).unwrap_or_default(),
        )?;
        at = end + 4;
    }
    let sums = changed.into_iter().map(|chunk| {
        let sum = checksum(content, within(patches, chunk.clone()), chunk.clone())?;
        Ok(Patch {
            at: chunk.end,
            bytes: sum.to_be_bytes().to_vec(),
        })
    });
    let sums = sums.collect::<io::Result<Vec<_>>>()?;
    // Later patches win where they overlap earlier ones.
    patches.extend(profiles);
    patches.extend(sums);
    Ok(())
}

/// Bytes read at the start of a chunk: its length, its type, and the first 80 bytes of its data.
const HEAD: u64 = 8 + 80;

/// Returns the patches that start in a range; `patches` must be sorted by offset.
fn within(patches: &[Patch], range: Range<u64>) -> &[Patch] {
    let first = patches.partition_point(|patch| patch.at < range.start);
    let last = patches.partition_point(|patch| patch.at < range.end);
    &patches[first..last]
}

fn too_much() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "more metadata than any file has",
    )
}

/// Returns true for Exif, IPTC and XMP that `ImageMagick` and other tools store as text or compressed text.
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

/// Returns the checksum of a chunk's type and data with the patches applied.
fn checksum(
    content: &mut dyn RandomAccess,
    patches: &[Patch],
    chunk: Range<u64>,
) -> io::Result<u32> {
    let (mut sum, mut at) = (crc32fast::Hasher::new(), chunk.start);
    while at < chunk.end {
        let most = usize::try_from(chunk.end - at).unwrap_or(PIECE).min(PIECE);
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

fn read(content: &mut dyn RandomAccess, at: u64, most: usize) -> io::Result<Vec<u8>> {
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
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/").to_owned() + name)
            .expect(name)
    }

    #[test]
    fn file_without_private_metadata_is_unchanged() {
        for name in [
            "photo.jpg",
            "screenshot.png",
            "clip.mp4",
            "voice.m4a",
            "notes.txt",
            "animated.png",
        ] {
            let bytes = corpus(name);
            assert!(cleaned(&bytes) == bytes, "{name}");
        }
    }

    #[test]
    fn locations_and_serial_numbers_are_blanked() {
        let blanked = |blank: Blank, text: &[u8]| {
            let mut block = text.to_vec();
            blank(&mut block);
            String::from_utf8(block).expect("text")
        };
        assert_eq!(
            blanked(place, b"+37.3318-122.0312+010.000/x"),
            "+00.0000-000.0000+000.000/x"
        );
        assert_eq!(
            blanked(place, b"+12025550100"),
            "+12025550100",
            "a phone number is not a location"
        );
        let attributes = b"<x:xmpmeta exif:GPSLatitude=\"52,31N\" tiff:Model='X' aux:SerialNumber='123'/></x:xmpmeta>";
        let clean = "<x:xmpmeta exif:GPSLatitude=\"      \" tiff:Model='X' aux:SerialNumber='   '/></x:xmpmeta>";
        assert_eq!(blanked(xmp, attributes), clean);
        let spaced = b"<rdf:RDF exif:GPSLatitude = \"52,31N\"/></rdf:RDF>";
        assert_eq!(
            blanked(xmp, spaced),
            "<rdf:RDF exif:GPSLatitude = \"      \"/></rdf:RDF>"
        );
        let nested = b"<y:xmpmeta><exif:GPSLatitude xml:lang=\"x\"><rdf:li>52</rdf:li></exif:GPSLatitude></y:xmpmeta>";
        let clean = format!(
            "<y:xmpmeta><exif:GPSLatitude xml:lang=\"x\">{}</exif:GPSLatitude></y:xmpmeta>",
            " ".repeat(19)
        );
        assert_eq!(blanked(xmp, nested), clean);
        assert_eq!(blanked(place, b"+374520-1220130/"), "+000000-0000000/");
        let elements = b"<x:xmpmeta><exif:GPSLatitude>52,31N</exif:GPSLatitude></x:xmpmeta>";
        assert_eq!(
            blanked(xmp, elements),
            "<x:xmpmeta><exif:GPSLatitude>      </exif:GPSLatitude></x:xmpmeta>"
        );
    }

    /// Builds a PNG from chunks.
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
    fn png_text_chunks_with_metadata_become_unknown_chunks() {
        let zeros = |length: usize| vec![0; length];
        let large = [
            b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta exif:GPSLatitude='1'/>".to_vec(),
            vec![b' '; 300_000],
        ]
        .concat();
        let clean_large = String::from_utf8(large.clone())
            .expect("text")
            .replace("'1'", "' '")
            .into_bytes();
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
    fn file_with_too_much_metadata_is_rejected() {
        let many = b"Exif\0\0II*\0\x08\0\0\0\0\0".repeat(MAX_FINDINGS + 1);
        assert!(patches(&mut file(&many)).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_keep_their_size(bytes in proptest::collection::vec(any::<u8>(), 0..300), which in 0..6_usize) {
            let start = [&b"Exif\0\0II*\0\x08\0\0\0"[..], b"Exif\0\0MM\0*\0\0\0\x08", b"eXIfII*\0\x08\0\0\0", b"<x:xmpmeta :GPS",
                b"\xa9xyz", b"loci\0\0\0\0"][which];
            let whole = [start, &bytes].concat();
            prop_assert_eq!(cleaned(&whole).len(), whole.len());
        }
    }
}
