//! Detects text and classifies it by how it starts. Reads the whole file, one block at a time.

use super::bounded_reader::{BoundedReader, fill};
use super::markup;
use super::sniff::TextKind;
use serde::de::IgnoredAny;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Seek};

/// Size of a block in bytes, and of the prefix by which text is classified.
const START: usize = 64 * 1024;
/// Size of that prefix in bytes for markup: the root element of a drawing may follow pages of licence text.
const PROLOG: usize = 1024 * 1024;

/// The byte order mark in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// The end-of-file character (Ctrl-Z) of DOS text files.
const DOS_END: u8 = 0x1a;

/// Returns the kind of text, or `None` if the file is neither UTF-16 with a byte order mark nor free of
/// binary control characters.
pub(super) fn identify<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Option<TextKind>> {
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
    let words = |text: &str| text.len() - text.trim_start_matches('\u{feff}').trim_start().len();
    let mut text = start(source, START, wide)?;
    if text[words(&text)..].starts_with('<') {
        text = start(source, PROLOG, wide)?;
    }
    kind(source, &text[words(&text)..], wide).map(Some)
}

/// Returns the first `length` bytes as text.
fn start<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    length: usize,
    wide: Option<bool>,
) -> io::Result<String> {
    let mut start = vec![0; length];
    let filled = fill(source.from(0)?, &mut start)?;
    let start = &start[..filled];
    Ok(match wide {
        Some(little) => decode(start.get(2..).unwrap_or_default(), little),
        None => String::from_utf8_lossy(start).into_owned(),
    })
}

/// Returns true for control characters that do not occur in text: the WHATWG's binary data bytes
/// (<https://mimesniff.spec.whatwg.org/#binary-data-byte>) except the vertical tab, which databases export
/// for line breaks within a cell.
///
/// Escape is not one of them: Japanese mail (ISO-2022-JP) uses it. ISO-2022-KR, which shifts with 0E and
/// 0F, is rejected; it has long been out of use.
const fn binary(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0e..=0x1a | 0x1c..=0x1f)
}

/// Returns true if a stream is free of binary control characters, which holds for UTF-8 and for all 8-bit
/// and East Asian encodings. A final DOS end-of-file character is allowed.
fn bytes(reader: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; START];
    loop {
        let filled = fill(reader, &mut buffer)?;
        let piece = &buffer[..filled];
        // No early exit within a block, so that the compiler can vectorise the check.
        if piece
            .iter()
            .fold(false, |found, &byte| found | binary(byte))
        {
            let last = filled < START && piece.ends_with(&[DOS_END]);
            return Ok(last && !piece[..filled - 1].iter().any(|&byte| binary(byte)));
        }
        if filled < START {
            return Ok(true);
        }
    }
}

/// Returns true if a stream is UTF-16 without binary control characters and with all surrogates paired.
fn utf16(reader: &mut impl Read, little: bool) -> io::Result<bool> {
    let mut buffer = vec![0; START];
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
        if filled < START {
            return Ok(odd.is_empty() && !high);
        }
    }
}

fn units(bytes: &[u8], little: bool) -> impl Iterator<Item = u16> {
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
    let characters = char::decode_utf16(units(bytes, little));
    characters
        .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// Classifies text by its start.
fn kind<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    text: &str,
    wide: Option<bool>,
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
        Some(b'{' | b'[') if json(source, wide)? => Ok(TextKind::Json),
        Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') if json(source, wide)? => {
            Ok(TextKind::Scalar)
        }
        _ => Ok(markup::within(text)),
    }
}

/// Returns true if text starts with the line `BEGIN:name`, ignoring case (RFC 6350 section 3.3, RFC 5545
/// section 3.1).
fn begins(text: &str, name: &str) -> bool {
    text.split_once(':').is_some_and(|(begin, rest)| {
        // Classic Mac OS ends lines with CR alone.
        let line = rest.split(['\r', '\n']).next().unwrap_or_default();
        begin.trim_end().eq_ignore_ascii_case("BEGIN") && line.trim().eq_ignore_ascii_case(name)
    })
}

/// Returns true if the whole file is one JSON value (RFC 8259), after an optional byte order mark. The
/// encoding must be UTF-8, or UTF-16, which earlier versions of the standard allowed.
fn json<R: Read + Seek>(source: &mut BoundedReader<R>, wide: Option<bool>) -> io::Result<bool> {
    if let Some(little) = wide {
        return value(Narrow {
            reader: source.from(2)?,
            little,
            high: None,
            text: Cursor::default(),
        });
    }
    let from = if source.at(0, 3)? == MARK { 3 } else { 0 };
    let ends_like_dos = source.at(source.len() - 1, 1)? == [DOS_END];
    let length = source.len() - from - u64::from(ends_like_dos);
    Ok(value(source.from(from)?.take(length))? && utf8(source.from(from)?)?)
}

/// Returns true if a stream is UTF-8.
fn utf8(reader: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; START];
    let mut kept = 0;
    loop {
        let filled = kept + fill(reader, &mut buffer[kept..])?;
        kept = match str::from_utf8(&buffer[..filled]) {
            Ok(_) => 0,
            // The last character may continue in the next block.
            Err(error) if error.error_len().is_none() && filled == START => {
                filled - error.valid_up_to()
            }
            Err(_) => return Ok(false),
        };
        if filled < START {
            return Ok(true);
        }
        buffer.copy_within(filled - kept.., 0);
    }
}

