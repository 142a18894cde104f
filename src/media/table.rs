//! Lists the accepted types: the single source of truth for code, tests and documentation. Their
//! names and aliases are those of the Linq Partner API v3, `POST /v3/attachments`, field
//! `content_type`.

use Family::{Archive, Document, Image, Media, Package, Text};

/// The `Content-Disposition` with which the CDN serves files of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The browser displays the file.
    Inline,
    /// The browser downloads the file, because it would otherwise run it or render it as a document
    /// of our origin.
    Attachment,
}

/// Group of related types. Among images and among media, a claimed type may differ from the
/// content's type within the group; in other groups it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Images, except SVG, which is text.
    Image,
    /// Video and audio, which share containers.
    Media,
    /// Binary documents, each in a format of its own.
    Document,
    /// Documents that are ZIP archives with a known structure.
    Package,
    Archive,
    /// Text of any kind, SVG included.
    Text,
}

/// An accepted media type.
#[derive(Debug, PartialEq, Eq)]
pub struct MediaType {
    /// Name under which files are delivered (`mime_type` in message parts, `Content-Type` of the
    /// file).
    pub name: &'static str,
    /// Names that the API still lists. They are reported back as declared, but files are delivered
    /// as `name`.
    pub deprecated: &'static [&'static str],
    /// Spellings that older official clients send, replaced by `name` on receipt.
    pub legacy: &'static [&'static str],
    /// Filename extensions in lower case, the usual one first.
    pub extensions: &'static [&'static str],
    pub disposition: Disposition,
    pub family: Family,
    /// Noun phrase for the type in error messages: "a JPEG image".
    pub noun: &'static str,
    /// How content of the type is recognised, in Markdown for the documentation.
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
    MediaType {
        name,
        deprecated: &[],
        legacy: &[],
        extensions,
        disposition,
        family,
        noun,
        signature,
    }
}

