//! Converts the first page of a TIFF file to JPEG.

use std::io::{BufReader, Read, Seek, Write};

use tiff::decoder::{Decoder, DecodingResult, DecodingSampleType, Limits};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::picture::{self, Channels, Error, Orientation, Picture, Samples, check_dimensions};

/// Memory budget in bytes for a decoded picture with four 16-bit channels per pixel, and for the
/// buffers needed to decode it. The decoder process has a memory limit of its own.
const MAX_MEMORY: u64 = picture::MAX_PIXELS * 8 + 64 * 1024 * 1024;

/// Converts the first page of a TIFF image to JPEG.
pub(crate) fn to_jpeg(content: impl Read + Seek, output: impl Write) -> Result<(), Error> {
    let mut decoder = Decoder::new(BufReader::new(content))?;
    let (width, height) = decoder.dimensions()?;
    check_dimensions(width, height)?;
    let color = decoder.colortype()?;
    let channels = channels(color).ok_or_else(|| unsupported(&color))?;
    let layout = decoder.image_buffer_layout()?;
    if !matches!(
        layout.sample_type,
        Some(
            DecodingSampleType::U8
                | DecodingSampleType::U16
                | DecodingSampleType::U32
                | DecodingSampleType::F32
        )
    ) {
        return Err(unsupported(&layout.sample_format));
    }
    let mut decoder = decoder.with_limits(limits(layout.complete_len)?);
    let orientation = read_orientation(&mut decoder)?;
    let profile = decoder.get_tag_u8_vec(Tag::IccProfile).ok();
    let mut samples = DecodingResult::U8(Vec::new());
    decoder.read_image_to_buffer(&mut samples)?;
    let picture = Picture {
        width,
        height,
        channels,
        samples: match samples {
            DecodingResult::U8(bytes) if color == ColorType::Gray(1) => Samples::Bits(bytes),
            DecodingResult::U8(samples) => Samples::U8(samples),
            DecodingResult::U16(samples) => Samples::U16(samples),
            DecodingResult::U32(samples) => Samples::U32(samples),
            DecodingResult::F32(samples) => Samples::F32(samples),
            _ => return Err(unsupported(&layout.sample_format)),
        },
        is_planar: layout.planes > 1,
    };
    drop(decoder);
    if !picture.is_complete() {
        return Err(Error::Refused("not all of its planes are there".to_owned()));
    }
    picture::encode(&picture, orientation, profile, output)
}

/// Reads the orientation of a TIFF image, which is upright if the image states none.
pub(crate) fn orientation(content: &mut (impl Read + Seek)) -> Orientation {
    let read = || {
        content.rewind()?;
        read_orientation(&mut Decoder::new(BufReader::new(content))?)
    };
    read().unwrap_or(Orientation::UPRIGHT)
}

fn read_orientation<R: Read + Seek>(decoder: &mut Decoder<R>) -> Result<Orientation, TiffError> {
    let value = decoder.find_tag(Tag::Orientation)?;
    let value = value.and_then(|value| value.into_u32().ok());
    Ok(value
        .and_then(Orientation::from_tag)
        .unwrap_or(Orientation::UPRIGHT))
}

/// Maps a TIFF colour type to the channels of a picture. Returns `None` for colours that are not
/// decoded here, such as palettes, YCbCr and Lab.
fn channels(color: ColorType) -> Option<Channels> {
    Some(match color {
        ColorType::Gray(1 | 8 | 16) => Channels::Gray,
        ColorType::RGB(8 | 16 | 32) => Channels::Rgb,
        ColorType::RGBA(8 | 16 | 32) => Channels::RgbAlpha,
        ColorType::CMYK(8 | 16) => Channels::Cmyk,
        _ => return None,
    })
}

/// Returns the decoder's memory limits for a picture of `size` bytes.
fn limits(size: usize) -> Result<Limits, Error> {
    let left = MAX_MEMORY
        .checked_sub(size as u64)
        .and_then(|left| usize::try_from(left).ok())
        .ok_or_else(|| Error::Refused(format!("{size} bytes of samples are too many")))?;
    let mut limits = Limits::default();
    limits.decoding_buffer_size = size;
    limits.intermediate_buffer_size = left;
    limits.ifd_value_size = left;
    Ok(limits)
}

fn unsupported(kind: &impl std::fmt::Debug) -> Error {
    Error::Unsupported(format!("{kind:?}"))
}

impl From<TiffError> for Error {
    fn from(error: TiffError) -> Self {
        match error {
            TiffError::UnsupportedError(error) => Self::Unsupported(error.to_string()),
            error => Self::Refused(error.to_string()),
        }
    }
}
