//! What bytes are: tries one format after the other. What a file is called plays no part in it.

use super::source::Source;
use super::table::{MediaType, named};
use super::{chunks, foreign, frames, image, isobmff, ole, package, text};
use memchr::memmem;
use std::io::{self, Read, Seek};

/// What bytes turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// No bytes at all.
    Empty,
    /// An accepted type that is not text.
    Binary {
        /// The type.
        kind: &'static MediaType,
        /// A type that the same bytes are just as well, if the name says so.
        or: Option<&'static MediaType>,
    },
    /// Text from start to end.
    Text(TextKind),
    /// A known kind that is not accepted: "a Windows program".
    Refused(&'static str),
    /// Looks like an accepted type, but is not whole: "a JPEG image that is cut short".
    Damaged(&'static str),
    /// Neither a known signature nor text.
    Unknown,
}

/// What text starts like, or parses as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// `BEGIN:VCARD`.
    Vcard,
    /// `BEGIN:VCALENDAR`.
    Calendar,
    /// Markup with the root element `svg`.
    Svg,
    /// An HTML document.
    Html,
    /// Starts with an HTML element that is not `html`: part of a page, or text with some HTML in it.
    Fragment,
    /// Other markup.
    Xml,
    /// A JSON object or array.
    Json,
    /// A JSON string, number or literal, which is prose or a table just as well.
    Scalar,
    /// Text with an HTML element somewhere near the start: prose, or a page that starts with words.
    Mixed,
    /// Rich Text Format.
    Rtf,
    /// Nothing of the above.
    Plain,
}

impl Content {
    /// The accepted type of this name.
    pub(super) fn of(name: &str) -> Self {
        Self::Binary { kind: named(name), or: None }
    }

    /// The first type, or the second one if the name says so.
    pub(super) fn either(name: &str, or: &str) -> Self {
        Self::Binary { kind: named(name), or: Some(named(or)) }
    }
}

/// Finds out what bytes are.
///
/// # Errors
/// Those of the reader only; whatever is wrong with the format is a [`Content`].
pub fn identify<R: Read + Seek>(reader: R) -> io::Result<Content> {
    judged(&mut Source::new(reader)?)
}

/// What is found out within the steps that a file may take.
pub(super) fn judged<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Content> {
    Ok(match recognised(source)? {
        // Half a walk is no reason to accept it.
        Content::Binary { .. } | Content::Unknown | Content::Damaged(_) if source.spent() => {
            Content::Damaged("more small parts than any program writes")
        }
        content => content,
    })
}

fn recognised<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Content> {
    if source.len() == 0 {
        return Ok(Content::Empty);
    }
    let head = source.at(0, 2048)?.to_vec();
    // AMR has a signature that reads like a script's.
    if let Some(sound) = frames::amr(source)? {
        return Ok(sound);
    }
    // Words that start like a signature are still words; so text comes first, save for formats that are text
    // themselves.
    let text = text::identify(source)?;
    // A mark or blank lines in front are common.
    let blank = head.len() - head.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(&head).trim_ascii_start().len();
    if head[blank..].starts_with(b"%PDF-") {
        // Without an object it is a text about the format, or the start of a document and no more.
        match text {
            _ if pdf(source, blank as u64)? => return Ok(Content::of("application/pdf")),
            Some(kind) => return Ok(Content::Text(kind)),
            None => return Ok(Content::Damaged("a PDF document that is cut short")),
        }
    }
    if head[blank..].starts_with(b"{\\rtf") {
        return Ok(text.map_or_else(|| Content::of("text/rtf"), |_| Content::Text(TextKind::Rtf)));
    }
    // Editors that put a mark in front of a script leave it one.
    let marked = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).starts_with(b"#!");
    let wide = head.starts_with(b"\xff\xfe#\0!\0") || head.starts_with(b"\xfe\xff\0#\0!");
    if marked || wide && text.is_some() {
        return Ok(Content::Refused("a script"));
    }
    if head.starts_with(b"%!PS") {
        return Ok(Content::Refused("a PostScript document"));
    }
    match text {
        // A document without compression may be text from end to end. A text about the format has the signature too, so
        // this asks for more than behind other bytes.
        Some(_) if late_pdf(source, &head)? && ends_like_pdf(source)? => Ok(Content::of("application/pdf")),
        Some(kind) => Ok(Content::Text(kind)),
        None => binary(source, &head),
    }
}

/// What bytes are that are no text.
fn binary<R: Read + Seek>(source: &mut Source<R>, head: &[u8]) -> io::Result<Content> {
    if let Some(content) = signed(source, head)? {
        return Ok(content);
    }
    // These start with a length, which may read like any of the signatures above.
    if let Some(content) = isobmff::identify(source)? {
        return Ok(content);
    }
    if let Some(noun) = foreign::noun(head) {
        return Ok(Content::Refused(noun));
    }
    if frames::transport_stream(head) {
        return Ok(Content::Refused("an MPEG transport stream"));
    }
    if late_pdf(source, head)? {
        return Ok(Content::of("application/pdf"));
    }
    sound(source)
}

