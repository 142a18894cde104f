//! Identifies chunk-based containers: RIFF (WAV, AVI, WebP), IFF (AIFF), CAF and MIDI. Reads no
//! samples.

use super::bounded_reader::BoundedReader;
use super::image;
use super::sniff::Detected;
use std::io::{self, Read, Seek};

/// A chunk: the offset of its data, and the size given in its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) size: u64,
}

/// How a container format encodes the size of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// 32-bit little-endian; data is padded to an even size.
    Riff,
    /// 32-bit big-endian; data is padded to an even size.
    Iff,
    /// 64-bit big-endian; data is not padded.
    Caf,
}

/// Finds the first chunk called `name` at or after the offset `at`.
pub(super) fn find<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    mut at: u64,
    layout: Layout,
    name: [u8; 4],
) -> io::Result<Option<Chunk>> {
    // Broadcast WAV files and audio loops have a few dozen chunks; the bound stops crafted files.
    for _ in 0..2000 {
        let Some(found) = source.array::<4>(at)? else {
            break;
        };
        let (header, width) = if layout == Layout::Caf {
            (12, 8)
        } else {
            (8, 4)
        };
        let Some(size) = source.uint(at + 4, width, layout == Layout::Riff)? else {
            break;
        };
        if found == name {
            return Ok(Some(Chunk {
                start: at + header,
                size,
            }));
        }
        let padding = if layout == Layout::Caf { 0 } else { size & 1 };
        at = at
            .saturating_add(header)
            .saturating_add(size)
            .saturating_add(padding);
    }
    Ok(None)
}

/// Identifies a RIFF file, which starts with `RIFF`, `RF64` or `BW64`.
pub(super) fn riff<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Option<Detected>> {
    let Some(form) = source.array::<4>(8)? else {
        return Ok(None);
    };
    Ok(Some(match &form {
        b"WAVE" => {
            let format =
                find(source, 12, Layout::Riff, *b"fmt ")?.filter(|format| format.size >= 14);
            let data = find(source, 12, Layout::Riff, *b"data")?;
            let is_complete =
                format.is_some() && data.is_some_and(|data| data.start < source.len());
            if is_complete {
                Detected::of("audio/x-wav")
            } else {
                Detected::Damaged("a WAV file without sound")
            }
        }
        b"AVI " => {
            // The first list in an AVI file is the header list, which starts with the main header.
            let list = find(source, 12, Layout::Riff, *b"LIST")?;
            let is_complete =
                list.is_some() && source.at(list.map_or(0, |list| list.start), 8)? == b"hdrlavih";
            if is_complete {
                Detected::of("video/x-msvideo")
            } else {
                Detected::Damaged("an AVI video without a header")
            }
        }
        b"WEBP" => image::webp(source)?,
        b"RMID" => match find(source, 12, Layout::Riff, *b"data")? {
            Some(data) => midi(source, data.start)?,
            None => Detected::Damaged("a MIDI file without music"),
        },
        b"ACON" => Detected::Unsupported("an animated cursor"),
        _ => Detected::Unsupported("a RIFF file of another kind"),
    }))
}

/// Identifies an IFF file, which starts with `FORM` (AIFF 1.3, AIFF-C).
pub(super) fn iff<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Option<Detected>> {
    let Some(form) = source.array::<4>(8)? else {
        return Ok(None);
    };
    if !matches!(&form, b"AIFF" | b"AIFC") {
        return Ok(Some(Detected::Unsupported("an IFF file of another kind")));
    }
    let common =
        find(source, 12, Layout::Iff, *b"COMM")?.filter(|common| common.start + 18 <= source.len());
    Ok(Some(match common {
        Some(_) => Detected::of("audio/x-aiff"),
        None => Detected::Damaged("an AIFF file without a description of its sound"),
    }))
}

/// Identifies a CAF file, which starts with `caff` (Apple Core Audio Format Specification). It must
/// be of version 1 and have the audio description chunk first.
pub(super) fn caf<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Option<Detected>> {
    let described =
        source.at(4, 2)? == [0, 1] && source.at(8, 4)? == b"desc" && source.be64(12)? == Some(32);
    let is_complete = described && source.len() > 8 + 12 + 32;
    Ok(Some(if is_complete {
        Detected::of("audio/x-caf")
    } else {
        Detected::Damaged("a CAF file that is cut short")
    }))
}

/// Checks that a Standard MIDI File at `at` has a header of a known format, followed by a track.
pub(super) fn midi<R: Read + Seek>(source: &mut BoundedReader<R>, at: u64) -> io::Result<Detected> {
    let header = source.array::<4>(at)? == Some(*b"MThd");
    let length = source.be32(at + 4)?.unwrap_or(0);
    let format = source.be16(at + 8)?.unwrap_or(u16::MAX);
    let track = source.array::<4>(at + 8 + u64::from(length))? == Some(*b"MTrk");
    let is_complete = header && length >= 6 && format <= 2 && track;
    Ok(if is_complete {
        Detected::of("audio/midi")
    } else {
        Detected::Damaged("a MIDI file that is cut short")
    })
}
