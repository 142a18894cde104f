//! Whether bytes are text, and what the text starts like. Reads the whole file, a piece at a time.

use super::markup;
use super::sniff::TextKind;
use super::source::{Source, fill};
use serde::de::IgnoredAny;
use std::io::{self, BufReader, ErrorKind, Read, Seek};

/// How much of the start is looked at to tell what kind of text it is; the root element of a drawing may come after
/// pages of licence.
const START: usize = 64 * 1024;

/// The kind of text, or `None` for what is no text: no UTF-16 with a mark, and bytes of no character set.
pub(super) fn identify<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Option<TextKind>> {
    let mark = source.array::<2>(0)?;
    let wide = match mark {
        Some([0xff, 0xfe]) => Some(true),
        Some([0xfe, 0xff]) => Some(false),
        _ => None,
    };
    let whole = match wide {
        Some(little) => utf16(source.from(2)?, little)?,
        None => bytes(source.from(0)?)?,
    };
    if !whole {
        return Ok(None);
    }
    let mut start = vec![0; START];
    let filled = fill(source.from(0)?, &mut start)?;
    start.truncate(filled);
    let start = match wide {
        Some(little) => decode(&start[2..], little),
        None => String::from_utf8_lossy(&start).into_owned(),
    };
    kind(source, start.trim_start_matches('\u{feff}')).map(Some)
}

/// Whether a byte is a control character that no text has, after the WHATWG's list of binary data bytes
/// (<https://mimesniff.spec.whatwg.org/#binary-data-byte>).
const fn binary(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f)
}

/// Whether a stream is free of control characters. That holds for UTF-8 and for all 8-bit and East Asian sets alike;
/// which of them it is does not matter here.
fn bytes(reader: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; START];
    loop {
        let filled = fill(reader, &mut buffer)?;
        let piece = &buffer[..filled];
        // No early exit within a piece, so that the compiler can check many bytes at once.
        if piece.iter().fold(false, |found, &byte| found | binary(byte)) {
            // DOS ended its files with 1A.
            let last = filled < START && piece.ends_with(&[0x1a]);
            return Ok(last && !piece[..filled - 1].iter().any(|&byte| binary(byte)));
        }
        if filled < START {
            return Ok(true);
        }
    }
}

/// Whether a stream is UTF-16 without control characters and with its surrogates in pairs.
fn utf16(reader: &mut impl Read, little: bool) -> io::Result<bool> {
    let mut buffer = vec![0; START];
    let mut high = false;
    loop {
        let filled = fill(reader, &mut buffer)?;
        let (units, odd) = buffer[..filled].as_chunks::<2>();
        for &unit in units {
            let unit = if little { u16::from_le_bytes(unit) } else { u16::from_be_bytes(unit) };
            let low = matches!(unit, 0xdc00..=0xdfff);
            if high != low || u8::try_from(unit).is_ok_and(binary) || unit == 0xffff {
                return Ok(false);
            }
            high = matches!(unit, 0xd800..=0xdbff);
        }
        if filled < START {
            return Ok(odd.is_empty() && !high);
        }
    }
}

fn decode(bytes: &[u8], little: bool) -> String {
    let (units, _) = bytes.as_chunks::<2>();
    let unit = |&unit| if little { u16::from_le_bytes(unit) } else { u16::from_be_bytes(unit) };
    char::decode_utf16(units.iter().map(unit)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// What text that starts so is.
fn kind<R: Read + Seek>(source: &mut Source<R>, start: &str) -> io::Result<TextKind> {
    let text = start.trim_start();
    if begins(text, "VCARD") {
        return Ok(TextKind::Vcard);
    }
    if begins(text, "VCALENDAR") {
        return Ok(TextKind::Calendar);
    }
    match text.bytes().next() {
        Some(b'<') => {
            let tail = source.len().saturating_sub(256);
            let closed =
                source.at(tail, 256)?.iter().rev().find(|byte| !matches!(byte, 0 | b' ' | b'\r' | b'\n' | b'\t'));
            let closed = closed == Some(&b'>');
            Ok(markup::kind(text, closed))
        }
        Some(b'{' | b'[') if json(source)? => Ok(TextKind::Json),
        Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') if json(source)? => Ok(TextKind::Scalar),
        _ => Ok(TextKind::Plain),
    }
}

/// Whether text starts with the line `BEGIN:name`, in any case (RFC 6350 section 3.3, RFC 5545 section 3.1).
fn begins(text: &str, name: &str) -> bool {
    let Some((begin, rest)) = text.split_once(':').filter(|(begin, _)| begin.trim_end().eq_ignore_ascii_case("BEGIN"))
    else {
        return false;
    };
    let _ = begin;
    rest.lines().next().is_some_and(|line| line.trim().eq_ignore_ascii_case(name))
}

/// Whether the whole file is one JSON value (RFC 8259), after a byte order mark if there is one.
fn json<R: Read + Seek>(source: &mut Source<R>) -> io::Result<bool> {
    let from = if source.at(0, 3)? == b"\xef\xbb\xbf" { 3 } else { 0 };
    let reader = BufReader::with_capacity(START, source.from(from)?);
    match serde_json::from_reader::<_, IgnoredAny>(reader) {
        Ok(_) => Ok(true),
        // A stop for other reasons than the text.
        Err(error) if error.io_error_kind().is_some_and(|kind| kind != ErrorKind::UnexpectedEof) => Err(error.into()),
        Err(_) => Ok(false),
    }
}
