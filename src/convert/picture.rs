//! TIFF as JPEG: the first page, upright.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::pnm::PnmDecoder;
use image::codecs::tiff::TiffDecoder;
use image::error::{LimitError, LimitErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageResult, Limits};

/// Most pixels of a picture that is converted: a large scan. Checked before anything is decoded.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Longest side of a JPEG (ITU-T T.81 section B.2.2).
const MAX_SIDE: u32 = 65_535;
/// Most bytes of a decoded picture: 16 bits of four channels for each pixel. The process has a limit of its own.
const MAX_MEMORY: u64 = MAX_PIXELS * 8;
/// Of 100; what cameras use.
const QUALITY: u8 = 90;

/// Converts a TIFF picture.
pub(super) fn to_jpeg(content: impl Read + Seek, output: impl Write) -> ImageResult<()> {
    let mut decoder = TiffDecoder::new(BufReader::new(content))?;
    bound(&mut decoder)?;
    let orientation = decoder.orientation()?;
    let profile = decoder.icc_profile()?;
    let picture = DynamicImage::from_decoder(decoder)?;
    encode(picture, orientation, profile, output)
}

/// Converts a picture that another program decoded into PNM, and turns it upright.
pub(super) fn decoded_to_jpeg(pnm: File, orientation: Orientation, output: impl Write) -> ImageResult<()> {
    let mut decoder = PnmDecoder::new(BufReader::new(pnm))?;
    bound(&mut decoder)?;
    encode(DynamicImage::from_decoder(decoder)?, orientation, None, output)
}

/// Reads the orientation of a TIFF picture (TIFF 6.0 tag 274, counted as in Exif).
pub(super) fn orientation(content: &mut (impl Read + Seek)) -> Orientation {
    let read = || {
        content.rewind().ok()?;
        let mut tags = tiff::decoder::Decoder::new(BufReader::new(content)).ok()?;
        let value = tags.get_tag_u32(tiff::tags::Tag::Orientation).ok()?;
        Orientation::from_exif(u8::try_from(value).ok()?)
    };
    read().unwrap_or(Orientation::NoTransforms)
}

/// Whatever a picture says of itself is looked at before it is decoded.
fn bound(decoder: &mut impl ImageDecoder) -> ImageResult<()> {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY);
    decoder.set_limits(limits)?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(ImageError::Limits(LimitError::from_kind(LimitErrorKind::DimensionError)));
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
    // Two forms at a time are as much as may be in memory.
    let picture = opaque(picture);
    let mut encoder = JpegEncoder::new_with_quality(&mut output, QUALITY);
    if let Some(profile) = profile.filter(|profile| is_profile_of(profile, &picture)) {
        use image::ImageEncoder;
        // A profile that cannot be embedded is one that the colours are near without.
        let _ = encoder.set_icc_profile(profile);
    }
    encoder.encode_image(&picture)?;
    Ok(output.flush()?)
}

/// JPEG has 8 bits a channel and no transparency. What can be seen through is put on white, as viewers show it.
fn opaque(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return if picture.color().has_color() { picture.into_rgb8().into() } else { picture.into_luma8().into() };
    }
    let mut picture = picture.into_rgba8();
    for pixel in picture.pixels_mut() {
        let [red, green, blue, alpha] = pixel.0.map(u32::from);
        let over_white = |channel: u32| u8::try_from((channel * alpha + 255 * (255 - alpha)) / 255).unwrap_or(u8::MAX);
        pixel.0 = [over_white(red), over_white(green), over_white(blue), u8::MAX];
    }
    DynamicImage::from(picture).into_rgb8().into()
}

/// Whether a profile is for the colours that the picture has now: that of CMYK is for ink (ICC.1:2022 section 7.2.6).
fn is_profile_of(profile: &[u8], picture: &DynamicImage) -> bool {
    let space: &[u8] = if picture.color().has_color() { b"RGB " } else { b"GRAY" };
    profile.get(16..20) == Some(space)
}
