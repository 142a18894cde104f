//! Converts the first page of a TIFF image to JPEG, with its orientation applied.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::pnm::PnmDecoder;
use image::codecs::tiff::TiffDecoder;
use image::error::{LimitError, LimitErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageResult, Limits};

/// Maximum number of pixels of an image to convert: a large scan. Checked before decoding.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Maximum width and height of a JPEG in pixels (ITU-T T.81 section B.2.2).
const MAX_SIDE: u32 = 65_535;
/// Maximum size of a decoded image in bytes: four 16-bit channels per pixel. The decoder process has a
/// memory limit of its own.
const MAX_MEMORY: u64 = MAX_PIXELS * 8;
/// JPEG quality out of 100: the level that cameras use.
const QUALITY: u8 = 90;

/// Converts a TIFF image to JPEG.
pub(crate) fn to_jpeg(content: impl Read + Seek, output: impl Write) -> ImageResult<()> {
    let mut decoder = TiffDecoder::new(BufReader::new(content))?;
    bound(&mut decoder)?;
    let orientation = decoder.orientation()?;
    let profile = decoder.icc_profile()?;
    let picture = DynamicImage::from_decoder(decoder)?;
    encode(picture, orientation, profile, output)
}

/// Converts an image that another program decoded to PNM, and applies `orientation`.
pub(crate) fn decoded_to_jpeg(
    pnm: File,
    orientation: Orientation,
    output: impl Write,
) -> ImageResult<()> {
    let mut decoder = PnmDecoder::new(BufReader::new(pnm))?;
    bound(&mut decoder)?;
    encode(
        DynamicImage::from_decoder(decoder)?,
        orientation,
        None,
        output,
    )
}

/// Reads the orientation of a TIFF image (TIFF 6.0 tag 274, with the values of Exif).
pub(crate) fn orientation(content: &mut (impl Read + Seek)) -> Orientation {
    let read = || {
        content.rewind().ok()?;
        let mut tags = tiff::decoder::Decoder::new(BufReader::new(content)).ok()?;
        let value = tags.get_tag_u32(tiff::tags::Tag::Orientation).ok()?;
        Orientation::from_exif(u8::try_from(value).ok()?)
    };
    read().unwrap_or(Orientation::NoTransforms)
}

/// Checks the dimensions in the header and caps allocations, before anything is decoded.
fn bound(decoder: &mut impl ImageDecoder) -> ImageResult<()> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY);
    decoder.set_limits(limits)?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::Limits(LimitError::from_kind(
            LimitErrorKind::DimensionError,
        )));
    }
    Ok(())
}

fn encode(
    mut picture: DynamicImage,
    orientation: Orientation,
    profile: Option<Vec<u8>>,
    mut output: impl Write,
) -> ImageResult<()> {
    picture.apply_orientation(orientation);
    // Consume the decoded image: at most two copies fit in memory at a time.
    let picture = opaque(picture);
    let mut encoder = JpegEncoder::new_with_quality(&mut output, QUALITY);
    if let Some(profile) = profile.filter(|profile| is_profile_of(profile, &picture)) {
        use image::ImageEncoder;
        // If the profile cannot be embedded, the colours are close without it.
        let _ = encoder.set_icc_profile(profile);
    }
    encoder.encode_image(&picture)?;
    Ok(output.flush()?)
}

/// Converts to what JPEG supports: 8 bits per channel and no transparency. Transparent pixels are
/// composited onto white, as in viewers.
fn opaque(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return if picture.color().has_color() {
            picture.into_rgb8().into()
        } else {
            picture.into_luma8().into()
        };
    }
    let mut picture = picture.into_rgba8();
    for pixel in picture.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0.map(u32::from);
        let over_white = |channel: u32| {
            u8::try_from((channel * alpha + 255 * (255 - alpha)) / 255).unwrap_or(u8::MAX)
        };
        pixel.0 = [
            over_white(red),
            over_white(green),
            over_white(blue),
            u8::MAX,
        ];
    }
    DynamicImage::from(picture).into_rgb8().into()
}

/// Returns true if an ICC profile is for the colour space of the converted image; that of a CMYK image is
/// not (ICC.1:2022 section 7.2.6).
fn is_profile_of(profile: &[u8], picture: &DynamicImage) -> bool {
    let space: &[u8] = if picture.color().has_color() {
        b"RGB "
    } else {
        b"GRAY"
    };
    profile.get(16..20) == Some(space)
}
