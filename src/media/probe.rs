//! Determines the dimensions of images and the duration of audio and video, where that is cheap.
//! Implausible values are reported as unknown.

use super::bounded_reader::BoundedReader;
use super::duration::{audio, mp4};
use super::table::{Family, MediaType};
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Dimensions and duration of a media file; `None` means unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaInfo {
    /// Width in pixels, as stored: the Exif orientation is not applied.
    pub width: Option<u32>,
    /// Height in pixels, as stored.
    pub height: Option<u32>,
    pub duration_ms: Option<u64>,
}

/// Reads the dimensions or the duration of a file, depending on its type. After a read error, the
/// values stay unknown.
pub fn probe<R: Read + Seek>(reader: R, media_type: &MediaType) -> MediaInfo {
    match media_type.family {
        Family::Image => dimensions(reader, media_type).unwrap_or_default(),
        Family::Media => {
            let duration =
                BoundedReader::new(reader).and_then(|mut source| duration(&mut source, media_type));
            MediaInfo {
                duration_ms: duration.unwrap_or_default(),
                ..MediaInfo::default()
            }
        }
        _ => MediaInfo::default(),
    }
}

fn dimensions<R: Read + Seek>(mut reader: R, media_type: &MediaType) -> io::Result<MediaInfo> {
    // `imagesize` assumes fixed offsets, which are wrong for some PNG and BMP headers, so those
    // headers are read here.
    let head = {
        let mut source = BoundedReader::new(&mut reader)?;
        source.at(0, 64)?.to_vec()
    };
    let word = |at: usize| head.get(at..at + 4)?.try_into().ok();
    let (width, height) = match media_type.name {
        // A proprietary chunk that Xcode writes precedes the PNG header.
        "image/png" if head.get(12..16) == Some(b"CgBI") => {
            let at = 12 + 4 + usize::from(*head.get(11).unwrap_or(&0)) + 4 + 8;
            (
                word(at).map(u32::from_be_bytes),
                word(at + 4).map(u32::from_be_bytes),
            )
        }
        "image/bmp" => match word(14).map(u32::from_le_bytes) {
            // OS/2 1.x headers have 16-bit dimensions.
            Some(12) => {
                let both = word(18).map(u32::from_le_bytes);
                (both.map(|both| both & 0xffff), both.map(|both| both >> 16))
            }
            // A negative height means that the rows are stored from top to bottom.
            _ => (
                word(18).map(u32::from_le_bytes),
                word(22).map(|height| i32::from_le_bytes(height).unsigned_abs()),
            ),
        },
        _ => {
            reader.seek(SeekFrom::Start(0))?;
            let size = imagesize::reader_size(BufReader::new(ReadLimited {
                reader,
                remaining: MAX_READS,
            }))
            .map_err(io::Error::other)?;
            (
                u32::try_from(size.width).ok(),
                u32::try_from(size.height).ok(),
            )
        }
    };
    // Several formats store 0 for dimensions that are not known yet.
    let known = |side: Option<u32>| side.filter(|&side| side > 0);
    Ok(MediaInfo {
        width: known(width),
        height: known(height),
        duration_ms: None,
    })
}

/// Maximum number of reads for an image header. `imagesize` follows segments and boxes without
/// limit, and a crafted file can consist of nothing else.
const MAX_READS: u32 = 2000;

/// A reader that reports the end of the file once it has used up its read budget.
struct ReadLimited<R> {
    reader: R,
    remaining: u32,
}

impl<R: Read> Read for ReadLimited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.remaining.checked_sub(1) {
            Some(remaining) => self.remaining = remaining,
            None => return Ok(0),
        }
        self.reader.read(buffer)
    }
}

impl<R: Seek> Seek for ReadLimited<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

/// Returns the media duration in milliseconds, or `None` if the step budget runs out or the value
/// is implausible.
pub(super) fn duration<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    media_type: &MediaType,
) -> io::Result<Option<u64>> {
    let duration = match media_type.name {
        "audio/mpeg" | "audio/aac" => audio::stream(source)?,
        "audio/x-wav" => audio::wav(source)?,
        "audio/x-aiff" => audio::aiff(source)?,
        "audio/x-caf" => audio::caf(source)?,
        "audio/amr" => audio::amr(source)?,
        "audio/x-m4a" | "video/mp4" | "video/x-m4v" | "video/quicktime" | "video/3gpp" => {
            mp4::duration(source)?
        }
        _ => None,
    };
    // The file size rules out some durations: no playable media has less than 100 bit/s.
    let bits = source.len().saturating_mul(8);
    Ok(duration.filter(|&millis| !source.is_exhausted() && millis > 0 && millis / 10 <= bits))
}
