//! The one table of accepted types. Code, tests and documentation read it; nobody keeps a list of their own.
//! Names and aliases: Linq Partner API v3, `POST /v3/attachments`, field `content_type`.

use Family::{Archive, Document, Image, Media, Package, Text};

/// How the CDN serves a type to a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Shown in place.
    Inline,
    /// Offered as a download, because a browser would run or render it as a document of our origin.
    Attachment,
}

/// Kinds of kinds. A name may stand for another type of the same family only among images and among media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Pictures, except SVG, which is text.
    Image,
    /// Video and sound together: their containers are the same.
    Media,
    /// Binary documents in a format of their own.
    Document,
    /// Documents that are a ZIP archive with a known inside.
    Package,
    /// Archives.
    Archive,
    /// Whatever reads as text.
    Text,
}

/// One accepted media type.
#[derive(Debug, PartialEq, Eq)]
pub struct MediaType {
    /// The name it is delivered under (`mime_type` in parts, `Content-Type` of the file).
    pub name: &'static str,
    /// Names the API still lists and reports back as declared, delivered as `name`.
    pub deprecated: &'static [&'static str],
    /// Spellings of older official clients, replaced by `name` on arrival.
    pub legacy: &'static [&'static str],
    /// Filename extensions, lower case, the usual one first.
    pub extensions: &'static [&'static str],
    /// How the CDN serves it.
    pub disposition: Disposition,
    /// What it may be taken for.
    pub family: Family,
    /// What to call a file of it: "a JPEG image".
    pub noun: &'static str,
    /// What its bytes are recognised by, in Markdown.
    pub signature: &'static str,
}

const fn inline(
    family: Family,
    name: &'static str,
    extensions: &'static [&'static str],
    noun: &'static str,
    signature: &'static str,
) -> MediaType {
    let disposition = Disposition::Inline;
    MediaType { name, deprecated: &[], legacy: &[], extensions, disposition, family, noun, signature }
}

impl MediaType {
    const fn deprecated(self, deprecated: &'static [&'static str]) -> Self {
        Self { deprecated, ..self }
    }

    const fn legacy(self, legacy: &'static [&'static str]) -> Self {
        Self { legacy, ..self }
    }

    const fn attachment(self) -> Self {
        Self { disposition: Disposition::Attachment, ..self }
    }

    /// The type as a row of a Markdown table: name, other names, extensions, recognised by, served.
    #[must_use]
    pub fn row(&self) -> String {
        let code = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" ");
        let served = match self.disposition {
            Disposition::Inline => "inline",
            Disposition::Attachment => "attachment",
        };
        let others = code(&[self.deprecated, self.legacy].concat());
        format!("| `{}` | {others} | {} | {} | {served} |\n", self.name, code(self.extensions), self.signature)
    }
}

