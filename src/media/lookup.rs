//! Looks up accepted media types by declared type, `Content-Type` header or filename extension.

use super::table::{MediaType, TYPES};

/// A `content_type` that a client declared and the API accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Type name that GET reports: the declared one, but with legacy spellings replaced.
    pub reported: &'static str,
    pub media_type: &'static MediaType,
}

/// Looks up a declared `content_type`, ignoring case. Returns `None` if the API does not accept it.
/// A value with parameters (`text/plain; charset=utf-8`) is never accepted.
#[must_use]
pub fn declared(content_type: &str) -> Option<Declared> {
    let same = |name: &&&'static str| name.eq_ignore_ascii_case(content_type);
    TYPES.iter().find_map(|media_type| {
        let listed = std::iter::once(&media_type.name)
            .chain(media_type.deprecated)
            .find(same);
        let reported = listed
            .copied()
            .or_else(|| media_type.legacy.iter().find(same).map(|_| media_type.name))?;
        Some(Declared {
            reported,
            media_type,
        })
    })
}

/// Looks up the type in a response's `Content-Type` header. Ignores parameters, and also accepts
/// spellings that are common on the web but not accepted by the API.
#[must_use]
pub fn from_content_type_header(value: &str) -> Option<&'static MediaType> {
    let name = value.split(';').next().unwrap_or_default().trim();
    let alias = HEADER_ALIASES
        .iter()
        .find(|(alias, _)| alias.eq_ignore_ascii_case(name));
    declared(alias.map_or(name, |(_, listed)| listed)).map(|declared| declared.media_type)
}

/// Spellings of types found in `Content-Type` headers, each with the name in the type table.
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

/// Looks up an accepted type by filename extension, ignoring case.
#[must_use]
pub fn by_extension(extension: &str) -> Option<&'static MediaType> {
    TYPES.iter().find(|media_type| {
        media_type
            .extensions
            .iter()
            .any(|known| known.eq_ignore_ascii_case(extension))
    })
}

/// Filename extensions of formats that are never accepted: programs, scripts, and media that no
/// recipient can open.
static REFUSED_EXTENSIONS: &[&str] = &[
    "7z", "ac3", "apk", "avif", "bat", "bz2", "class", "cmd", "cur", "deb", "dll", "dmg", "docm",
    "elf", "exe", "flac", "flv", "hta", "iso", "jar", "jp2", "js", "jxl", "lnk", "lz4", "mkv",
    "mjs", "msi", "odp", "ods", "odt", "oga", "ogg", "ogv", "opus", "pif", "pkpasses", "ps1",
    "psd", "py", "rar", "rpm", "scr", "sh", "sqlite", "tar", "ts", "vbs", "wasm", "webm", "wma",
    "wmv", "wsf", "xlsb", "xlsm", "xz", "zst",
];

/// Returns the extension of `filename` in lower case if that format is never accepted.
#[must_use]
pub fn refused_extension(filename: &str) -> Option<&'static str> {
    // Some systems strip trailing dots and spaces when they store a filename, so they are ignored.
    let (_, extension) = filename.trim_end_matches(['.', ' ']).rsplit_once('.')?;
    REFUSED_EXTENSIONS
        .iter()
        .find(|refused| refused.eq_ignore_ascii_case(extension))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn accepted_types_match_published_enum() {
        let listed: usize = TYPES
            .iter()
            .map(|media_type| 1 + media_type.deprecated.len())
            .sum();
        assert_eq!(listed, 51, "the newest SDK lists 51 content types");
    }

    #[test]
    fn names_and_extensions_are_unambiguous() {
        let mut names = HashSet::new();
        let mut extensions = HashSet::new();
        for media_type in TYPES {
            for name in [&[media_type.name], media_type.deprecated, media_type.legacy].concat() {
                assert!(names.insert(name), "{name}");
            }
            for extension in media_type.extensions {
                assert!(extensions.insert(extension), "{extension}");
                assert_eq!(
                    refused_extension(&format!("a.{extension}")),
                    None,
                    "{extension}"
                );
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
            assert_eq!(
                (found.reported, found.media_type.name),
                (reported, delivered),
                "{declared_as}"
            );
        }
        for refused in [
            "",
            "application/octet-stream",
            "audio/flac",
            "image/jpeg; q=1",
            " image/jpeg",
            "image",
        ] {
            assert_eq!(declared(refused), None, "{refused}");
        }
    }

    #[test]
    fn header_parameters_are_ignored_and_aliases_accepted() {
        for (header, expected) in [
            ("image/png", Some("image/png")),
            ("Text/Markdown; charset=UTF-8", Some("text/markdown")),
            (" application/xml ;q=1", Some("text/xml")),
            ("APPLICATION/GZIP", Some("application/x-gzip")),
            ("application/octet-stream", None),
            ("", None),
            (";", None),
        ] {
            assert_eq!(
                from_content_type_header(header).map(|media_type| media_type.name),
                expected,
                "{header}"
            );
        }
        for (alias, listed) in HEADER_ALIASES {
            assert!(
                declared(alias).is_none() && declared(listed).is_some(),
                "{alias}"
            );
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
