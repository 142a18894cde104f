//! Reads PPM, the format in which `ffmpeg` outputs a decoded picture.

use std::io::{BufRead, BufReader, Read, Write};

use super::picture::{self, Channels, Error, Orientation, Picture, Samples, check_dimensions};

/// Maximum number of digits that a number in the PPM header may have.
const MAX_DIGITS: usize = 10;

/// Converts a binary PPM image (<https://netpbm.sourceforge.net/doc/ppm.html>) to JPEG, and applies
/// `orientation`.
pub(crate) fn to_jpeg(
    content: impl Read,
    orientation: Orientation,
    output: impl Write,
) -> Result<(), Error> {
    picture::encode(&read(BufReader::new(content))?, orientation, None, output)
}

fn read(mut content: impl BufRead) -> Result<Picture, Error> {
    let mut magic = [0; 2];
    content.read_exact(&mut magic).map_err(damaged)?;
    if magic != *b"P6" {
        return Err(damaged("no signature"));
    }
    let (width, height, maximum) = (
        number(&mut content)?,
        number(&mut content)?,
        number(&mut content)?,
    );
    check_dimensions(width, height)?;
    let length = width as usize * height as usize * Channels::Rgb.count();
    let samples = match maximum {
        255 => {
            let mut samples = vec![0; length];
            content.read_exact(&mut samples).map_err(damaged)?;
            Samples::U8(samples)
        }
        // A 16-bit sample takes two bytes, the more significant one first.
        65_535 => {
            let mut samples = Vec::with_capacity(length);
            let mut row = vec![0; 2 * length / height as usize];
            for _ in 0..height {
                content.read_exact(&mut row).map_err(damaged)?;
                let (row, _) = row.as_chunks::<2>();
                samples.extend(row.iter().map(|sample| u16::from_be_bytes(*sample)));
            }
            Samples::U16(samples)
        }
        _ => return Err(damaged("an unusual number of levels")),
    };
    Ok(Picture {
        width,
        height,
        channels: Channels::Rgb,
        samples,
        is_planar: false,
    })
}

/// Reads a number and the one blank after it from the header. Comments in the header are not
/// supported, because `ffmpeg` writes none.
fn number(content: &mut impl BufRead) -> Result<u32, Error> {
    let mut digits = String::new();
    loop {
        let mut byte = [0];
        content.read_exact(&mut byte).map_err(damaged)?;
        match byte[0] {
            digit @ b'0'..=b'9' if digits.len() < MAX_DIGITS => digits.push(digit.into()),
            blank if blank.is_ascii_whitespace() && digits.is_empty() => {}
            blank if blank.is_ascii_whitespace() => return digits.parse().map_err(damaged),
            _ => return Err(damaged("a header that is no number")),
        }
    }
}

fn damaged(problem: impl std::fmt::Display) -> Error {
    Error::Refused(format!("not a PPM image: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_and_two_bytes_are_read() {
        let picture = read(&b"P6\n2 1\n255\n\x01\x02\x03\x04\x05\x06"[..]).expect("a picture");
        assert_eq!((picture.width, picture.height), (2, 1));
        assert!(matches!(picture.samples, Samples::U8(samples) if samples == [1, 2, 3, 4, 5, 6]));
        let picture = read(&b"P6 1 1 65535 \x01\x02\x03\x04\x05\x06"[..]).expect("a picture");
        assert!(
            matches!(picture.samples, Samples::U16(samples) if samples == [0x102, 0x304, 0x506])
        );
    }

    #[test]
    fn other_files_are_refused() {
        for bytes in [
            b"".as_slice(),
            b"P6",
            b"P5\n1 1\n255\n\x01",
            b"P6\n1 1\n255\n\x01\x02",
            b"P6\n0 1\n255\n",
            b"P6\n1 1\n31\n\x01\x02\x03",
            b"P6\n-1 1\n255\n\x01\x02\x03",
            b"P6\n100000 100000\n255\n",
            b"P6\n00000000001 1\n255\n\x01\x02\x03",
            b"P6\n4294967296 1\n255\n",
        ] {
            assert!(
                matches!(read(bytes), Err(Error::Refused(_))),
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}
