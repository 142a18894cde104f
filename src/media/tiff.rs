//! Identifies TIFF files (TIFF 6.0) and camera raw images, which have the same structure.

use super::bounded_reader::BoundedReader;
use super::sniff::Detected;
use std::io::{self, Read, Seek};

/// Byte order and field widths of a TIFF file, which is classic TIFF or `BigTIFF`.
#[derive(Clone, Copy, Debug)]
struct Tiff {
    little: bool,
    /// Widths in bytes of an offset, of an entry count, and of an entry in a directory.
    offset: usize,
    counter: usize,
    entry: u64,
}

/// Those properties of an image file directory (IFD) that matter for detection.
#[derive(Clone, Copy, Debug, Default)]
struct Directory {
    /// Has an image width.
    wide: bool,
    /// Has values that occur only in camera raw images.
    raw: bool,
    /// Names the maker of the camera or scanner.
    made: bool,
    /// Offset and length of the list of sub-IFDs.
    inner: Option<(u64, u64)>,
}

impl Tiff {
    /// Reads the IFD at offset `at`, with the tags of TIFF 6.0 section 2, TIFF/EP (ISO 12234-2) and
    /// DNG 1.7.
    fn directory<R: Read + Seek>(
        self,
        source: &mut BoundedReader<R>,
        at: u64,
    ) -> io::Result<Directory> {
        let mut found = Directory::default();
        let Some(count) = source.uint(at, self.counter, self.little)? else {
            return Ok(found);
        };
        for index in 0..count.min(4096) {
            let at = at.saturating_add(self.counter as u64 + index * self.entry);
            let Some(tag) = source.uint(at, 2, self.little)? else {
                break;
            };
            let value = at.saturating_add(4 + self.offset as u64);
            let short = source.uint(value, 2, self.little)?;
            match tag {
                0x100 => found.wide = true,
                // Compression: Nikon, Sony, Samsung, Kodak and Pentax use codes of their own in raw
                // images.
                0x103 => {
                    found.raw |= matches!(
                        short,
                        Some(34_713 | 32_767 | 32_769 | 32_770 | 65_000 | 65_535)
                    );
                }
                // Photometric interpretation: the values for a colour filter array and for linear
                // raw mean sensor data.
                0x106 => found.raw |= matches!(short, Some(32_803 | 34_892)),
                0x10f => found.made = true,
                0x14a => {
                    let Some(count) =
                        source.uint(at.saturating_add(4), self.offset, self.little)?
                    else {
                        continue;
                    };
                    // A single sub-IFD offset is stored inline, where otherwise the offset of a
                    // list is stored.
                    let list = if count == 1 {
                        Some(value)
                    } else {
                        source.uint(value, self.offset, self.little)?
                    };
                    found.inner = list.map(|list| (list, count));
                }
                // Only DNG raw images have a DNG version.
                0xc612 => found.raw = true,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Returns true if `first` is the first IFD of a camera raw image. In such files, the first IFD
    /// is often a thumbnail, and the sensor image is in a sub-IFD.
    fn raw<R: Read + Seek>(
        self,
        source: &mut BoundedReader<R>,
        first: Directory,
    ) -> io::Result<bool> {
        if first.raw {
            return Ok(true);
        }
        let Some((list, count)) = first.inner else {
            return Ok(false);
        };
        for index in 0..count.min(16) {
            let at = list.saturating_add(index * self.offset as u64);
            let inner = match source.uint(at, self.offset, self.little)? {
                Some(inner) => self.directory(source, inner)?,
                None => Directory::default(),
            };
            // A file that names the maker and has a sub-IFD without an image width is not a scanned
            // page.
            if inner.raw || first.made && !inner.wide {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Identifies TIFF (TIFF 6.0 section 2) and `BigTIFF`. The first IFD must be readable and have an
/// image width.
pub(super) fn identify<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    const NO_DIRECTORY: Detected = Detected::Damaged("a TIFF image without a readable directory");
    const RAW: Detected = Detected::Unsupported("a camera's raw image");
    let Some(head) = source.array::<16>(0)? else {
        return Ok(NO_DIRECTORY);
    };
    if head[8..].starts_with(b"CR") || head[8..].starts_with(b"HEAPCCDR") {
        return Ok(RAW);
    }
    let little = head[0] == b'I';
    let big = head[2] == 43 || head[3] == 43;
    let file = if big {
        Tiff {
            little,
            offset: 8,
            counter: 8,
            entry: 20,
        }
    } else {
        Tiff {
            little,
            offset: 4,
            counter: 2,
            entry: 12,
        }
    };
    let Some(at) = source.uint(file.offset as u64, file.offset, little)? else {
        return Ok(NO_DIRECTORY);
    };
    let first = file.directory(source, at)?;
    Ok(match first {
        _ if file.raw(source, first)? => RAW,
        Directory { wide: true, .. } => Detected::of("image/tiff"),
        _ => NO_DIRECTORY,
    })
}

#[cfg(test)]
mod tests {
    use crate::media::{Detected, identify};
    use std::fs;
    use std::io::Cursor;

    fn found(bytes: impl AsRef<[u8]>) -> Detected {
        identify(Cursor::new(bytes)).expect("in-memory I/O")
    }

    /// Builds a TIFF directory from the tag, type, count and value of each of its entries.
    fn directory(entries: &[(u16, u16, u32, u32)]) -> Vec<u8> {
        let mut bytes = u16::try_from(entries.len())
            .expect("few")
            .to_le_bytes()
            .to_vec();
        for (tag, kind, count, value) in entries {
            bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
            bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
        }
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn camera_raw_images_are_distinguished_from_tiff() {
        let raw = Detected::Unsupported("a camera's raw image");
        let mut bytes = fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/corpus/scan-le.tiff"
        ))
        .expect("a sample");
        bytes[8..10].copy_from_slice(b"CR");
        assert_eq!(found(bytes), raw);

        let (width, make) = ((0x100, 3, 1, 160), (0x10f, 2, 6, 0));
        let tiff = Detected::of("image/tiff");
        let start = |first: &[_]| [b"II*\0\x08\0\0\0".as_slice(), &directory(first)].concat();
        for (entries, expected) in [
            (vec![width, make], tiff),
            (vec![width, (0x103, 3, 1, 5), (0x106, 3, 1, 2), make], tiff),
            (vec![width, (0x103, 3, 1, 34_892)], tiff),
            (vec![width, (0x103, 3, 1, 34_713)], raw),
            (vec![width, (0x103, 3, 1, 65_535)], raw),
            (vec![width, (0x106, 3, 1, 32_803)], raw),
            (vec![width, (0x106, 3, 1, 34_892)], raw),
            (vec![width, (0xc612, 1, 4, 0x0401)], raw),
            // A sub-IFD that lies outside the file.
            (vec![width, make, (0x14a, 4, 1, 9000)], raw),
            (vec![width, (0x14a, 4, 1, 9000)], tiff),
        ] {
            assert_eq!(found(start(&entries)), expected, "{entries:?}");
        }
        // A sub-IFD, the only or the second one, that has either sensor data or a smaller copy of
        // the image.
        for (samples, expected) in [(32_803, raw), (2, tiff)] {
            let inner = directory(&[width, (0x106, 3, 1, samples)]);
            let first = |list: u32, count: u32| start(&[width, make, (0x14a, 4, count, list)]);
            let length = u32::try_from(first(0, 1).len()).expect("short");
            assert_eq!(found([first(length, 1), inner.clone()].concat()), expected);
            let other = directory(&[width]);
            let second = length + 8 + u32::try_from(other.len()).expect("short");
            let list = [(length + 8).to_le_bytes(), second.to_le_bytes()].concat();
            assert_eq!(
                found([first(length, 2), list, other, inner].concat()),
                expected
            );
        }
    }
}