/// Whether a PDF has something in front of it: some servers of documents put a line of their own there, and readers
/// look for the signature in the first kilobyte. Markup in front makes it a page to a browser.
fn late_pdf<R: Read + Seek>(source: &mut Source<R>, head: &[u8]) -> io::Result<bool> {
    let start = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    match memmem::find(&head[..head.len().min(1024)], b"%PDF-") {
        Some(at) if !start.starts_with(b"<") && !start.starts_with(b"MZ") => pdf(source, at as u64),
        _ => Ok(false),
    }
}

/// Whether the end of the file is that of a PDF (ISO 32000-1 section 7.5.5).
fn ends_like_pdf<R: Read + Seek>(source: &mut Source<R>) -> io::Result<bool> {
    let tail = source.at(source.len().saturating_sub(1024), 1024)?.trim_ascii_end();
    Ok(tail.ends_with(b"%%EOF") && memmem::find(tail, b"startxref").is_some())
}

/// Formats with a signature at the start of which some are accepted.
fn signed<R: Read + Seek>(source: &mut Source<R>, head: &[u8]) -> io::Result<Option<Content>> {
    match head {
        [0xff, 0xd8, 0xff, ..] => image::jpeg(source).map(Some),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => image::png(source).map(Some),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => image::gif(source).map(Some),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => image::tiff(source).map(Some),
        [0, 0, 1 | 2, 0, ..] => image::icon(source),
        [b'B', b'M', ..] => image::bmp(source),
        [b'R', b'I', b'F', b'F', ..] | [b'R', b'F', b'6', b'4', ..] | [b'B', b'W', b'6', b'4', ..] => {
            chunks::riff(source)
        }
        [b'F', b'O', b'R', b'M', ..] => chunks::iff(source),
        [b'c', b'a', b'f', b'f', 0, ..] => chunks::caf(source),
        [b'M', b'T', b'h', b'd', ..] => chunks::midi(source, 0).map(Some),
        [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0 && source.len() >= 18 => {
            Ok(Some(Content::of("application/x-gzip")))
        }
        [0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1, ..] => ole::identify(source).map(Some),
        [b'P', b'K', 3, 4, ..]
        | [b'P', b'K', 5, 6, ..]
        // What was meant to be split is marked, even if it turned out to fit.
        | [b'P', b'K', 7, 8, b'P', b'K', ..]
        | [b'P', b'K', b'0', b'0', b'P', b'K', 3, 4, ..] => package::identify(source).map(Some),
        // Java chose the signature of macOS programs for several processors; those have few, and its versions start at
        // 45.
        [0xca, 0xfe, 0xba, 0xbe, a, b, c, d, ..] => {
            Ok(Some(Content::Refused(if u32::from_be_bytes([*a, *b, *c, *d]) < 45 {
                "a macOS program"
            } else {
                "a Java class"
            })))
        }
        _ => Ok(frames::mpeg_video(head)),
    }
}

/// Sound without a container, behind tags or not.
fn sound<R: Read + Seek>(source: &mut Source<R>) -> io::Result<Content> {
    let start = frames::untagged(source)?;
    if start > 0
        && let Some(noun) = foreign::noun(source.at(start, 64)?)
    {
        return Ok(Content::Refused(noun));
    }
    Ok(match frames::sound(source, start)? {
        Some((_, frame)) if frame.codec == frames::Codec::Adts => Content::of("audio/aac"),
        Some(_) => Content::of("audio/mpeg"),
        None if start > 0 => Content::Damaged("an ID3 tag without sound"),
        None => Content::Unknown,
    })
}

/// Whether a PDF starts at `at` (ISO 32000-1 section 7.5.2): a version, and an object soon after it.
fn pdf<R: Read + Seek>(source: &mut Source<R>, at: u64) -> io::Result<bool> {
    const SOON: u64 = 64 * 1024;
    const BLANKS: &[u8] = b" \t\r\n\x0c\0";
    if !source.at(at + 5, 1)?.iter().all(u8::is_ascii_digit) {
        return Ok(false);
    }
    let mut piece = at;
    while piece < at + SOON {
        let bytes = source.at(piece, usize::MAX)?;
        if memmem::find_iter(bytes, b"obj").any(|at| at > 0 && BLANKS.contains(&bytes[at - 1])) {
            return Ok(true);
        }
        // Should the word lie across two pieces.
        piece += (bytes.len() as u64).saturating_sub(3).max(1);
    }
    Ok(false)
}
