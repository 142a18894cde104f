//! Encodes decoded pictures as JPEG.
//!
//! The encoder takes the picture row by row, and each row is converted on its own: to eight bits
//! per channel, without transparency, and turned upright. The whole picture is thus never copied.

use std::cell::RefCell;
use std::io::{self, Write};
use std::ops::Range;

use jpeg_encoder::{
    Encoder, EncodingError, ImageBuffer, JpegColorType, SamplingFactor, rgb_to_ycbcr,
};

/// Maximum number of pixels in a picture, enough for a large scan. Checked before decoding.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Maximum width and height of a JPEG in pixels (ITU-T T.81 section B.2.2).
const MAX_SIDE: u32 = 65_535;
/// JPEG quality out of 100: the level that cameras use.
const QUALITY: u8 = 90;

/// Reasons why a picture was not converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The picture is valid, but of a kind that the built-in decoder does not support.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The picture is damaged or exceeds the limits.
    #[error("{0}")]
    Refused(String),
    #[error("cannot write the JPEG: {0}")]
    Output(io::Error),
}

/// A decoded picture.
#[derive(Debug)]
pub(crate) struct Picture {
    pub width: u32,
    pub height: u32,
    pub channels: Channels,
    pub samples: Samples,
    /// Each channel is stored in a plane of its own, instead of alternating with the others.
    pub is_planar: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channels {
    Gray,
    Rgb,
    RgbAlpha,
    Cmyk,
}

#[derive(Debug)]
pub(crate) enum Samples {
    /// Eight one-bit samples per byte, the first in the highest bit. Each row starts at a byte
    /// boundary.
    Bits(Vec<u8>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    /// Samples from 0 to 1.
    F32(Vec<f32>),
}

/// How to turn a picture upright: the value of tag 274 in TIFF 6.0 and Exif, from 1 to 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Orientation(u8);

impl Orientation {
    pub(crate) const UPRIGHT: Self = Self(1);

    /// Converts the value of the orientation tag. Returns `None` for values that are not defined.
    pub(crate) fn from_tag(value: u32) -> Option<Self> {
        let value = u8::try_from(value).ok()?;
        (1..=8).contains(&value).then_some(Self(value))
    }

    pub(crate) fn tag(self) -> u8 {
        self.0
    }

    /// Returns true if turning the picture upright swaps its width and height.
    fn is_transposed(self) -> bool {
        self.0 >= 5
    }

    /// Returns the column and row that a pixel of the upright picture has in the stored picture.
    /// `width` and `height` are those of the stored picture.
    fn stored(self, x: u32, y: u32, width: u32, height: u32) -> (u32, u32) {
        let (right, bottom) = (width - 1, height - 1);
        match self.0 {
            2 => (right - x, y),
            3 => (right - x, bottom - y),
            4 => (x, bottom - y),
            5 => (y, x),
            6 => (y, bottom - x),
            7 => (right - y, bottom - x),
            8 => (right - y, x),
            _ => (x, y),
        }
    }
}

/// Checks that the dimensions of a picture are within the limits, before it is decoded.
pub(crate) fn check_dimensions(width: u32, height: u32) -> Result<(), Error> {
    if width == 0 || height == 0 {
        return Err(Error::Refused("a picture without pixels".to_owned()));
    }
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Error::Refused(format!(
            "{width} x {height} pixels are too many"
        )));
    }
    Ok(())
}

/// Encodes a picture as JPEG. The colour profile is embedded if it describes the colour space of
/// the JPEG.
pub(crate) fn encode(
    picture: &Picture,
    orientation: Orientation,
    profile: Option<Vec<u8>>,
    mut output: impl Write,
) -> Result<(), Error> {
    let mut encoder = Encoder::new(&mut output, QUALITY);
    // Chroma is not subsampled, because text in scans has coloured edges.
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    if let Some(profile) = profile.filter(|profile| picture.is_described_by(profile)) {
        // If the profile cannot be embedded, the colours are close without it.
        let _ = encoder.add_icc_profile(&profile);
    }
    encoder
        .encode_image(Upright::new(picture, orientation))
        .map_err(|error| match error {
            EncodingError::IoError(error) => Error::Output(error),
            error => Error::Refused(error.to_string()),
        })?;
    output.flush().map_err(Error::Output)
}

impl Picture {
    /// Returns true if there are enough samples for the width and height of the picture.
    pub(crate) fn is_complete(&self) -> bool {
        let (width, height) = (self.width as usize, self.height as usize);
        let count = width * height * self.channels.count();
        match &self.samples {
            Samples::Bits(bytes) => {
                self.channels == Channels::Gray && bytes.len() >= width.div_ceil(8) * height
            }
            Samples::U8(samples) => samples.len() >= count,
            Samples::U16(samples) => samples.len() >= count,
            Samples::U32(samples) => samples.len() >= count,
            Samples::F32(samples) => samples.len() >= count,
        }
    }

