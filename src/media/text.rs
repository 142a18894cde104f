//! Whether bytes are text, and what the text starts like. Reads the whole file, a piece at a time.

use super::markup;
use super::sniff::TextKind;
use super::source::{Source, fill};
use serde::de::IgnoredAny;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Seek};

/// How much is read at a time, and how much of the start is looked at to tell what kind of text it is.
const START: usize = 64 * 1024;
/// How much it is of markup: the root element of a drawing may come after pages of licence.
const PROLOG: usize = 1024 * 1024;

/// The mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// What DOS ended its texts with.
const DOS_END: u8 = 0x1a;

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
    let words = |text: &str| text.len() - text.trim_start_matches('\u{feff}').trim_start().len();
    let mut text = start(source, START, wide)?;
    if text[words(&text)..].starts_with('<') {
        text = start(source, PROLOG, wide)?;
    }
    kind(source, &text[words(&text)..], wide).map(Some)
}

/// The first so many bytes as text.
fn start<R: Read + Seek>(source: &mut Source<R>, length: usize, wide: Option<bool>) -> io::Result<String> {
    let mut start = vec![0; length];
    let filled = fill(source.from(0)?, &mut start)?;
    let start = &start[..filled];
    Ok(match wide {
        Some(little) => decode(start.get(2..).unwrap_or_default(), little),
        None => String::from_utf8_lossy(start).into_owned(),
    })
}

/// Whether a byte is a control character that no text has, after the WHATWG's list of binary data bytes
/// (<https://mimesniff.spec.whatwg.org/#binary-data-byte>), save the vertical tab: databases export line breaks in a
/// cell as that.
///
/// Escape is none of them, and Japanese mail (ISO-2022-JP) has it; its Korean relative shifts with 0E and 0F, as no one
/// has done for long.
const fn binary(byte: u8) -> bool {
    matches!(byte, 0x00..=0x08 | 0x0e..=0x1a | 0x1c..=0x1f)
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
            let last = filled < START && piece.ends_with(&[DOS_END]);
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

fn units(bytes: &[u8], little: bool) -> impl Iterator<Item = u16> {
    let (units, _) = bytes.as_chunks::<2>();
    units.iter().map(move |&unit| if little { u16::from_le_bytes(unit) } else { u16::from_be_bytes(unit) })
}

fn decode(bytes: &[u8], little: bool) -> String {
    let characters = char::decode_utf16(units(bytes, little));
    characters.map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// What text that starts so is.
fn kind<R: Read + Seek>(source: &mut Source<R>, text: &str, wide: Option<bool>) -> io::Result<TextKind> {
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
            let closed = source.at(tail, 256)?.iter().rev().find(|byte| !blank(byte)) == Some(&b'>');
            Ok(markup::kind(text, closed))
        }
        Some(b'{' | b'[') if json(source, wide)? => Ok(TextKind::Json),
        Some(b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') if json(source, wide)? => Ok(TextKind::Scalar),
        _ => Ok(markup::within(text)),
    }
}

/// Whether text starts with the line `BEGIN:name`, in any case (RFC 6350 section 3.3, RFC 5545 section 3.1).
fn begins(text: &str, name: &str) -> bool {
    text.split_once(':').is_some_and(|(begin, rest)| {
        // Macs of old ended their lines with CR alone.
        let line = rest.split(['\r', '\n']).next().unwrap_or_default();
        begin.trim_end().eq_ignore_ascii_case("BEGIN") && line.trim().eq_ignore_ascii_case(name)
    })
}

/// Whether the whole file is one JSON value (RFC 8259), after a byte order mark if there is one. It has to be in UTF-8,
/// or, as it once could, in UTF-16.
fn json<R: Read + Seek>(source: &mut Source<R>, wide: Option<bool>) -> io::Result<bool> {
    if let Some(little) = wide {
        return value(Narrow { reader: source.from(2)?, little, high: None, text: Cursor::default() });
    }
    let from = if source.at(0, 3)? == MARK { 3 } else { 0 };
    let ends_like_dos = source.at(source.len() - 1, 1)? == [DOS_END];
    let length = source.len() - from - u64::from(ends_like_dos);
    Ok(value(source.from(from)?.take(length))? && utf8(source.from(from)?)?)
}

/// Whether a stream is UTF-8.
fn utf8(reader: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; START];
    let mut kept = 0;
    loop {
        let filled = kept + fill(reader, &mut buffer[kept..])?;
        kept = match str::from_utf8(&buffer[..filled]) {
            Ok(_) => 0,
            // The last character may go on in the next piece.
            Err(error) if error.error_len().is_none() && filled == START => filled - error.valid_up_to(),
            Err(_) => return Ok(false),
        };
        if filled < START {
            return Ok(true);
        }
        buffer.copy_within(filled - kept.., 0);
    }
}

