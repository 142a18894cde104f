//! Detects elementary streams without a container: MP3, ADTS and AMR audio, and MPEG video and
//! transport streams. The few fixed bits of a frame header can occur anywhere by chance, so
//! detection requires several consecutive frames. Decodes nothing.

use super::bounded_reader::BoundedReader;
use super::sniff::Detected;
use std::io::{self, Read, Seek};

/// Codec of an audio frame, with its variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// MPEG audio. The version is 10, 20 or 25, which stands for MPEG-1, MPEG-2 and MPEG-2.5.
    Mpeg {
        version: u8,
        layer: u8,
    },
    Adts,
}

/// The parsed header of an audio frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) codec: Codec,
    pub(super) rate: u32,
    /// Size of the frame in bytes, including its header.
    pub(super) size: u32,
    /// Number of samples per channel.
    pub(super) samples: u32,
    pub(super) mono: bool,
}

/// Parses an ADTS or MPEG audio frame header.
pub(super) fn frame(header: &[u8]) -> Option<Frame> {
    let &[0xff, second @ 0xe0..=0xff, third, fourth, ..] = header else {
        return None;
    };
    if second & 0xf6 == 0xf0 {
        adts(header)
    } else {
        mpeg(second, third, fourth)
    }
}

/// Parses an ADTS header (ISO/IEC 13818-7 section 6.2).
fn adts(header: &[u8]) -> Option<Frame> {
    const RATES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
        8000, 7350,
    ];
    let &[_, _, third, fourth, fifth, sixth, seventh, ..] = header else {
        return None;
    };
    let rate = *RATES.get(usize::from(third >> 2 & 15))?;
    let size = u32::from(fourth & 3) << 11 | u32::from(fifth) << 3 | u32::from(sixth >> 5);
    let samples = 1024 * (u32::from(seventh & 3) + 1);
    (size > 7).then_some(Frame {
        codec: Codec::Adts,
        rate,
        size,
        samples,
        mono: false,
    })
}

/// Parses an MPEG audio header (ISO/IEC 11172-3 section 2.4.2.3, 13818-3, and the MPEG-2.5
/// extension).
fn mpeg(second: u8, third: u8, fourth: u8) -> Option<Frame> {
    const V1_L1: [u32; 14] = [
        32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448,
    ];
    const V1_L2: [u32; 14] = [
        32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384,
    ];
    const V1_L3: [u32; 14] = [
        32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
    ];
    const V2_L1: [u32; 14] = [
        32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256,
    ];
    const V2_L23: [u32; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    let (version, halved) = match second >> 3 & 3 {
        0 => (25, 4),
        2 => (20, 2),
        3 => (10, 1),
        _ => return None,
    };
    let layer = 4 - (second >> 1 & 3);
    let rate = *[44_100, 48_000, 32_000].get(usize::from(third >> 2 & 3))? / halved;
    let table = match (version, layer) {
        (_, 4) => return None,
        (10, 1) => V1_L1,
        (10, 2) => V1_L2,
        (10, 3) => V1_L3,
        (_, 1) => V2_L1,
        _ => V2_L23,
    };
    // Index 0 means "free format", whose bit rate only the encoder knows, and index 15 is
    // forbidden; both are rejected.
    let bits = table.get(usize::from(third >> 4).checked_sub(1)?)? * 1000;
    let padding = u32::from(third >> 1 & 1);
    let (samples, size) = match layer {
        1 => (384, (12 * bits / rate + padding) * 4),
        3 if version != 10 => (576, 72 * bits / rate + padding),
        _ => (1152, 144 * bits / rate + padding),
    };
    (size > 4).then_some(Frame {
        codec: Codec::Mpeg { version, layer },
        rate,
        size,
        samples,
        mono: fourth >> 6 == 3,
    })
}

/// Returns the frame at `at` if it is the first of `wanted` consecutive frames with the same codec
/// and sample rate. `minimum` frames are enough if they extend to the end of the file or to a
/// trailing tag.
fn run<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    at: u64,
    wanted: u8,
    minimum: u8,
) -> io::Result<Option<Frame>> {
    let Some(first) = frame(source.at(at, 7)?) else {
        return Ok(None);
    };
    let mut next = at + u64::from(first.size);
    for found in 1..wanted {
        // A truncated last frame does not count as one of the consecutive frames.
        if next == source.len() && found >= minimum || next > source.len() && found > minimum {
            break;
        }
        let rest = source.at(next, 8)?;
        match frame(rest) {
            Some(frame) if frame.codec == first.codec && frame.rate == first.rate => {
                next += u64::from(frame.size);
            }
            _ if found >= minimum
                && (rest.starts_with(b"TAG")
                    || rest == b"APETAGEX"
                    || rest.starts_with(b"LYRICS")) =>
            {
                break;
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(first))
}

/// Skips leading `ID3v2` tags (section 3.1 of the 2.4 structure document) and APE tags, and returns
/// the offset of the content after them.
pub(super) fn untagged<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<u64> {
    let mut at = 0;
    // Several tags are skipped, because some programs prepend a new one without removing the old
    // one.
    for _ in 0..16 {
        let head = source.at(at, 32)?;
        match head {
            [b'I', b'D', b'3', 2..=4, _, flags, a, b, c, d, ..] if (a | b | c | d) < 0x80 => {
                let size = [a, b, c, d]
                    .iter()
                    .fold(0, |size, &&seven| size << 7 | u64::from(seven));
                let footer = if flags & 0x10 == 0 { 0 } else { 10 };
                at += 10 + size + footer;
            }
            [
                b'A',
                b'P',
                b'E',
                b'T',
                b'A',
                b'G',
                b'E',
                b'X',
                _,
                _,
                _,
                _,
                a,
                b,
                c,
                d,
                ..,
            ] => {
                at += 32 + u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
            }
            _ => break,
        }
    }
    Ok(at)
}

/// Searches from offset `at` on for several consecutive frames, and returns the offset and header
/// of the first one. Frames can start later than `at`: padding after a tag may exceed the size
/// given in the tag, and broadcast recordings start in the middle of a frame.
pub(super) fn first<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    mut at: u64,
) -> io::Result<Option<(u64, Frame)>> {
    const MAX_JUNK: u64 = 4096;
    // The size given in a tag may leave out the padding that the tag reserves for growth, so the
    // search goes further after a tag.
    let padding = if at > 0 { 1024 * 1024 } else { 64 * 1024 };
    if let Some(frame) = run(source, at, 3, 1)? {
        return Ok(Some((at, frame)));
    }
    let end = at + padding;
    while at < end {
        let piece = source.at(at, 4096)?;
        match piece.iter().position(|&byte| byte != 0) {
            Some(zeros) => {
                at += zeros as u64;
                break;
            }
            None if piece.is_empty() => return Ok(None),
            None => at += piece.len() as u64,
        }
    }
    let end = at + MAX_JUNK;
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(0);
        let Some(skip) = memchr::memchr(0xff, source.at(at, wanted)?) else {
            break;
        };
        at += skip as u64;
        if let Some(frame) = run(source, at, 5, 3)? {
            return Ok(Some((at, frame)));
        }
        at += 1;
    }
    Ok(None)
}