impl MediaType {
    const fn deprecated(self, deprecated: &'static [&'static str]) -> Self {
        Self { deprecated, ..self }
    }

    const fn legacy(self, legacy: &'static [&'static str]) -> Self {
        Self { legacy, ..self }
    }

    const fn attachment(self) -> Self {
        Self {
            disposition: Disposition::Attachment,
            ..self
        }
    }

    /// Formats the type as a row of the Markdown table in the documentation: name, other names,
    /// extensions, signature and disposition.
    #[must_use]
    pub fn row(&self) -> String {
        let code = |words: &[&str]| {
            words
                .iter()
                .map(|word| format!("`{word}`"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let served = match self.disposition {
            Disposition::Inline => "inline",
            Disposition::Attachment => "attachment",
        };
        let others = code(&[self.deprecated, self.legacy].concat());
        format!(
            "| `{}` | {others} | {} | {} | {served} |\n",
            self.name,
            code(self.extensions),
            self.signature
        )
    }
}

pub static TYPES: &[MediaType] = &[
    inline(
        Image,
        "image/jpeg",
        &["jpg", "jpeg"],
        "a JPEG image",
        "`FF D8 FF`, markers up to the scan, an end marker",
    )
    .legacy(&["image/jpg"]),
    inline(
        Image,
        "image/png",
        &["png"],
        "a PNG image",
        "`89 50 4E 47 0D 0A 1A 0A`, a whole `IHDR`, an `IDAT`, chunks that end inside the file",
    ),
    inline(
        Image,
        "image/gif",
        &["gif"],
        "a GIF image",
        "`GIF87a` or `GIF89a`, blocks up to an image",
    ),
    inline(
        Image,
        "image/heic",
        &["heic"],
        "a HEIC image",
        "`ftyp` with an HEVC image brand, a `meta` box",
    ),
    inline(
        Image,
        "image/heif",
        &["heif"],
        "a HEIF image",
        "`ftyp` with another HEIF brand, a `meta` box",
    ),
    inline(
        Image,
        "image/tiff",
        &["tiff", "tif"],
        "a TIFF image",
        "`II` or `MM` and 42 or 43, a readable first directory",
    ),
    inline(
        Image,
        "image/bmp",
        &["bmp"],
        "a BMP image",
        "`BM` and a known bitmap header",
    )
    .legacy(&["image/x-ms-bmp"]),
    inline(
        Text,
        "image/svg+xml",
        &["svg"],
        "an SVG image",
        "text whose root element is `svg`",
    )
    .attachment(),
    inline(
        Image,
        "image/webp",
        &["webp"],
        "a WebP image",
        "`RIFF`, `WEBP` and a `VP8` chunk",
    ),
    inline(
        Image,
        "image/x-icon",
        &["ico"],
        "a Windows icon",
        "`00 00 01 00` and a directory of pictures inside the file",
    ),
    inline(
        Media,
        "video/mp4",
        &["mp4"],
        "an MP4 video",
        "`ftyp` with a neutral brand, a movie with pictures",
    ),
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
    inline(
        Media,
        "video/x-msvideo",
        &["avi"],
        "an AVI video",
        "`RIFF`, `AVI` and the main header",
    ),
    inline(
        Media,
        "video/3gpp",
        &["3gp", "3gpp"],
        "a 3GPP video",
        "`ftyp` with a `3gp` brand",
    ),
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
    inline(
        Media,
        "audio/x-caf",
        &["caf"],
        "CAF audio",
        "`caff`, version 1, a `desc` chunk",
    ),
    inline(
        Media,
        "audio/x-wav",
        &["wav"],
        "WAV audio",
        "`RIFF`, `RF64` or `BW64`, `WAVE`, and `fmt` and `data` chunks",
    )
    .legacy(&["audio/wav"]),
    inline(
        Media,
        "audio/x-aiff",
        &["aiff", "aif", "aifc"],
        "AIFF audio",
        "`FORM`, `AIFF` or `AIFC`, a `COMM` chunk",
    )
    .deprecated(&["audio/aiff"]),
    inline(
        Media,
        "audio/aac",
        &["aac"],
        "AAC audio",
        "ADTS frames in a row, after tags if there are any",
    )
    .legacy(&["audio/x-aac"]),
    inline(
        Media,
        "audio/midi",
        &["mid", "midi"],
        "MIDI music",
        "`MThd` and a track, also inside `RIFF` `RMID`",
    ),
    inline(
        Media,
        "audio/amr",
        &["amr"],
        "AMR audio",
        "`#!AMR` and a whole frame",
    ),
    inline(
        Document,
        "application/pdf",
        &["pdf"],
        "a PDF document",
        "`%PDF-` in the first 1,024 bytes, and an object",
    ),
    inline(
        Package,
        "application/vnd.apple.pkpass",
        &["pkpass"],
        "a Wallet pass",
        "a ZIP archive with `pass.json` and `manifest.json`",
    ),
    inline(
        Text,
        "text/plain",
        &["txt"],
        "plain text",
        "text, by its name",
    ),
    inline(
        Text,
        "text/markdown",
        &["md", "markdown"],
        "Markdown text",
        "text, by its name",
    ),
    inline(
        Text,
        "text/vcard",
        &["vcf"],
        "a vCard",
        "text that starts with `BEGIN:VCARD`",
    )
    .legacy(&["text/x-vcard"]),
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
    inline(
        Text,
        "text/calendar",
        &["ics"],
        "an iCalendar file",
        "text that starts with `BEGIN:VCALENDAR`",
    ),
    inline(
        Text,
        "text/xml",
        &["xml"],
        "an XML document",
        "text that starts with an XML declaration or an element",
    )
    .attachment(),
    inline(
        Text,
        "application/json",
        &["json"],
        "a JSON document",
        "text that parses as JSON",
    )
    .attachment(),
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
    inline(
        Archive,
        "application/x-gzip",
        &["gz"],
        "a gzip file",
        "`1F 8B 08` and valid flags",
    ),
];

/// Returns the type called `name`. The name must be in the table.
pub(super) fn named(name: &str) -> &'static MediaType {
    TYPES
        .iter()
        .find(|media_type| media_type.name == name)
        .expect("the name is in the table")
}
