//! Determines the duration of audio files from the container's header, or by counting frames where
//! there is no container. Decodes nothing.

use crate::media::bounded_reader::BoundedReader;
use crate::media::chunks::{Layout, find};
use crate::media::frames::{self, Codec, Frame, frame};
use std::io::{self, Read, Seek};

/// Maximum number of frames that are counted: more than 26 hours of MP3 at 48 kHz.
const MAX_FRAMES: u32 = 4_000_000;

/// Converts a number of samples at `rate` per second to milliseconds. Returns `None` if the rate is
/// 0.
fn millis(samples: u64, rate: u64) -> Option<u64> {
    u64::try_from(u128::from(samples) * 1000 / u128::from(rate.max(1)))
        .ok()
        .filter(|_| rate > 0)
}

/// Returns the duration of a WAV file, also in its 64-bit form RF64 (EBU Tech 3306).
pub(in crate::media) fn wav<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<u64>> {
    let Some(format) = find(source, 12, Layout::Riff, *b"fmt ")?.map(|format| format.start) else {
        return Ok(None);
    };
    let Some(data) = find(source, 12, Layout::Riff, *b"data")? else {
        return Ok(None);
    };
    let available = source.len().saturating_sub(data.start);
    let ds64 = find(source, 12, Layout::Riff, *b"ds64")?;
    // Programs that write to a pipe cannot seek back to fill in the data size. They leave the
    // maximum value, or one that exceeds the file.
    let size = match ds64 {
        Some(ds64) if data.size == 0xffff_ffff => source
            .le64(ds64.start + 8)?
            .unwrap_or(u64::MAX)
            .min(available),
        _ => data.size.min(available),
    };
    let Some((codec, rate)) = source.le16(format)?.zip(source.le32(format + 4)?) else {
        return Ok(None);
    };
    let Some((speed, block)) = source.le32(format + 8)?.zip(source.le16(format + 12)?) else {
        return Ok(None);
    };
    let (speed, block) = (u64::from(speed), u64::from(block));
    // PCM, float, A-law and µ-law have one sample frame per block. So does the extensible format,
    // which in practice contains one of these.
    if matches!(codec, 1 | 3 | 6 | 7 | 0xfffe) && block > 0 {
        return Ok(millis(size / block, rate.into()));
    }
    // Files with compressed audio should state the number of samples in a `fact` chunk.
    let fact = match find(source, 12, Layout::Riff, *b"fact")? {
        Some(fact) if size == data.size => source.le32(fact.start)?.filter(|&samples| samples > 0),
        _ => None,
    };
    Ok(fact.map_or_else(
        || millis(size, speed),
        |samples| millis(samples.into(), rate.into()),
    ))
}

/// Returns the duration of an AIFF or AIFF-C file: the number of sample frames divided by the
/// sample rate.
pub(in crate::media) fn aiff<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<u64>> {
    let Some(common) = find(source, 12, Layout::Iff, *b"COMM")?.map(|common| common.start) else {
        return Ok(None);
    };
    let Some((frames, rate)) = source
        .be32(common + 2)?
        .zip(source.array::<10>(common + 8)?)
    else {
        return Ok(None);
    };
    // QuickTime's IMA codec counts packets of 64 samples instead of sample frames.
    let samples_per_frame = if source.at(common + 18, 4)? == b"ima4" {
        64
    } else {
        1
    };
    Ok(millis(
        u64::from(frames) * samples_per_frame,
        extended(rate),
    ))
}

/// Returns the integer part of an 80-bit extended-precision float (Motorola 68881): sign and
/// exponent, then the mantissa with its leading one.
fn extended(number: [u8; 10]) -> u64 {
    let [high, low, mantissa @ ..] = number;
    let exponent = u32::from(u16::from_be_bytes([high & 0x7f, low]));
    // Number of mantissa bits after the binary point.
    let behind = (16_383 + 63_u32).checked_sub(exponent);
    behind
        .and_then(|behind| u64::from_be_bytes(mantissa).checked_shr(behind))
        .unwrap_or(0)
}

/// Returns the duration of a CAF file (Apple Core Audio Format Specification), computed from the
/// frame count in the packet table or from the constant packet size.
pub(in crate::media) fn caf<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<u64>> {
    const DESCRIPTION_START: u64 = 20;
    let Some(rate) = source
        .be64(DESCRIPTION_START)?
        .map(f64::from_bits)
        .filter(|rate| (1.0..=1e7).contains(rate))
    else {
        return Ok(None);
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 1,000 and 10,000,000,000"
    )]
    let rate = (rate * 1000.0) as u64;
    let mut frames = None;
    if let Some(table) = find(source, 8, Layout::Caf, *b"pakt")? {
        frames = source.be64(table.start + 8)?.filter(|&frames| frames > 0);
    }
    if frames.is_none()
        && let Some(data) = find(source, 8, Layout::Caf, *b"data")?
        && let Some((bytes, samples_per_frame)) = source
            .be32(DESCRIPTION_START + 16)?
            .zip(source.be32(DESCRIPTION_START + 20)?)
    {
        // An interrupted recording has the data size -1, which as an unsigned number exceeds the
        // file. The data starts with a 4-byte edit counter.
        let size = data
            .size
            .min(source.len().saturating_sub(data.start))
            .saturating_sub(4);
        frames = size
            .checked_div(bytes.into())
            .and_then(|packets| packets.checked_mul(samples_per_frame.into()));
    }
    Ok(frames.and_then(|frames| millis(frames.checked_mul(1000)?, rate)))
}