/// AMR frame sizes in bytes by frame type, for narrowband and for wideband. They include the type
/// byte; 0 stands for an undefined type (RFC 4867 section 5.3).
pub(super) const AMR_SIZES: [[u8; 16]; 2] = [
    [13, 14, 16, 18, 20, 21, 27, 32, 6, 0, 0, 0, 0, 0, 0, 1],
    [18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 0, 0, 0, 0, 1, 1],
];

/// Returns the offset of an AMR file's first frame, and the table of frame sizes that applies.
pub(super) fn amr_start(head: &[u8]) -> Option<(u64, &'static [u8; 16])> {
    let [narrow, wide] = &AMR_SIZES;
    // In multichannel files, a 4-byte channel field follows the magic number.
    let starts: [(&[u8], u64, _); 4] = [
        (b"#!AMR\n", 6, narrow),
        (b"#!AMR-WB\n", 9, wide),
        (b"#!AMR_MC1.0\n", 16, narrow),
        (b"#!AMR-WB_MC1.0\n", 19, wide),
    ];
    starts
        .iter()
        .find(|(magic, _, _)| head.starts_with(magic))
        .map(|&(_, at, sizes)| (at, sizes))
}

/// Identifies an AMR file. It must contain at least one whole frame.
pub(super) fn amr<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Option<Detected>> {
    let Some((at, sizes)) = amr_start(source.at(0, 16)?) else {
        return Ok(None);
    };
    let size = source
        .array::<1>(at)?
        .map_or(0, |[header]| sizes[usize::from(header >> 3 & 15)]);
    let is_complete = size > 0 && at + u64::from(size) <= source.len();
    Ok(Some(if is_complete {
        Detected::of("audio/amr")
    } else {
        Detected::Damaged("an AMR file without sound")
    }))
}

/// Identifies an MPEG program stream (ISO/IEC 13818-1 section 2.5.3.3) or a bare video stream
/// (13818-2 section 6.2.2.1).
pub(super) fn mpeg_video(head: &[u8]) -> Option<Detected> {
    let valid = match *head {
        [0, 0, 1, 0xba, clock, ..] if head.len() >= 12 => {
            clock & 0xc4 == 0x44 || clock & 0xf1 == 0x21
        }
        [0, 0, 1, 0xb3, a, b, c, d, ..] if head.len() >= 12 => {
            let (width, height) = (
                u16::from(a) << 4 | u16::from(b >> 4),
                u16::from(b & 15) << 8 | u16::from(c),
            );
            width > 0 && height > 0 && d >> 4 != 0 && matches!(d & 15, 1..=8)
        }
        _ => return None,
    };
    valid.then(|| Detected::of("video/mpeg"))
}