/// Every accepted type.
pub static TYPES: &[MediaType] = &[
    inline(Image, "image/jpeg", &["jpg", "jpeg"], "a JPEG image", "`FF D8 FF`, markers up to the scan, an end marker")
        .legacy(&["image/jpg"]),
    inline(
        Image,
        "image/png",
        &["png"],
        "a PNG image",
        "`89 50 4E 47 0D 0A 1A 0A`, a whole `IHDR`, an `IDAT`, chunks that end inside the file",
    ),
    inline(Image, "image/gif", &["gif"], "a GIF image", "`GIF87a` or `GIF89a`, blocks up to an image"),
    inline(Image, "image/heic", &["heic"], "a HEIC image", "`ftyp` with an HEVC image brand, a `meta` box"),
    inline(Image, "image/heif", &["heif"], "a HEIF image", "`ftyp` with another HEIF brand, a `meta` box"),
    inline(
        Image,
        "image/tiff",
        &["tiff", "tif"],
        "a TIFF image",
        "`II` or `MM` and 42 or 43, a readable first directory",
    ),
    inline(Image, "image/bmp", &["bmp"], "a BMP image", "`BM` and a known bitmap header").legacy(&["image/x-ms-bmp"]),
    inline(Text, "image/svg+xml", &["svg"], "an SVG image", "text whose root element is `svg`").attachment(),
    inline(Image, "image/webp", &["webp"], "a WebP image", "`RIFF`, `WEBP` and a `VP8` chunk"),
    inline(
        Image,
        "image/x-icon",
        &["ico"],
        "a Windows icon",
        "`00 00 01 00` and a directory of pictures inside the file",
    ),
    inline(Media, "video/mp4", &["mp4"], "an MP4 video", "`ftyp` with a neutral brand, a movie with pictures"),
    inline(
        Media,
        "video/quicktime",
        &["mov"],
        "a QuickTime movie",
        "`ftyp` with the brand `qt`, or a movie without `ftyp`",
    ),
    inline(
        Media,
        "video/mpeg",
        &["mpeg", "mpg", "mpe"],
        "an MPEG video",
        "`00 00 01 BA` or `00 00 01 B3` and a valid header",
    )
    .deprecated(&["video/mpeg2"]),
    inline(
        Media,
        "video/x-m4v",
        &["m4v"],
        "an M4V video",
        "`ftyp` with the brand `M4V`; or as MP4, if the name says so",
    ),
    inline(Media, "video/x-msvideo", &["avi"], "an AVI video", "`RIFF`, `AVI` and the main header"),
    inline(Media, "video/3gpp", &["3gp", "3gpp"], "a 3GPP video", "`ftyp` with a `3gp` brand"),
    inline(
        Media,
        "audio/mpeg",
        &["mp3", "mp2"],
        "MP3 audio",
        "MPEG audio frames in a row, after tags if there are any",
    )
    .deprecated(&["audio/mp3"]),
    inline(
        Media,
        "audio/x-m4a",
        &["m4a"],
        "M4A audio",
        "`ftyp` with the brand `M4A`; or a neutral brand and sound only",
    )
    .deprecated(&["audio/mp4"])
    .legacy(&["audio/m4a"]),
    inline(Media, "audio/x-caf", &["caf"], "CAF audio", "`caff`, version 1, a `desc` chunk"),
    inline(
        Media,
        "audio/x-wav",
        &["wav"],
        "WAV audio",
        "`RIFF`, `RF64` or `BW64`, `WAVE`, and `fmt` and `data` chunks",
    )
    .legacy(&["audio/wav"]),
    inline(Media, "audio/x-aiff", &["aiff", "aif", "aifc"], "AIFF audio", "`FORM`, `AIFF` or `AIFC`, a `COMM` chunk")
        .deprecated(&["audio/aiff"]),
    inline(Media, "audio/aac", &["aac"], "AAC audio", "ADTS frames in a row, after tags if there are any")
        .legacy(&["audio/x-aac"]),
    inline(Media, "audio/midi", &["mid", "midi"], "MIDI music", "`MThd` and a track, also inside `RIFF` `RMID`"),
    inline(Media, "audio/amr", &["amr"], "AMR audio", "`#!AMR` and a whole frame"),
    inline(Document, "application/pdf", &["pdf"], "a PDF document", "`%PDF-` in the first 1,024 bytes, and an object"),
    inline(
        Package,
        "application/vnd.apple.pkpass",
        &["pkpass"],
        "a Wallet pass",
        "a ZIP archive with `pass.json` and `manifest.json`",
    ),
    inline(Text, "text/plain", &["txt"], "plain text", "text, by its name"),
    inline(Text, "text/markdown", &["md", "markdown"], "Markdown text", "text, by its name"),
    inline(Text, "text/vcard", &["vcf"], "a vCard", "text that starts with `BEGIN:VCARD`").legacy(&["text/x-vcard"]),
    inline(Text, "text/rtf", &["rtf"], "an RTF document", "`{\\rtf`").legacy(&["application/rtf"]),
    inline(Text, "text/csv", &["csv"], "CSV text", "text, by its name"),
    inline(
        Text,
        "text/html",
        &["html", "htm"],
        "an HTML page",
        "text that starts with an HTML element or document type",
    )
    .attachment(),
    inline(Text, "text/calendar", &["ics"], "an iCalendar file", "text that starts with `BEGIN:VCALENDAR`"),
    inline(Text, "text/xml", &["xml"], "an XML document", "text that starts with an XML declaration or an element")
        .attachment(),
    inline(Text, "application/json", &["json"], "a JSON document", "text that parses as JSON").attachment(),
    inline(
        Document,
        "application/msword",
        &["doc"],
        "a Word 97-2003 document",
        "an OLE file with a `WordDocument` stream",
    ),
    inline(
        Package,
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        &["docx"],
        "a Word document",
        "a ZIP archive whose content types name a Word document",
    ),
    inline(
        Document,
        "application/vnd.ms-excel",
        &["xls"],
        "an Excel 97-2003 workbook",
        "an OLE file with a `Workbook` or `Book` stream",
    ),
    inline(
        Package,
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        &["xlsx"],
        "an Excel workbook",
        "a ZIP archive whose content types name an Excel workbook",
    ),
    inline(
        Document,
        "application/vnd.ms-powerpoint",
        &["ppt"],
        "a PowerPoint 97-2003 presentation",
        "an OLE file with a `PowerPoint Document` stream",
    ),
    inline(
        Package,
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        &["pptx"],
        "a PowerPoint presentation",
        "a ZIP archive whose content types name a PowerPoint presentation",
    ),
    inline(
        Package,
        "application/x-iwork-pages-sffpages",
        &["pages"],
        "a Pages document",
        "a ZIP archive with `Index/Document.iwa`, or an `index.xml` of Pages",
    )
    .legacy(&["application/vnd.apple.pages"]),
    inline(
        Package,
        "application/x-iwork-numbers-sffnumbers",
        &["numbers"],
        "a Numbers spreadsheet",
        "as Pages, if the name says so, or an `index.xml` of Numbers",
    )
    .legacy(&["application/vnd.apple.numbers"]),
    inline(
        Package,
        "application/x-iwork-keynote-sffkey",
        &["key"],
        "a Keynote presentation",
        "a ZIP archive with `Index/Slide` files or `index.apxl`",
    )
    .legacy(&["application/vnd.apple.keynote"]),
    inline(
        Package,
        "application/epub+zip",
        &["epub"],
        "an EPUB book",
        "a ZIP archive whose `mimetype` or container names a book",
    ),
    inline(
        Archive,
        "application/zip",
        &["zip"],
        "a ZIP archive",
        "`PK` and a readable central directory, and none of the above",
    )
    .legacy(&["application/x-zip-compressed"]),
    inline(Archive, "application/x-gzip", &["gz"], "a gzip file", "`1F 8B 08` and valid flags"),
];