/// Whether a stream is one JSON value.
fn value(reader: impl Read) -> io::Result<bool> {
    let reader = Shallow { reader, depth: 0, string: false, escaped: false };
    let reader = BufReader::with_capacity(START, reader);
    match serde_json::from_reader::<_, IgnoredAny>(reader) {
        Ok(_) => Ok(true),
        // A stop for other reasons than the text.
        Err(error) if error.io_error_kind().is_some_and(|kind| kind != ErrorKind::UnexpectedEof) => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// UTF-16 as UTF-8.
struct Narrow<R> {
    reader: R,
    little: bool,
    /// The first half of a pair, whose second one is in the next piece.
    high: Option<u16>,
    text: Cursor<String>,
}

impl<R: Read> Read for Narrow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.text.get_ref().len() as u64 == self.text.position() {
            let mut piece = vec![0; START];
            let filled = fill(&mut self.reader, &mut piece)?;
            let mut units: Vec<u16> =
                self.high.take().into_iter().chain(units(&piece[..filled], self.little)).collect();
            self.high = units.pop_if(|last| filled == START && matches!(last, 0xd800..=0xdbff));
            self.text = Cursor::new(String::from_utf16_lossy(&units));
        }
        let left = self.text.get_ref().as_bytes().get(usize::try_from(self.text.position()).unwrap_or(usize::MAX)..);
        let read = left.unwrap_or_default().read(buffer)?;
        self.text.set_position(self.text.position() + read as u64);
        Ok(read)
    }
}

/// JSON that ends where it is nested too deep: the parser that skips values keeps a byte for each open bracket, and a
/// file can consist of them.
struct Shallow<R> {
    reader: R,
    depth: u32,
    string: bool,
    escaped: bool,
}

impl<R: Read> Read for Shallow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        /// As deep as the same parser goes when it keeps what it reads.
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
        identify(&mut Source::new(Cursor::new(bytes)).expect("memory")).expect("memory")
    }

    #[test]
    fn text_is_text_to_its_end() {
        let long = "caf\u{e9} ".repeat(50_000).into_bytes();
        assert_eq!(found(&long), Some(TextKind::Plain));
        for at in [0, 1, START - 1, START, START + 1, long.len() - 1] {
            for control in [0x00, 0x01, 0x08, 0x0e, 0x1a, 0x1f] {
                let mut broken = long.clone();
                broken[at] = control;
                let ends_like_dos = control == 0x1a && at == long.len() - 1;
                assert_eq!(found(&broken).is_some(), ends_like_dos, "{control:#04x} at {at}");
            }
        }
    }

    #[test]
    fn all_character_sets_are_text_except_wide_ones_without_a_mark() {
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
    fn a_wide_surrogate_pair_may_lie_across_two_pieces() {
        let mut text = b"\xff\xfe".to_vec();
        text.extend(b"a\0".repeat(START / 2 - 1));
        text.extend(b"\x3d\xd8\x00\xde");
        assert_eq!(found(&text), Some(TextKind::Plain));
    }

    #[test]
    fn kinds_are_told_by_how_text_starts() {
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
    fn json_is_in_utf_8_or_in_utf_16_with_a_mark() {
        let wide = |text: &str, little: bool| {
            let bytes = |unit: u16| if little { unit.to_le_bytes() } else { unit.to_be_bytes() };
            "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(bytes).collect::<Vec<_>>()
        };
        let odd = ["[\"", &"\u{1f600}".repeat(40_000), "\"]"].concat();
        for text in ["{\"a\": [\"\u{e9}\u{1f600}\"]}", &odd, &odd.replacen('\u{1f600}', "aa", 1)] {
            assert_eq!(found(text), Some(TextKind::Json));
            for little in [true, false] {
                assert_eq!(found(wide(text, little)), Some(TextKind::Json));
                assert_eq!(found(wide(&text[..text.len() - 1], little)), Some(TextKind::Plain));
            }
        }
        let long = [b"[\"a".as_slice(), &vec![0xff; START], b"\"]"].concat();
        for latin in [b"[\"na\xefve\"]".as_slice(), b"\"\xe9\"", &long] {
            assert_eq!(found(latin), Some(TextKind::Plain));
        }
        for shift in 0..4 {
            let text = ["[\"".to_owned() + &"a".repeat(shift), "\u{1f600}".repeat(40_000), "\"]".to_owned()].concat();
            assert_eq!(found(&text), Some(TextKind::Json));
            let mut broken = text.into_bytes();
            broken[START] = b'a';
            assert_eq!(found(broken), Some(TextKind::Plain));
        }
    }

    #[test]
    fn what_dos_put_at_the_end_is_no_part_of_it() {
        assert_eq!(found(b"{}\r\n\x1a"), Some(TextKind::Json));
        assert_eq!(found(b"\xef\xbb\xbf[1]\x1a"), Some(TextKind::Json));
        assert_eq!(found(b"<note></note>\r\n\x1a"), Some(TextKind::Xml));
        assert_eq!(found(b"{}\0"), None);
    }

    #[test]
    fn a_root_element_may_come_late() {
        let late = |length: usize| format!("<!-- {} --><svg/>", "licence ".repeat(length / 8));
        assert_eq!(found(late(100_000)), Some(TextKind::Svg));
        assert_eq!(found(late(1_000_000)), Some(TextKind::Svg));
        assert_eq!(found(late(2_000_000)), Some(TextKind::Xml));
    }

    #[test]
    fn deep_json_is_no_json() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(found(nested(128)), Some(TextKind::Json));
        assert_eq!(found(nested(129)), Some(TextKind::Plain));
        assert_eq!(found(nested(1_000_000)), Some(TextKind::Plain));
        // Brackets side by side, and in strings.
        assert_eq!(found(format!("[{}[]]", "[],".repeat(1000))), Some(TextKind::Json));
        assert_eq!(found(format!("[\"\\\"{}\"]", "[".repeat(1000))), Some(TextKind::Json));
    }
}