    /// Returns true if an ICC profile describes the colour space of the JPEG. The profile of a CMYK
    /// picture does not (ICC.1:2022 section 7.2.6).
    fn is_described_by(&self, profile: &[u8]) -> bool {
        let space: &[u8] = if self.channels == Channels::Gray {
            b"GRAY"
        } else {
            b"RGB "
        };
        profile.get(16..20) == Some(space)
    }

    /// Returns a sample, converted to eight bits.
    fn sample(&self, x: u32, y: u32, channel: usize) -> u8 {
        let (x, y, width) = (x as usize, y as usize, self.width as usize);
        let pixel = y * width + x;
        let index = if self.is_planar {
            channel * width * self.height as usize + pixel
        } else {
            pixel * self.channels.count() + channel
        };
        match &self.samples {
            Samples::Bits(bytes) => {
                let byte = bytes[y * width.div_ceil(8) + x / 8];
                if byte >> (7 - x % 8) & 1 == 1 { 255 } else { 0 }
            }
            Samples::U8(samples) => samples[index],
            Samples::U16(samples) => from_u16(samples[index]),
            Samples::U32(samples) => samples[index].to_be_bytes()[0],
            Samples::F32(samples) => from_f32(samples[index]),
        }
    }

    fn rgb(&self, x: u32, y: u32) -> [u8; 3] {
        if self.channels == Channels::Gray {
            return [self.sample(x, y, 0); 3];
        }
        let colour = [0, 1, 2].map(|channel| self.sample(x, y, channel));
        match self.channels {
            Channels::Gray | Channels::Rgb => colour,
            Channels::RgbAlpha => over_white(colour, self.sample(x, y, 3)),
            Channels::Cmyk => from_cmyk(colour, self.sample(x, y, 3)),
        }
    }
}

impl Channels {
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb => 3,
            Self::RgbAlpha | Self::Cmyk => 4,
        }
    }
}

fn from_u16(sample: u16) -> u8 {
    u8::try_from((u32::from(sample) + 128) / 257).unwrap_or(u8::MAX)
}

fn from_f32(sample: f32) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and 255"
    )]
    let sample = (sample.clamp(0.0, 1.0) * 255.0).round() as u8;
    sample
}

/// Composites a transparent colour onto white, as viewers do.
fn over_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u32::from(alpha);
    colour.map(|channel| {
        let blended = (u32::from(channel) * alpha + 255 * (255 - alpha)) / 255;
        u8::try_from(blended).unwrap_or(u8::MAX)
    })
}

fn from_cmyk(inks: [u8; 3], black: u8) -> [u8; 3] {
    let light = u32::from(255 - black);
    inks.map(|ink| {
        let product = u32::from(255 - ink) * light;
        u8::try_from((product + 127) / 255).unwrap_or(u8::MAX)
    })
}

/// Number of rows of a transposed picture that are converted together. These rows are columns in
/// the stored picture, and reading several columns at a time makes better use of the processor
/// caches.
const BAND: u16 = 16;

/// Supplies the upright rows of a picture to the encoder.
struct Upright<'a> {
    picture: &'a Picture,
    orientation: Orientation,
    band: RefCell<Band>,
}

/// Rows that were converted together.
#[derive(Default)]
struct Band {
    rows: Range<u16>,
    pixels: Vec<[u8; 3]>,
}

impl<'a> Upright<'a> {
    fn new(picture: &'a Picture, orientation: Orientation) -> Self {
        Self {
            picture,
            orientation,
            band: RefCell::default(),
        }
    }

    /// Converts a width or height to the encoder's integer type. It fits, because
    /// [`check_dimensions`] bounds it.
    fn side(length: u32) -> u16 {
        u16::try_from(length).expect("sides are at most 65,535")
    }

    /// Converts the band of rows that starts at row `y`.
    fn convert(&self, y: u16) -> Band {
        let Picture { width, height, .. } = *self.picture;
        let length = if self.orientation.is_transposed() {
            BAND.min(self.height() - y)
        } else {
            1
        };
        let row = usize::from(self.width());
        let mut pixels = vec![[0; 3]; usize::from(length) * row];
        for x in 0..self.width() {
            for n in 0..length {
                let (column, line) =
                    self.orientation
                        .stored(x.into(), (y + n).into(), width, height);
                pixels[usize::from(n) * row + usize::from(x)] = self.picture.rgb(column, line);
            }
        }
        Band {
            rows: y..y + length,
            pixels,
        }
    }
}