/// A `content_type` that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The name that GET reports: as declared, legacy spellings replaced.
    pub reported: &'static str,
    /// What it stands for.
    pub media_type: &'static MediaType,
}

/// Looks up a declared `content_type`, in any case. `None` is a type that is not accepted; parameters
/// (`text/plain; charset=utf-8`) are part of no name and so are refused too.
#[must_use]
pub fn declared(content_type: &str) -> Option<Declared> {
    let same = |name: &&&'static str| name.eq_ignore_ascii_case(content_type);
    TYPES.iter().find_map(|media_type| {
        let listed = std::iter::once(&media_type.name).chain(media_type.deprecated).find(same);
        let reported = listed.copied().or_else(|| media_type.legacy.iter().find(same).map(|_| media_type.name))?;
        Some(Declared { reported, media_type })
    })
}

/// The type that a `Content-Type` header of a response stands for. Parameters are dropped, and spellings common on the
/// web count that the API does not accept.
#[must_use]
pub fn of_content_type_header(value: &str) -> Option<&'static MediaType> {
    let name = value.split(';').next().unwrap_or_default().trim();
    let alias = HEADER_ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(name));
    declared(alias.map_or(name, |(_, listed)| listed)).map(|declared| declared.media_type)
}

/// Spellings in headers, and the listed name each stands for.
static HEADER_ALIASES: &[(&str, &str)] = &[
    ("application/gzip", "application/x-gzip"),
    ("application/x-gtar-compressed", "application/x-gzip"),
    ("application/x-pdf", "application/pdf"),
    ("application/x-zip", "application/zip"),
    ("application/xhtml+xml", "text/html"),
    ("application/xml", "text/xml"),
    ("audio/3gpp", "video/3gpp"),
    ("audio/aacp", "audio/aac"),
    ("audio/aif", "audio/x-aiff"),
    ("audio/mid", "audio/midi"),
    ("audio/mpeg3", "audio/mpeg"),
    ("audio/mpg", "audio/mpeg"),
    ("audio/vnd.wave", "audio/x-wav"),
    ("audio/wave", "audio/x-wav"),
    ("audio/x-caff", "audio/x-caf"),
    ("audio/x-midi", "audio/midi"),
    ("audio/x-mp3", "audio/mpeg"),
    ("audio/x-mpeg", "audio/mpeg"),
    ("image/pjpeg", "image/jpeg"),
    ("image/vnd.microsoft.icon", "image/x-icon"),
    ("image/x-png", "image/png"),
    ("text/comma-separated-values", "text/csv"),
    ("text/json", "application/json"),
    ("text/x-markdown", "text/markdown"),
    ("video/avi", "video/x-msvideo"),
    ("video/m4v", "video/x-m4v"),
    ("video/mpg", "video/mpeg"),
    ("video/msvideo", "video/x-msvideo"),
];

