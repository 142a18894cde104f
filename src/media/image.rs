//! Identifies JPEG, PNG, GIF, BMP, ICO and WebP images, and checks that their structure is complete
//! enough to be displayed. Decodes nothing.

use super::bounded_reader::BoundedReader;
use super::chunks::{Layout, find};
use super::sniff::Detected;
use std::io::{self, Read, Seek};

/// Identifies JPEG (ITU T.81 annex B). Segments up to the first scan must be present, a frame
/// header among them, and an end marker after the scan.
pub(super) fn jpeg<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    const CUT_SHORT: Detected = Detected::Damaged("a JPEG image that is cut short");
    let mut at = 2;
    let mut framed = false;
    // A segment takes at least two bytes, and an image has a few dozen segments; the bound stops
    // crafted files.
    for _ in 0..20_000 {
        let Some([mark, code, high, low]) = source.array(at)? else {
            return Ok(CUT_SHORT);
        };
        let length = u64::from(u16::from_be_bytes([high, low]));
        match (mark, code) {
            // Fill bytes may precede a marker (B.1.1.2), and decoders skip stray bytes, so both are
            // skipped.
            (0xff, 0xff) | (..0xff, _) => at += 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, 0xda) if framed => {
                return Ok(if ends(source, at + 2)? {
                    Detected::of("image/jpeg")
                } else {
                    CUT_SHORT
                });
            }
            (0xff, 0xd9 | 0xda) => return Ok(CUT_SHORT),
            _ => {
                // C4 and CC define tables, and C8 is reserved; the other C codes are frame headers.
                framed |= matches!(code, 0xc0..=0xcf) && !matches!(code, 0xc4 | 0xc8 | 0xcc);
                at += 2 + length.max(2);
            }
        }
    }
    Ok(Detected::Damaged("a JPEG image with broken segments"))
}

/// Returns true if an end-of-image marker follows the offset `from`. Other data may follow the
/// marker: phones append a video.
fn ends<R: Read + Seek>(source: &mut BoundedReader<R>, from: u64) -> io::Result<bool> {
    // The marker is usually at the very end of the file. Searching there first avoids reading all
    // of it.
    let tail = source.len().saturating_sub(4096).max(from);
    if memchr::memmem::find(source.at(tail, 4096)?, b"\xff\xd9").is_some() {
        return Ok(true);
    }
    let mut at = from;
    loop {
        let piece = source.at(at, usize::MAX)?;
        if piece.len() < 2 {
            return Ok(false);
        }
        if memchr::memmem::find(piece, b"\xff\xd9").is_some() {
            return Ok(true);
        }
        // Pieces overlap by one byte, because the marker may straddle two blocks.
        at += piece.len() as u64 - 1;
    }
}

/// Identifies PNG (W3C PNG section 5). The file must have a complete header and image data, and no
/// chunk may extend past the end of the file.
pub(super) fn png<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    const CUT_SHORT: Detected = Detected::Damaged("a PNG image that is cut short");
    /// Bytes of a chunk besides its data: length, type and checksum.
    const CHUNK_OVERHEAD: u64 = 12;
    let mut at = 8;
    let mut header = false;
    let mut data = false;
    for _ in 0..200_000 {
        let Some(length) = source.be32(at)?.map(u64::from) else {
            break;
        };
        let Some(name) = source.array::<4>(at + 4)? else {
            return Ok(CUT_SHORT);
        };
        if at + CHUNK_OVERHEAD + length > source.len() {
            return Ok(CUT_SHORT);
        }
        match &name {
            b"IHDR" if length == 13 => {
                let size = source.be32(at + 8)?.zip(source.be32(at + 12)?);
                header = size.is_some_and(|(width, height)| width > 0 && height > 0);
            }
            // Xcode writes a proprietary chunk before the header.
            b"CgBI" => {}
            b"IDAT" if header => data = true,
            b"IEND" => break,
            _ if !header => break,
            _ => {}
        }
        at += CHUNK_OVERHEAD + length;
    }
    Ok(if data {
        Detected::of("image/png")
    } else {
        CUT_SHORT
    })
}

