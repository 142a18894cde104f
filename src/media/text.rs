//! Detects text, and classifies it by how it starts. Reads the whole file, one block at a time.

use super::bounded_reader::{BoundedReader, fill};
use super::sniff::TextKind;
use super::{json, markup};
use std::io::{self, Read, Seek};

/// Size in bytes of a block, and of the prefix by which text is classified.
pub(super) const BLOCK: usize = 64 * 1024;
/// Size in bytes of the prefix by which markup is classified. It is larger, because the root
/// element of a drawing may follow pages of licence text.
const MARKUP_PREFIX: usize = 1024 * 1024;

/// The byte order mark in UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The end-of-file character (Ctrl-Z) at the end of DOS text files.
pub(super) const DOS_END: u8 = 0x1a;

/// Returns the kind of text in the file. Returns `None` if the file is not text: neither UTF-16
/// with a byte order mark nor free of binary control characters.
pub(super) fn identify<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<TextKind>> {
    let mark = source.array::<2>(0)?;
    // `Some(true)` means little-endian UTF-16, `Some(false)` big-endian, and `None` an 8-bit
    // encoding.
    let utf16 = match mark {
        Some([0xff, 0xfe]) => Some(true),
        Some([0xfe, 0xff]) => Some(false),
        _ => None,
    };
    let is_text = match utf16 {
        Some(little) => is_utf16_text(source.stream_from(2)?, little)?,
        None => is_byte_text(source.stream_from(0)?)?,
    };
    if !is_text {
        return Ok(None);
    }
    let leading_blanks =
        |text: &str| text.len() - text.trim_start_matches('\u{feff}').trim_start().len();
    let mut text = start(source, BLOCK, utf16)?;
    if text[leading_blanks(&text)..].starts_with('<') {
        text = start(source, MARKUP_PREFIX, utf16)?;
    }
    classify(source, &text[leading_blanks(&text)..], utf16).map(Some)
}

/// Decodes the first `length` bytes of the file as text.
fn start<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    length: usize,
    utf16: Option<bool>,
) -> io::Result<String> {
    let mut start = vec![0; length];
    let filled = fill(source.stream_from(0)?, &mut start)?;
    let start = &start[..filled];
    Ok(match utf16 {
        Some(little) => decode(start.get(2..).unwrap_or_default(), little),
        None => String::from_utf8_lossy(start).into_owned(),
    })
}

/// Returns true for control characters that do not occur in text: the WHATWG's binary data bytes
/// (<https://mimesniff.spec.whatwg.org/#binary-data-byte>) except the vertical tab, which databases
/// export for line breaks within a cell.
///
/// Escape counts as text, because Japanese mail (ISO-2022-JP) uses it. ISO-2022-KR, which shifts
/// with 0E and 0F, is rejected; it has long been out of use.
const fn binary(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0e..=0x1a | 0x1c..=0x1f)
}

/// Returns true if a stream is free of binary control characters, which holds for UTF-8 and for all
/// 8-bit and East Asian encodings. A final DOS end-of-file character is allowed.
fn is_byte_text(reader: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; BLOCK];
    loop {
        let filled = fill(reader, &mut buffer)?;
        let piece = &buffer[..filled];
        // There is no early exit within a block, so that the compiler can vectorise the check.
        if piece
            .iter()
            .fold(false, |found, &byte| found | binary(byte))
        {
            let last = filled < BLOCK && piece.ends_with(&[DOS_END]);
            return Ok(last && !piece[..filled - 1].iter().any(|&byte| binary(byte)));
        }
        if filled < BLOCK {
            return Ok(true);
        }
    }
}

/// Returns true if a stream is UTF-16 without binary control characters and with all surrogates
/// paired.
fn is_utf16_text(reader: &mut impl Read, little: bool) -> io::Result<bool> {
    let mut buffer = vec![0; BLOCK];
    let mut high = false;
    loop {
        let filled = fill(reader, &mut buffer)?;
        let (units, odd) = buffer[..filled].as_chunks::<2>();
        for &unit in units {
            let unit = if little {
                u16::from_le_bytes(unit)
            } else {
                u16::from_be_bytes(unit)
            };
            let low = matches!(unit, 0xdc00..=0xdfff);
            if high != low || u8::try_from(unit).is_ok_and(binary) || unit == 0xffff {
                return Ok(false);
            }
            high = matches!(unit, 0xd800..=0xdbff);
        }
        if filled < BLOCK {
            return Ok(odd.is_empty() && !high);
        }
    }
}

pub(super) fn utf16_units(bytes: &[u8], little: bool) -> impl Iterator<Item = u16> {
    let (units, _) = bytes.as_chunks::<2>();
    units.iter().map(move |&unit| {
        if little {
            u16::from_le_bytes(unit)
        } else {
            u16::from_be_bytes(unit)
        }
    })
}

fn decode(bytes: &[u8], little: bool) -> String {
    let characters = char::decode_utf16(utf16_units(bytes, little));
    characters
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// Classifies text by how it starts.
fn classify<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    text: &str,
    utf16: Option<bool>,
) -> io::Result<TextKind> {
    if begins(text, "VCARD") {
        return Ok(TextKind::Vcard);
    }
    if begins(text, "VCALENDAR") {
        return Ok(TextKind::Calendar);
    }
    match text.bytes().next() {
        Some(b'<') => {
            let tail = source.len().saturating_sub(256);
            let blank = |byte: &u8| matches!(byte, 0 | b' ' | b'\r' | b'\n' | b'\t' | &DOS_END);
            let closed =
                source.at(tail, 256)?.iter().rev().find(|byte| !blank(byte)) == Some(&b'>');
            Ok(markup::kind(text, closed))
        }
        Some(b'{' | b'[') if json::is_json(source, utf16)? => Ok(TextKind::Json),
        Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') if json::is_json(source, utf16)? => {
            Ok(TextKind::Scalar)
        }
        _ => Ok(markup::within(text)),
    }
}