/// The type of this very name, which must be in the table.
pub(super) fn named(name: &str) -> &'static MediaType {
    TYPES.iter().find(|media_type| media_type.name == name).expect("a name of the table")
}

/// The type that a filename extension stands for, in any case.
#[must_use]
pub fn of_extension(extension: &str) -> Option<&'static MediaType> {
    TYPES.iter().find(|media_type| media_type.extensions.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

/// Extensions of kinds that are never accepted: programs, scripts, and media no recipient can open.
static REFUSED_EXTENSIONS: &[&str] = &[
    "7z", "ac3", "apk", "avif", "bat", "bz2", "class", "cmd", "cur", "deb", "dll", "dmg", "docm", "elf", "exe", "flac",
    "flv", "hta", "iso", "jar", "jp2", "js", "jxl", "lnk", "lz4", "mkv", "mjs", "msi", "odp", "ods", "odt", "oga",
    "ogg", "ogv", "opus", "pif", "pkpasses", "ps1", "psd", "py", "rar", "rpm", "scr", "sh", "sqlite", "tar", "ts",
    "vbs", "wasm", "webm", "wma", "wmv", "wsf", "xlsb", "xlsm", "xz", "zst",
];

/// The extension of `filename`, lower case, when it names a kind that is never accepted.
#[must_use]
pub fn refused_extension(filename: &str) -> Option<&'static str> {
    // Some systems drop dots and blanks at the end of a name when they store it.
    let (_, extension) = filename.trim_end_matches(['.', ' ']).rsplit_once('.')?;
    REFUSED_EXTENSIONS.iter().find(|refused| refused.eq_ignore_ascii_case(extension)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_accepted_list_is_the_published_enum() {
        let listed: usize = TYPES.iter().map(|media_type| 1 + media_type.deprecated.len()).sum();
        assert_eq!(listed, 51, "the newest SDK lists 51 content types");
    }

    #[test]
    fn no_name_or_extension_stands_for_two_types() {
        let mut names = HashSet::new();
        let mut extensions = HashSet::new();
        for media_type in TYPES {
            for name in [&[media_type.name], media_type.deprecated, media_type.legacy].concat() {
                assert!(names.insert(name), "{name}");
            }
            for extension in media_type.extensions {
                assert!(extensions.insert(extension), "{extension}");
                assert_eq!(refused_extension(&format!("a.{extension}")), None, "{extension}");
            }
        }
    }

    #[test]
    fn declared_names_are_found_and_reported() {
        for (declared_as, reported, delivered) in [
            ("image/jpeg", "image/jpeg", "image/jpeg"),
            ("IMAGE/JPEG", "image/jpeg", "image/jpeg"),
            ("image/jpg", "image/jpeg", "image/jpeg"),
            ("audio/mp3", "audio/mp3", "audio/mpeg"),
            ("audio/mp4", "audio/mp4", "audio/x-m4a"),
            ("audio/wav", "audio/x-wav", "audio/x-wav"),
            ("video/mpeg2", "video/mpeg2", "video/mpeg"),
        ] {
            let found = declared(declared_as).expect(declared_as);
            assert_eq!((found.reported, found.media_type.name), (reported, delivered), "{declared_as}");
        }
        for refused in ["", "application/octet-stream", "audio/flac", "image/jpeg; q=1", " image/jpeg", "image"] {
            assert_eq!(declared(refused), None, "{refused}");
        }
    }

    #[test]
    fn refused_extensions_are_found_in_any_case() {
        assert_eq!(refused_extension("setup.EXE"), Some("exe"));
        assert_eq!(refused_extension("setup.exe. "), Some("exe"));
        assert_eq!(refused_extension("holiday.exe.jpg"), None);
        assert_eq!(refused_extension("exe"), None);
    }
}
