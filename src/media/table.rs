//! The one table of accepted types. Code, tests and documentation read it; nobody keeps a list of their own.
//! Names and aliases: Linq Partner API v3, `POST /v3/attachments`, field `content_type`.

/// How the CDN serves a type to a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Shown in place.
    Inline,
    /// Offered as a download, because a browser would run or render it as a document of our origin.
    Attachment,
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
}

const fn inline(name: &'static str, extensions: &'static [&'static str]) -> MediaType {
    MediaType { name, deprecated: &[], legacy: &[], extensions, disposition: Disposition::Inline }
}

const fn attachment(name: &'static str, extensions: &'static [&'static str]) -> MediaType {
    MediaType { disposition: Disposition::Attachment, ..inline(name, extensions) }
}

impl MediaType {
    const fn deprecated(self, deprecated: &'static [&'static str]) -> Self {
        Self { deprecated, ..self }
    }

    const fn legacy(self, legacy: &'static [&'static str]) -> Self {
        Self { legacy, ..self }
    }
}

/// Every accepted type.
pub static TYPES: &[MediaType] = &[
    inline("image/jpeg", &["jpg", "jpeg"]).legacy(&["image/jpg"]),
    inline("image/png", &["png"]),
    inline("image/gif", &["gif"]),
    inline("image/heic", &["heic"]),
    inline("image/heif", &["heif"]),
    inline("image/tiff", &["tiff", "tif"]),
    inline("image/bmp", &["bmp"]).legacy(&["image/x-ms-bmp"]),
    attachment("image/svg+xml", &["svg"]),
    inline("image/webp", &["webp"]),
    inline("image/x-icon", &["ico"]),
    inline("video/mp4", &["mp4"]),
    inline("video/quicktime", &["mov"]),
    inline("video/mpeg", &["mpeg", "mpg"]).deprecated(&["video/mpeg2"]),
    inline("video/x-m4v", &["m4v"]),
    inline("video/x-msvideo", &["avi"]),
    inline("video/3gpp", &["3gp"]),
    inline("audio/mpeg", &["mp3"]).deprecated(&["audio/mp3"]),
    inline("audio/x-m4a", &["m4a"]).deprecated(&["audio/mp4"]).legacy(&["audio/m4a"]),
    inline("audio/x-caf", &["caf"]),
    inline("audio/x-wav", &["wav"]).legacy(&["audio/wav"]),
    inline("audio/x-aiff", &["aiff", "aif"]).deprecated(&["audio/aiff"]),
    inline("audio/aac", &["aac"]).legacy(&["audio/x-aac"]),
    inline("audio/midi", &["mid", "midi"]),
    inline("audio/amr", &["amr"]),
    inline("application/pdf", &["pdf"]),
    inline("application/vnd.apple.pkpass", &["pkpass"]),
    inline("text/plain", &["txt"]),
    inline("text/markdown", &["md"]),
    inline("text/vcard", &["vcf"]).legacy(&["text/x-vcard"]),
    inline("text/rtf", &["rtf"]).legacy(&["application/rtf"]),
    inline("text/csv", &["csv"]),
    attachment("text/html", &["html", "htm"]),
    inline("text/calendar", &["ics"]),
    attachment("text/xml", &["xml"]),
    attachment("application/json", &["json"]),
    inline("application/msword", &["doc"]),
    inline("application/vnd.openxmlformats-officedocument.wordprocessingml.document", &["docx"]),
    inline("application/vnd.ms-excel", &["xls"]),
    inline("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", &["xlsx"]),
    inline("application/vnd.ms-powerpoint", &["ppt"]),
    inline("application/vnd.openxmlformats-officedocument.presentationml.presentation", &["pptx"]),
    inline("application/x-iwork-pages-sffpages", &["pages"]).legacy(&["application/vnd.apple.pages"]),
    inline("application/x-iwork-numbers-sffnumbers", &["numbers"]).legacy(&["application/vnd.apple.numbers"]),
    inline("application/x-iwork-keynote-sffkey", &["key"]).legacy(&["application/vnd.apple.keynote"]),
    inline("application/epub+zip", &["epub"]),
    inline("application/zip", &["zip"]).legacy(&["application/x-zip-compressed"]),
    inline("application/x-gzip", &["gz"]),
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
