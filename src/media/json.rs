//! Detects JSON (RFC 8259) by parsing the whole file in constant memory.

use super::bounded_reader::{BoundedReader, fill};
use super::text::{BLOCK, BYTE_ORDER_MARK, DOS_END, utf16_units};
use serde::de::IgnoredAny;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Seek};

/// Maximum nesting depth of accepted JSON: the recursion limit of `serde_json` when it builds
/// values.
const MAX_DEPTH: u32 = 128;

/// Returns true if the whole file is one JSON value, after an optional byte order mark. The
/// encoding must be UTF-8, or UTF-16, which earlier JSON standards allowed. `little` is the byte
/// order of UTF-16.
pub(super) fn is_json<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    little: Option<bool>,
) -> io::Result<bool> {
    if let Some(little) = little {
        return is_value(Utf16Reader {
            reader: source.stream_from(2)?,
            little,
            high: None,
            text: Cursor::default(),
        });
    }
    let from = if source.at(0, 3)? == BYTE_ORDER_MARK {
        3
    } else {
        0
    };
    let ends_like_dos = source.at(source.len() - 1, 1)? == [DOS_END];
    let length = source.len() - from - u64::from(ends_like_dos);
    Ok(is_value(source.stream_from(from)?.take(length))? && is_utf8(source.stream_from(from)?)?)
}

/// Returns true if a stream is UTF-8.
fn is_utf8(reader: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; BLOCK];
    let mut kept = 0;
    loop {
        let filled = kept + fill(reader, &mut buffer[kept..])?;
        kept = match str::from_utf8(&buffer[..filled]) {
            Ok(_) => 0,
            // The block may end in the middle of a character, which continues in the next block.
            Err(error) if error.error_len().is_none() && filled == BLOCK => {
                filled - error.valid_up_to()
            }
            Err(_) => return Ok(false),
        };
        if filled < BLOCK {
            return Ok(true);
        }
        buffer.copy_within(filled - kept.., 0);
    }
}

/// Returns true if a stream is one JSON value.
fn is_value(reader: impl Read) -> io::Result<bool> {
    let reader = DepthLimited {
        reader,
        depth: 0,
        string: false,
        escaped: false,
    };
    let reader = BufReader::with_capacity(BLOCK, reader);
    match serde_json::from_reader::<_, IgnoredAny>(reader) {
        Ok(_) => Ok(true),
        // The reader failed, which does not mean that the JSON is malformed.
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
struct Utf16Reader<R> {
    reader: R,
    little: bool,
    /// High surrogate at the end of a block, whose low surrogate is in the next block.
    high: Option<u16>,
    text: Cursor<String>,
}

impl<R: Read> Read for Utf16Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.text.get_ref().len() as u64 == self.text.position() {
            let mut piece = vec![0; BLOCK];
            let filled = fill(&mut self.reader, &mut piece)?;
            let mut units: Vec<u16> = self
                .high
                .take()
                .into_iter()
                .chain(utf16_units(&piece[..filled], self.little))
                .collect();
            self.high = units.pop_if(|last| filled == BLOCK && matches!(last, 0xd800..=0xdbff));
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

/// A reader that reports the end of the stream where JSON exceeds [`MAX_DEPTH`]. Even when it skips
/// values, the parser needs a byte of memory per open bracket, and a crafted file can consist of
/// brackets.
struct DepthLimited<R> {
    reader: R,
    depth: u32,
    string: bool,
    escaped: bool,
}

impl<R: Read> Read for DepthLimited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.depth > MAX_DEPTH {
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
            if self.depth > MAX_DEPTH {
                return Ok(at);
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::BLOCK;
    use crate::media::TextKind;
    use crate::media::text::tests::found;

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
        let long = [b"[\"a".as_slice(), &vec![0xff; BLOCK], b"\"]"].concat();
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
            broken[BLOCK] = b'a';
            assert_eq!(found(broken), Some(TextKind::Plain));
        }
    }

    #[test]
    fn deeply_nested_json_is_plain_text() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(found(nested(128)), Some(TextKind::Json));
        assert_eq!(found(nested(129)), Some(TextKind::Plain));
        assert_eq!(found(nested(1_000_000)), Some(TextKind::Plain));
        // Adjacent brackets and brackets in strings do not increase the nesting depth.
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