impl ImageBuffer for Upright<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        match self.picture.channels {
            Channels::Gray => JpegColorType::Luma,
            _ => JpegColorType::Ycbcr,
        }
    }

    fn width(&self) -> u16 {
        Self::side(if self.orientation.is_transposed() {
            self.picture.height
        } else {
            self.picture.width
        })
    }

    fn height(&self) -> u16 {
        Self::side(if self.orientation.is_transposed() {
            self.picture.width
        } else {
            self.picture.height
        })
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let mut band = self.band.borrow_mut();
        if !band.rows.contains(&y) {
            *band = self.convert(y);
        }
        let width = usize::from(self.width());
        let start = usize::from(y - band.rows.start) * width;
        for &[red, green, blue] in &band.pixels[start..start + width] {
            if self.picture.channels == Channels::Gray {
                buffers[0].push(red);
                continue;
            }
            let (luma, blue, red) = rgb_to_ycbcr(red, green, blue);
            buffers[0].push(luma);
            buffers[1].push(blue);
            buffers[2].push(red);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a picture of two columns and three rows, whose samples are 0 to 5.
    fn gray(samples: Samples) -> Picture {
        Picture {
            width: 2,
            height: 3,
            channels: Channels::Gray,
            samples,
            is_planar: false,
        }
    }

    #[test]
    fn orientation_moves_first_row_and_column_as_the_tag_says() {
        let picture = gray(Samples::U8((0..6).collect()));
        // TIFF 6.0, section "Orientation", defines where the 0th row and the 0th column appear on
        // screen.
        for (tag, expected) in [
            (1, [0, 1, 2, 3, 4, 5].as_slice()),
            (2, &[1, 0, 3, 2, 5, 4]),
            (3, &[5, 4, 3, 2, 1, 0]),
            (4, &[4, 5, 2, 3, 0, 1]),
            (5, &[0, 2, 4, 1, 3, 5]),
            (6, &[4, 2, 0, 5, 3, 1]),
            (7, &[5, 3, 1, 4, 2, 0]),
            (8, &[1, 3, 5, 0, 2, 4]),
        ] {
            let orientation = Orientation::from_tag(tag).expect("a defined value");
            let upright = Upright::new(&picture, orientation);
            let mut rows: [Vec<u8>; 4] = Default::default();
            for y in 0..upright.height() {
                upright.fill_buffers(y, &mut rows);
            }
            assert_eq!(rows[0], expected, "{tag}");
        }
        assert_eq!(Orientation::from_tag(0), None);
        assert_eq!(Orientation::from_tag(9), None);
    }

    #[test]
    fn samples_are_scaled_to_eight_bits() {
        for (samples, expected) in [
            (
                Samples::Bits(vec![0b1000_0000, 0, 0b0100_0000]),
                [255, 0, 0, 0, 0, 255],
            ),
            (
                Samples::U16(vec![0, 128, 129, 0x8000, 65_406, 65_535]),
                [0, 0, 1, 128, 254, 255],
            ),
            (
                Samples::U32(vec![
                    0,
                    0x00ff_ffff,
                    0x0100_0000,
                    1 << 31,
                    0xfeff_ffff,
                    u32::MAX,
                ]),
                [0, 0, 1, 128, 254, 255],
            ),
            (
                Samples::F32(vec![-1.0, 0.0, 0.5, 1.0, 2.0, f32::NAN]),
                [0, 0, 128, 255, 255, 0],
            ),
        ] {
            let picture = gray(samples);
            assert!(picture.is_complete());
            let found: Vec<u8> = (0..6).map(|n| picture.sample(n % 2, n / 2, 0)).collect();
            assert_eq!(found, expected, "{:?}", picture.samples);
        }
        assert!(!gray(Samples::U8(vec![0; 5])).is_complete());
        assert!(!gray(Samples::Bits(vec![0; 2])).is_complete());
    }

    #[test]
    fn planes_and_pixels_with_ink_or_alpha_become_rgb() {
        let pixel = |channels, samples: [u8; 8], is_planar| {
            let picture = Picture {
                width: 2,
                height: 1,
                channels,
                samples: Samples::U8(samples.to_vec()),
                is_planar,
            };
            picture.rgb(1, 0)
        };
        let chunky = [0, 0, 0, 0, 255, 100, 0, 51];
        let planar = [0, 255, 0, 100, 0, 0, 0, 51];
        assert_eq!(pixel(Channels::RgbAlpha, chunky, false), [255, 224, 204]);
        assert_eq!(pixel(Channels::RgbAlpha, planar, true), [255, 224, 204]);
        assert_eq!(pixel(Channels::Cmyk, chunky, false), [0, 124, 204]);
        assert_eq!(pixel(Channels::Cmyk, planar, true), [0, 124, 204]);
    }
}