/// Returns true if the file consists of consecutive transport stream packets (ISO/IEC 13818-1
/// section 2.4.3), either bare or each after a 4-byte timestamp, as camcorders write them.
pub(super) fn transport_stream(head: &[u8]) -> bool {
    let every = |from: usize, step: usize| {
        let mut packets = head.iter().skip(from).step_by(step).take(5);
        head.len() > from + 2 * step && packets.all(|&sync| sync == 0x47)
    };
    every(0, 188) || every(4, 192)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Builds a silent MP3 frame of 128 kbit/s at 44.1 kHz.
    fn mp3() -> Vec<u8> {
        let mut frame = b"\xff\xfb\x90\x00".to_vec();
        frame.resize(417, 0);
        frame
    }

    fn found(bytes: &[u8]) -> Option<(u64, Codec)> {
        let mut source = BoundedReader::new(Cursor::new(bytes)).expect("in-memory I/O");
        let start = untagged(&mut source).expect("in-memory I/O");
        first(&mut source, start)
            .expect("in-memory I/O")
            .map(|(at, frame)| (at, frame.codec))
    }

    #[test]
    fn frames_after_tags_padding_and_junk_are_found() {
        let layer3 = Codec::Mpeg {
            version: 10,
            layer: 3,
        };
        let frames = mp3().repeat(8);
        let tag = |size: u8| {
            [
                b"ID3\x04\0\0\0\0\0".as_slice(),
                &[size],
                &vec![1; size.into()],
            ]
            .concat()
        };
        let tag_with_footer = [b"ID3\x04\0\x10\0\0\0\x02".as_slice(), &[0; 12]].concat();
        let ape = [b"APETAGEX\xd0\x07\0\0\x04\0\0\0".as_slice(), &[0; 20]].concat();
        for (front, expected) in [
            (vec![], 0),
            (tag(20), 30),
            ([tag(20), tag(3)].concat(), 43),
            (tag_with_footer, 22),
            (ape, 36),
            ([tag(20), vec![0; 5000]].concat(), 5030),
            ([tag(20), vec![0; 1_000_000]].concat(), 1_000_030),
            (vec![0xff; 100], 100),
            (b"RADIO\xff\xfb".repeat(50), 350),
        ] {
            assert_eq!(
                found(&[front, frames.clone()].concat()),
                Some((expected, layer3))
            );
        }
    }

    #[test]
    fn fewer_than_three_frames_count_only_at_end_of_file() {
        assert!(found(&mp3()).is_some());
        assert!(found(&[mp3(), b"TAG".to_vec(), vec![b' '; 125]].concat()).is_some());
        assert!(found(&[mp3(), mp3(), vec![1; 50]].concat()).is_none());
        assert!(found(&mp3()[..400]).is_none());
        let three = mp3().repeat(3);
        assert!(found(&three[..three.len() - 10]).is_some());
    }

    #[test]
    fn junk_before_frames_requires_three_frames() {
        let tag = b"TAG".to_vec();
        for front in [b"words \x01".to_vec(), vec![0; 100]] {
            let behind = |frames: &[u8]| found(&[front.as_slice(), frames].concat()).is_some();
            let three = mp3().repeat(3);
            assert!(!behind(&mp3()));
            assert!(!behind(&mp3().repeat(2)));
            assert!(!behind(&[mp3(), tag.clone()].concat()));
            assert!(!behind(&three[..three.len() - 1]));
            assert!(behind(&three));
            assert!(behind(&[three, tag.clone()].concat()));
        }
    }

    #[test]
    fn excessive_zero_padding_is_rejected() {
        assert!(found(&[vec![0; 1_000_000], mp3().repeat(8)].concat()).is_none());
        let tag = b"ID3\x04\0\0\0\0\0\0".to_vec();
        assert!(found(&[tag, vec![0; 1_100_000], mp3().repeat(8)].concat()).is_none());
    }

    #[test]
    fn headers_with_forbidden_values_are_rejected() {
        for header in [
            b"\xff\xfb\x00\x00\0\0\0",
            b"\xff\xfb\xf0\x00\0\0\0",
            b"\xff\xfb\x9c\x00\0\0\0",
            b"\xff\xeb\x90\x00\0\0\0",
            b"\xff\xf1\x3c\x00\0\0\0",
            b"\xff\xf1\x50\x00\0\0\0",
        ] {
            assert_eq!(frame(header), None, "{header:x?}");
        }
        assert_eq!(frame(b"\xff"), None);
        assert_eq!(frame(b"\xff\xf1\x50"), None);
    }
}
