//! Sniffs content: tries the known formats in turn. The filename plays no part.

use super::bounded_reader::BoundedReader;
use super::table::{MediaType, named};
use super::{chunks, frames, image, isobmff, ole, rejected, text, tiff, zip_container};
use memchr::memmem;
use std::io::{self, Read, Seek};

/// Result of content sniffing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    Empty,
    /// An accepted type that is not text.
    Binary {
        media_type: &'static MediaType,
        /// Another type that the same bytes can have. It is chosen if the filename or the declared
        /// type names it.
        alternative: Option<&'static MediaType>,
    },
    /// Text from start to end, of this kind.
    Text(TextKind),
    /// A known format that is not accepted. The field is a noun phrase: "a Windows program".
    Unsupported(&'static str),
    /// An accepted format, but incomplete or corrupt. The field is a noun phrase: "a JPEG image
    /// that is cut short".
    Damaged(&'static str),
    /// Content with no known signature that is not text either.
    Unknown,
}

/// Kind of text, determined by how it starts or whether it parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// Starts with `BEGIN:VCARD`.
    Vcard,
    /// Starts with `BEGIN:VCALENDAR`.
    Calendar,
    /// Markup with the root element `svg`.
    Svg,
    /// An HTML document.
    Html,
    /// Starts with an HTML element that is not `html`: part of a page, or text with some HTML in
    /// it.
    Fragment,
    /// Other markup.
    Xml,
    /// A JSON object or array.
    Json,
    /// A JSON string, number or literal, which can also be prose or a table.
    Scalar,
    /// Text with an HTML element near the start: prose, or a page that starts with words.
    Mixed,
    /// Rich Text Format.
    Rtf,
    /// None of the above.
    Plain,
}

impl Detected {
    /// Returns the result for the accepted type called `name`, without an alternative type.
    pub(super) fn of(name: &str) -> Self {
        Self::Binary {
            media_type: named(name),
            alternative: None,
        }
    }

    /// Returns the result for content that can have either of two accepted types; the first is the
    /// default.
    pub(super) fn either(name: &str, alternative: &str) -> Self {
        Self::Binary {
            media_type: named(name),
            alternative: Some(named(alternative)),
        }
    }
}

/// Identifies the format of the content that `reader` returns.
///
/// # Errors
/// The reader failed. A malformed file is not an error; the returned value says so.
pub fn identify<R: Read + Seek>(reader: R) -> io::Result<Detected> {
    identify_within(&mut BoundedReader::new(reader)?)
}

/// Identifies the format of content within the step budget of the reader.
pub(super) fn identify_within<R: Read + Seek>(
    source: &mut BoundedReader<R>,
) -> io::Result<Detected> {
    Ok(match detect(source)? {
        // The walk ended early because the step budget ran out, so this result is not reliable
        // enough.
        Detected::Binary { .. } | Detected::Unknown | Detected::Damaged(_)
            if source.is_exhausted() =>
        {
            Detected::Damaged("more small parts than any program writes")
        }
        content => content,
    })
}

fn detect<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    if source.len() == 0 {
        return Ok(Detected::Empty);
    }
    let head = source.at(0, 2048)?.to_vec();
    // AMR is tested before scripts, because both start with `#!`.
    if let Some(amr) = frames::amr(source)? {
        return Ok(amr);
    }
    // Text can start with the bytes of a binary signature, so text is tested first, except for
    // formats that are text themselves.
    let text = text::identify(source)?;
    // PDF files often have a byte order mark or blank lines in front.
    let start = head.len()
        - head
            .strip_prefix(b"\xef\xbb\xbf".as_slice())
            .unwrap_or(&head)
            .trim_ascii_start()
            .len();
    if head[start..].starts_with(b"%PDF-") {
        // A PDF signature without an object after it means text about the format, or a truncated
        // document.
        match text {
            _ if pdf(source, start as u64)? => return Ok(Detected::of("application/pdf")),
            Some(kind) => return Ok(Detected::Text(kind)),
            None => return Ok(Detected::Damaged("a PDF document that is cut short")),
        }
    }
    if head[start..].starts_with(b"{\\rtf") {
        return Ok(text.map_or_else(
            || Detected::of("text/rtf"),
            |_| Detected::Text(TextKind::Rtf),
        ));
    }
    // A script is recognised even with a byte order mark in front.
    let marked = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(&head)
        .starts_with(b"#!");
    let wide = head.starts_with(b"\xff\xfe#\0!\0") || head.starts_with(b"\xfe\xff\0#\0!");
    if marked || wide && text.is_some() {
        return Ok(Detected::Unsupported("a script"));
    }
    if head.starts_with(b"%!PS") {
        return Ok(Detected::Unsupported("a PostScript document"));
    }
    match text {
        // An uncompressed PDF can be text throughout. As text about PDF can contain the signature
        // too, the end of the file must match as well, which is not required of binary content.
        Some(_) if late_pdf(source, &head)? && ends_like_pdf(source)? => {
            Ok(Detected::of("application/pdf"))
        }
        Some(kind) => Ok(Detected::Text(kind)),
        None => binary(source, &head),
    }
}