/// Identifies GIF (version 89a). The blocks after the colour table must lead to an image.
pub(super) fn gif<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    let Some(flags) = source.array::<1>(10)? else {
        return Ok(Detected::Damaged("a GIF image that is cut short"));
    };
    let colours = if flags[0] & 0x80 == 0 {
        0
    } else {
        3 << ((flags[0] & 7) + 1)
    };
    let mut at = 13 + colours;
    let mut pieces = 0;
    while pieces < 500_000 {
        let Some([introducer, _]) = source.array(at)? else {
            break;
        };
        match introducer {
            // An image takes at least 11 bytes: a 10-byte descriptor, an optional colour table, and
            // a code size.
            0x2c if source.at(at, 11)?.len() == 11 => return Ok(Detected::of("image/gif")),
            0x21 => {
                at += 2;
                while let Some([size @ 1..=0xff]) = source.array(at)?.filter(|_| pieces < 500_000) {
                    at += 1 + u64::from(size);
                    pieces += 1;
                }
                at += 1;
                pieces += 1;
            }
            _ => break,
        }
    }
    Ok(Detected::Damaged(
        "the signature of a GIF image and no image after it",
    ))
}

/// Identifies BMP. The bitmap header must have a known size, one plane and a valid bit depth, and
/// the pixels must start inside the file.
pub(super) fn bmp<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Option<Detected>> {
    let Some((offset, header)) = source.le32(10)?.zip(source.le32(14)?) else {
        return Ok(None);
    };
    // OS/2 1.x headers have 16-bit dimensions.
    let (planes, depth) = if header == 12 { (22, 24) } else { (26, 28) };
    let shape = source.le16(planes)?.zip(source.le16(depth)?);
    let known = matches!(header, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124)
        && matches!(shape, Some((1, 0 | 1 | 2 | 4 | 8 | 16 | 24 | 32 | 64)));
    if !known {
        return Ok(None);
    }
    let is_complete = u64::from(offset) < source.len() && offset >= header;
    Ok(Some(if is_complete {
        Detected::of("image/bmp")
    } else {
        Detected::Damaged("a BMP image that is cut short")
    }))
}

/// Identifies ICO and CUR, which share a directory layout. Every image must lie inside the file and
/// start with a known header.
pub(super) fn icon<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Option<Detected>> {
    let Some((kind, count)) = source.le16(2)?.zip(source.le16(4)?) else {
        return Ok(None);
    };
    let end = 6 + 16 * u64::from(count);
    for index in 0..u64::from(count.min(64)) {
        let at = 6 + 16 * index;
        let Some((size, offset)) = source.le32(at + 8)?.zip(source.le32(at + 12)?) else {
            return Ok(None);
        };
        let (size, offset) = (u64::from(size), u64::from(offset));
        let start = source.at(offset, 4)?;
        let picture = start == b"\x89PNG" || matches!(start, [12 | 40 | 108 | 124, 0, 0, 0]);
        if offset < end || size == 0 || offset + size > source.len() || !picture {
            return Ok(None);
        }
    }
    Ok(match (kind, count) {
        (_, 0) => None,
        (1, _) => Some(Detected::of("image/x-icon")),
        _ => Some(Detected::Unsupported("a Windows cursor")),
    })
}

/// Identifies WebP (RFC 9649). The first chunk must be complete image data, or an extended header
/// that is followed by complete image data.
pub(super) fn webp<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    const CUT_SHORT: Detected = Detected::Damaged("a WebP image that is cut short");
    let Some(name) = source.array::<4>(12)? else {
        return Ok(CUT_SHORT);
    };
    let Some(size) = source.le32(16)?.map(u64::from) else {
        return Ok(CUT_SHORT);
    };
    let is_complete = match &name {
        b"VP8 " => source.at(23, 3)? == b"\x9d\x01\x2a" && 20 + size <= source.len(),
        b"VP8L" => source.at(20, 1)? == b"\x2f" && 20 + size <= source.len(),
        b"VP8X" if size >= 10 => {
            let mut is_complete = false;
            for name in [b"VP8 ", b"VP8L", b"ANMF"] {
                let data = find(source, 12, Layout::Riff, *name)?;
                is_complete |= data
                    .is_some_and(|data| data.size > 8 && data.start + data.size <= source.len());
            }
            is_complete
        }
        b"VP8X" => false,
        _ => {
            return Ok(Detected::Damaged(
                "the signature of a WebP image and no image after it",
            ));
        }
    };
    Ok(if is_complete {
        Detected::of("image/webp")
    } else {
        CUT_SHORT
    })
}