/// Returns true if text starts with the line `BEGIN:name`, ignoring case (RFC 6350 section 3.3, RFC
/// 5545 section 3.1).
fn begins(text: &str, name: &str) -> bool {
    text.split_once(':').is_some_and(|(begin, rest)| {
        // Line ends are CR or LF, because classic Mac OS ends lines with CR alone.
        let line = rest.split(['\r', '\n']).next().unwrap_or_default();
        begin.trim_end().eq_ignore_ascii_case("BEGIN") && line.trim().eq_ignore_ascii_case(name)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Cursor;

    pub(in crate::media) fn found(bytes: impl AsRef<[u8]>) -> Option<TextKind> {
        identify(&mut BoundedReader::new(Cursor::new(bytes)).expect("in-memory I/O"))
            .expect("in-memory I/O")
    }

    #[test]
    fn control_character_anywhere_makes_text_binary() {
        let long = "caf\u{e9} ".repeat(50_000).into_bytes();
        assert_eq!(found(&long), Some(TextKind::Plain));
        for at in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, long.len() - 1] {
            for control in [0x00, 0x01, 0x08, 0x0e, 0x1a, 0x1f] {
                let mut broken = long.clone();
                broken[at] = control;
                let ends_like_dos = control == 0x1a && at == long.len() - 1;
                assert_eq!(
                    found(&broken).is_some(),
                    ends_like_dos,
                    "{control:#04x} at {at}"
                );
            }
        }
    }

    #[test]
    fn all_encodings_are_text_except_utf16_without_byte_order_mark() {
        for text in [
            b"na\xefve".as_slice(),
            b"\xef\xbb\xbfa",
            b"\x83\x65\x83\x58\x83\x67",
            b"\x1b$B%F%9%H\x1b(B",
            b"a\tb\x0bc\x0cd\r\n",
            b"\xff\xfea\0",
            b"\xfe\xff\0a",
            b"\xff\xfe\x3d\xd8\x00\xde",
        ] {
            assert_eq!(found(text), Some(TextKind::Plain), "{text:x?}");
        }
        for other in [
            b"a\0b\0".as_slice(),
            b"\xff\xfea",
            b"\xff\xfea\0b",
            b"\xff\xfe\0\0",
            b"\x1b$)C\x0e1[1[\x0f",
            b"\xff\xfe\x3d\xd8",
            b"\xff\xfe\x00\xde\x3d\xd8",
            b"\xff\xfe\x01\0",
        ] {
            assert_eq!(found(other), None, "{other:x?}");
        }
    }

    #[test]
    fn surrogate_pair_across_two_blocks_is_text() {
        let mut text = b"\xff\xfe".to_vec();
        text.extend(b"a\0".repeat(BLOCK / 2 - 1));
        text.extend(b"\x3d\xd8\x00\xde");
        assert_eq!(found(&text), Some(TextKind::Plain));
    }

    #[test]
    fn text_is_classified_by_its_start() {
        for (text, expected) in [
            ("BEGIN:VCARD\r\nVERSION:3.0\r\n", TextKind::Vcard),
            ("\u{feff}\r\n begin:vcard", TextKind::Vcard),
            ("BEGIN: VCARD \n", TextKind::Vcard),
            ("\u{feff}\u{feff}\nBEGIN:VCARD\n", TextKind::Vcard),
            ("BEGIN:VCARD\rVERSION:3.0\rEND:VCARD\r", TextKind::Vcard),
            ("\rBEGIN:VCALENDAR\rVERSION:2.0\r", TextKind::Calendar),
            ("BEGIN:VCALENDAR\n", TextKind::Calendar),
            ("BEGIN:VCARDS\n", TextKind::Plain),
            ("BEGIN THE BEGUINE: VCARD", TextKind::Plain),
            ("BEGIN", TextKind::Plain),
            (" {\"a\": [1, null]} \n", TextKind::Json),
            ("\u{feff}[]", TextKind::Json),
            ("{\"a\": 1} {\"b\": 2}", TextKind::Plain),
            ("[section]\nkey = 1", TextKind::Plain),
            ("{", TextKind::Plain),
            ("\"quoted\"", TextKind::Scalar),
            ("-1.5e300", TextKind::Scalar),
            ("1,2,3", TextKind::Plain),
            ("nothing", TextKind::Plain),
            ("{% extends %}\n<p>", TextKind::Mixed),
            ("1 <b>2</b>", TextKind::Mixed),
            ("a < b, <c> and <", TextKind::Plain),
            ("", TextKind::Plain),
            (" \n", TextKind::Plain),
        ] {
            assert_eq!(found(text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn trailing_dos_end_of_file_character_is_ignored() {
        assert_eq!(found(b"{}\r\n\x1a"), Some(TextKind::Json));
        assert_eq!(found(b"\xef\xbb\xbf[1]\x1a"), Some(TextKind::Json));
        assert_eq!(found(b"<note></note>\r\n\x1a"), Some(TextKind::Xml));
        assert_eq!(found(b"{}\0"), None);
    }

    #[test]
    fn late_root_element_is_found_within_the_prefix() {
        let late = |length: usize| format!("<!-- {} --><svg/>", "licence ".repeat(length / 8));
        assert_eq!(found(late(100_000)), Some(TextKind::Svg));
        assert_eq!(found(late(1_000_000)), Some(TextKind::Svg));
        assert_eq!(found(late(2_000_000)), Some(TextKind::Xml));
    }
}