/// Returns the duration of an AMR file, 20 ms per frame (RFC 4867 section 5), or `None` for a
/// multichannel file.
pub(in crate::media) fn amr<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<u64>> {
    let Some((mut at, sizes)) = frames::amr_start(source.at(0, 16)?).filter(|(at, _)| *at < 16)
    else {
        return Ok(None);
    };
    let mut frames = 0;
    while frames < MAX_FRAMES
        && let Some([header]) = source.array(at)?
    {
        let size = sizes[usize::from(header >> 3 & 15)];
        at += u64::from(size);
        if size == 0 || at > source.len() {
            break;
        }
        frames += 1;
    }
    Ok(Some(u64::from(frames) * 20))
}

/// Returns the duration of a bare MP3 or ADTS stream, as announced in its first frame or by
/// counting frames.
pub(in crate::media) fn stream<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<u64>> {
    let start = frames::untagged(source)?;
    let Some((start, first)) = frames::first(source, start)? else {
        return Ok(None);
    };
    let rate = u64::from(first.rate);
    if let Some(samples) = announced(source, start, first)? {
        let announced = millis(samples, rate);
        // The lowest bit rate is 8 kbit/s, one byte per millisecond, so an announced duration of
        // more milliseconds than the file has bytes is false.
        if announced.is_some_and(|millis| millis <= source.len()) {
            return Ok(announced);
        }
    }
    let (mut at, mut samples, mut gaps) = (start, 0, 0);
    for _ in 0..MAX_FRAMES {
        match frame(source.at(at, 7)?)
            .filter(|frame| frame.codec == first.codec && frame.rate == first.rate)
        {
            Some(frame) => {
                at += u64::from(frame.size);
                // A truncated last frame is not counted, because it cannot be played.
                if at > source.len() {
                    break;
                }
                samples += u64::from(frame.samples);
            }
            // Concatenated recordings have tags and stray bytes between them, which are skipped.
            None if gaps < 20 => {
                match frames::first(source, at)?.filter(|(_, next)| next.codec == first.codec) {
                    Some((next, _)) => {
                        gaps += 1;
                        at = next;
                    }
                    None => break,
                }
            }
            None => break,
        }
    }
    Ok(millis(samples, rate))
}

/// Returns the number of samples that a header in a silent first frame announces. It is a VBRI
/// header, or a Xing or Info header, whose count is reduced by the padding that LAME reports for
/// both ends (<http://gabriel.mp3-tech.org/mp3infotag.html>).
fn announced<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    start: u64,
    first: Frame,
) -> io::Result<Option<u64>> {
    let Codec::Mpeg { version, layer: 3 } = first.codec else {
        return Ok(None);
    };
    let side = match (version, first.mono) {
        (10, false) => 32,
        (10, true) | (_, false) => 17,
        _ => 9,
    };
    let samples_per_frame = u64::from(first.samples);
    if source.at(start + 36, 4)? == b"VBRI" {
        return Ok(source
            .be32(start + 36 + 14)?
            .map(|frames| u64::from(frames) * samples_per_frame));
    }
    let header = start + 4 + side;
    if !matches!(source.at(header, 4)?, b"Xing" | b"Info") {
        return Ok(None);
    }
    let flags = source.be32(header + 4)?.unwrap_or(0);
    let Some(frames) = source
        .be32(header + 8)?
        .filter(|&frames| flags & 1 != 0 && frames > 0)
    else {
        return Ok(None);
    };
    let fields = [(1, 4), (2, 4), (4, 100), (8, 4)];
    let encoder = header
        + 8
        + fields
            .iter()
            .filter(|(bit, _)| flags & bit != 0)
            .map(|(_, size)| size)
            .sum::<u64>();
    let added = match source.at(encoder, 24)? {
        [b'L', b'A', b'M' | b'v', b'E' | b'f' | b'c', rest @ ..] if rest.len() == 20 => {
            let [a, b, c] = [rest[17], rest[18], rest[19]].map(u64::from);
            (a << 4 | b >> 4) + ((b & 15) << 8 | c)
        }
        _ => 0,
    };
    Ok(Some(
        (u64::from(frames) * samples_per_frame).saturating_sub(added),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_precision_rates_are_converted() {
        for (bytes, expected) in [
            ([0x40, 0x0e, 0xac, 0x44, 0, 0, 0, 0, 0, 0], 44_100),
            ([0x40, 0x0b, 0xfa, 0, 0, 0, 0, 0, 0, 0], 8000),
            ([0x3f, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], 1),
            ([0; 10], 0),
            ([0xff; 10], 0),
        ] {
            assert_eq!(extended(bytes), expected, "{bytes:x?}");
        }
    }
}