#[cfg(test)]
mod tests {
    use crate::media::{Detected, identify};
    use std::fs;
    use std::io::Cursor;

    fn sample(name: &str) -> Vec<u8> {
        fs::read(format!(
            "{}/tests/corpus/{name}",
            env!("CARGO_MANIFEST_DIR")
        ))
        .expect(name)
    }

    fn found(bytes: impl AsRef<[u8]>) -> Detected {
        identify(Cursor::new(bytes)).expect("in-memory I/O")
    }

    #[test]
    fn trailing_data_after_image_is_ignored() {
        for (name, expected) in [
            ("photo.jpg", "image/jpeg"),
            ("screenshot.png", "image/png"),
            ("animation.gif", "image/gif"),
            ("photo.bmp", "image/bmp"),
            ("scan-le.tiff", "image/tiff"),
            ("photo-lossy.webp", "image/webp"),
            ("favicon.ico", "image/x-icon"),
        ] {
            let bytes = [sample(name), vec![0; 100_000]].concat();
            assert_eq!(found(bytes), Detected::of(expected), "{name}");
        }
    }

    #[test]
    fn truncated_image_is_damaged_unless_viewers_show_it() {
        for name in [
            "photo.jpg",
            "photo-progressive.jpg",
            "screenshot.png",
            "photo-lossy.webp",
            "photo-lossless.webp",
        ] {
            let bytes = sample(name);
            assert!(
                matches!(found(&bytes[..bytes.len() / 2]), Detected::Damaged(_)),
                "{name}"
            );
        }
        // Truncated GIF and BMP files are accepted, because viewers display them.
        for name in ["animation.gif", "photo.bmp"] {
            let bytes = sample(name);
            assert!(
                matches!(found(&bytes[..bytes.len() / 2]), Detected::Binary { .. }),
                "{name}"
            );
        }
    }

    #[test]
    fn signature_without_image_is_not_accepted() {
        for bytes in [
            b"\xff\xd8\xff\xe0\0\x10JFIF\0".as_slice(),
            b"\xff\xd8\xff\xd9\0\0",
            b"\x89PNG\r\n\x1a\n\0\0\0\0",
            b"GIF89a\x01\0\x01\0\0\0\0;",
            b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\0\0\0\0\0",
            b"BM\x01\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0<script>",
            b"II*\0\x08\0\0\0",
            b"II*\0\x08\0\0\0\0\0\0\0\0\0\0\0",
            b"RIFF\x10\0\0\0WEBPVP8 \0\0\0\0",
            b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\0\0\x01\0\0\0\0\0",
            b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0\xff\0\0\0\x16\0\0\0",
        ] {
            assert!(
                !matches!(found(bytes), Detected::Binary { .. } | Detected::Text(_)),
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn jpeg_with_fill_and_stray_bytes_between_segments_is_accepted() {
        let bytes = sample("photo.jpg");
        let second = 4 + usize::from(bytes[4]) * 256 + usize::from(bytes[5]);
        for between in [b"\xff\xff\xff".as_slice(), b"\0\0"] {
            let filled = [&bytes[..second], between, &bytes[second..]].concat();
            assert_eq!(found(filled), Detected::of("image/jpeg"));
        }
    }

    #[test]
    fn extended_webp_without_image_is_damaged() {
        let extended = [b"RIFF\x80\0\0\0WEBPVP8X\x0a\0\0\0".as_slice(), &[0; 10]].concat();
        let chunk = |name: &[u8], size: u8| [name, &[size, 0, 0, 0], &[1; 16]].concat();
        for (rest, is_complete) in [
            (vec![0; 100], false),
            (chunk(b"EXIF", 16), false),
            (chunk(b"VP8L", 16), true),
            (
                [chunk(b"ICCP", 16), chunk(b"ANIM", 16), chunk(b"ANMF", 16)].concat(),
                true,
            ),
            ([chunk(b"ALPH", 16), chunk(b"VP8 ", 16)].concat(), true),
            (chunk(b"VP8 ", 17), false),
        ] {
            let content = found([extended.clone(), rest].concat());
            assert_eq!(matches!(content, Detected::Binary { .. }), is_complete);
            assert_eq!(matches!(content, Detected::Damaged(_)), !is_complete);
        }
    }
}