/// Returns true if a stream is one JSON value.
fn value(reader: impl Read) -> io::Result<bool> {
    let reader = Shallow {
        reader,
        depth: 0,
        string: false,
        escaped: false,
    };
    let reader = BufReader::with_capacity(START, reader);
    match serde_json::from_reader::<_, IgnoredAny>(reader) {
        Ok(_) => Ok(true),
        // A read error, not malformed JSON.
        Err(error)
            if error
                .io_error_kind()
                .is_some_and(|kind| kind != ErrorKind::UnexpectedEof) =>
        {
            Err(error.into())
        }
        Err(_) => Ok(false),
    }
}

/// A reader that transcodes UTF-16 to UTF-8.
struct Narrow<R> {
    reader: R,
    little: bool,
    /// High surrogate at the end of a block; its low surrogate is in the next one.
    high: Option<u16>,
    text: Cursor<String>,
}

impl<R: Read> Read for Narrow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.text.get_ref().len() as u64 == self.text.position() {
            let mut piece = vec![0; START];
            let filled = fill(&mut self.reader, &mut piece)?;
            let mut units: Vec<u16> = self
                .high
                .take()
                .into_iter()
                .chain(units(&piece[..filled], self.little))
                .collect();
            self.high = units.pop_if(|last| filled == START && matches!(last, 0xd800..=0xdbff));
            self.text = Cursor::new(String::from_utf16_lossy(&units));
        }
        let left = self
            .text
            .get_ref()
            .as_bytes()
            .get(usize::try_from(self.text.position()).unwrap_or(usize::MAX)..);
        let read = left.unwrap_or_default().read(buffer)?;
        self.text.set_position(self.text.position() + read as u64);
        Ok(read)
    }
}

/// A reader that ends JSON that is nested too deeply: even when it skips values, the parser keeps a byte
/// per open bracket, and a crafted file can consist of brackets.
struct Shallow<R> {
    reader: R,
    depth: u32,
    string: bool,
    escaped: bool,
}

impl<R: Read> Read for Shallow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        /// The recursion limit of `serde_json` when it builds values.
        const DEEPEST: u32 = 128;
        if self.depth > DEEPEST {
            return Ok(0);
        }
        let read = self.reader.read(buffer)?;
        for (at, byte) in buffer[..read].iter().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'"' => self.string = !self.string,
                b'\\' => self.escaped = self.string,
                b'[' | b'{' if !self.string => self.depth += 1,
                b']' | b'}' if !self.string => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.depth > DEEPEST {
                return Ok(at);
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn found(bytes: impl AsRef<[u8]>) -> Option<TextKind> {
        identify(&mut BoundedReader::new(Cursor::new(bytes)).expect("in-memory I/O"))
            .expect("in-memory I/O")
    }

    #[test]
    fn control_character_anywhere_makes_text_binary() {
        let long = "caf\u{e9} ".repeat(50_000).into_bytes();
        assert_eq!(found(&long), Some(TextKind::Plain));
        for at in [0, 1, START - 1, START, START + 1, long.len() - 1] {
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
        text.extend(b"a\0".repeat(START / 2 - 1));
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
    fn json_must_be_utf8_or_utf16_with_byte_order_mark() {
        let wide = |text: &str, little: bool| {
            let bytes = |unit: u16| {
                if little {
                    unit.to_le_bytes()
                } else {
                    unit.to_be_bytes()
                }
            };
            "\u{feff}"
                .encode_utf16()
                .chain(text.encode_utf16())
                .flat_map(bytes)
                .collect::<Vec<_>>()
        };
        let odd = ["[\"", &"\u{1f600}".repeat(40_000), "\"]"].concat();
        for text in [
            "{\"a\": [\"\u{e9}\u{1f600}\"]}",
            &odd,
            &odd.replacen('\u{1f600}', "aa", 1),
        ] {
            assert_eq!(found(text), Some(TextKind::Json));
            for little in [true, false] {
                assert_eq!(found(wide(text, little)), Some(TextKind::Json));
                assert_eq!(
                    found(wide(&text[..text.len() - 1], little)),
                    Some(TextKind::Plain)
                );
            }
        }
        let long = [b"[\"a".as_slice(), &vec![0xff; START], b"\"]"].concat();
        for latin in [b"[\"na\xefve\"]".as_slice(), b"\"\xe9\"", &long] {
            assert_eq!(found(latin), Some(TextKind::Plain));
        }
        for shift in 0..4 {
            let text = [
                "[\"".to_owned() + &"a".repeat(shift),
                "\u{1f600}".repeat(40_000),
                "\"]".to_owned(),
            ]
            .concat();
            assert_eq!(found(&text), Some(TextKind::Json));
            let mut broken = text.into_bytes();
            broken[START] = b'a';
            assert_eq!(found(broken), Some(TextKind::Plain));
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

    #[test]
    fn deeply_nested_json_is_plain_text() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(found(nested(128)), Some(TextKind::Json));
        assert_eq!(found(nested(129)), Some(TextKind::Plain));
        assert_eq!(found(nested(1_000_000)), Some(TextKind::Plain));
        // Adjacent brackets, and brackets in strings, add no depth.
        assert_eq!(
            found(format!("[{}[]]", "[],".repeat(1000))),
            Some(TextKind::Json)
        );
        assert_eq!(
            found(format!("[\"\\\"{}\"]", "[".repeat(1000))),
            Some(TextKind::Json)
        );
    }
}