/// Identifies the format of content that is not text.
fn binary<R: Read + Seek>(source: &mut BoundedReader<R>, head: &[u8]) -> io::Result<Detected> {
    if let Some(content) = signed(source, head)? {
        return Ok(content);
    }
    // ISO base media files come after the signatures, because they start with the length of a box,
    // which can equal any signature.
    if let Some(content) = isobmff::identify(source)? {
        return Ok(content);
    }
    if let Some(noun) = rejected::noun(head) {
        return Ok(Detected::Unsupported(noun));
    }
    if frames::transport_stream(head) {
        return Ok(Detected::Unsupported("an MPEG transport stream"));
    }
    if late_pdf(source, head)? {
        return Ok(Detected::of("application/pdf"));
    }
    bare_audio(source)
}

/// Returns true if a PDF starts after other bytes. Some document servers prepend a line, and PDF
/// viewers search the first kilobyte for the signature. Markup in front of the PDF is not allowed,
/// because a browser would treat the file as a page.
fn late_pdf<R: Read + Seek>(source: &mut BoundedReader<R>, head: &[u8]) -> io::Result<bool> {
    let start = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    match memmem::find(&head[..head.len().min(1024)], b"%PDF-") {
        Some(at) if !start.starts_with(b"<") && !start.starts_with(b"MZ") => pdf(source, at as u64),
        _ => Ok(false),
    }
}

/// Returns true if the end of the file is that of a PDF (ISO 32000-1 section 7.5.5).
fn ends_like_pdf<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<bool> {
    let tail = source
        .at(source.len().saturating_sub(1024), 1024)?
        .trim_ascii_end();
    Ok(tail.ends_with(b"%%EOF") && memmem::find(tail, b"startxref").is_some())
}

/// Identifies content by its leading signature. If the signature alone is not enough, the format's
/// own module examines the content.
fn signed<R: Read + Seek>(
    source: &mut BoundedReader<R>,
    head: &[u8],
) -> io::Result<Option<Detected>> {
    match head {
        [0xff, 0xd8, 0xff, ..] => image::jpeg(source).map(Some),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => image::png(source).map(Some),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => image::gif(source).map(Some),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => tiff::identify(source).map(Some),
        [0, 0, 1 | 2, 0, ..] => image::icon(source),
        [b'B', b'M', ..] => image::bmp(source),
        [b'R', b'I', b'F', b'F', ..] | [b'R', b'F', b'6', b'4', ..] | [b'B', b'W', b'6', b'4', ..] => {
            chunks::riff(source)
        }
        [b'F', b'O', b'R', b'M', ..] => chunks::iff(source),
        [b'c', b'a', b'f', b'f', 0, ..] => chunks::caf(source),
        [b'M', b'T', b'h', b'd', ..] => chunks::midi(source, 0).map(Some),
        [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0 && source.len() >= 18 => {
            Ok(Some(Detected::of("application/x-gzip")))
        }
        [0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1, ..] => ole::identify(source).map(Some),
        [b'P', b'K', 3, 4, ..]
        | [b'P', b'K', 5, 6, ..]
        // Archives that were meant to be split have a marker in front, even if they fit into one
        // part.
        | [b'P', b'K', 7, 8, b'P', b'K', ..]
        | [b'P', b'K', b'0', b'0', b'P', b'K', 3, 4, ..] => zip_container::identify(source).map(Some),
        // macOS universal binaries and Java class files share a signature. The next word tells them
        // apart: it is a small number of architectures in a binary, and a version of at least 45 in
        // a class file.
        [0xca, 0xfe, 0xba, 0xbe, a, b, c, d, ..] => {
            Ok(Some(Detected::Unsupported(if u32::from_be_bytes([*a, *b, *c, *d]) < 45 {
                "a macOS program"
            } else {
                "a Java class"
            })))
        }
        _ => Ok(frames::mpeg_video(head)),
    }
}

/// Identifies MP3, ADTS and other audio without a container, with or without leading tags.
fn bare_audio<R: Read + Seek>(source: &mut BoundedReader<R>) -> io::Result<Detected> {
    let start = frames::untagged(source)?;
    if start > 0
        && let Some(noun) = rejected::noun(source.at(start, 64)?)
    {
        return Ok(Detected::Unsupported(noun));
    }
    Ok(match frames::first(source, start)? {
        Some((_, frame)) if frame.codec == frames::Codec::Adts => Detected::of("audio/aac"),
        Some(_) => Detected::of("audio/mpeg"),
        None if start > 0 => Detected::Damaged("an ID3 tag without sound"),
        None => Detected::Unknown,
    })
}

/// Returns true if a PDF starts at `at` (ISO 32000-1 section 7.5.2). A version must follow the
/// signature, and an object soon after it.
fn pdf<R: Read + Seek>(source: &mut BoundedReader<R>, at: u64) -> io::Result<bool> {
    const SEARCH_WINDOW: u64 = 64 * 1024;
    const BLANKS: &[u8] = b" \t\r\n\x0c\0";
    if !source.at(at + 5, 1)?.iter().all(u8::is_ascii_digit) {
        return Ok(false);
    }
    let mut piece = at;
    while piece < at + SEARCH_WINDOW {
        let bytes = source.at(piece, usize::MAX)?;
        if memmem::find_iter(bytes, b"obj").any(|at| at > 0 && BLANKS.contains(&bytes[at - 1])) {
            return Ok(true);
        }
        // Pieces overlap by three bytes, because a blank and the keyword may straddle two blocks.
        piece += (bytes.len() as u64).saturating_sub(3).max(1);
    }
    Ok(false)
}
