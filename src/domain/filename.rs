//! Sanitises filenames for URLs; in JSON they appear verbatim.

use percent_encoding::percent_decode_str;

/// Maximum length of a filename, in characters (Linq Partner API v3, `POST /v3/attachments`).
pub const MAX_LENGTH: usize = 255;

/// Returns the filename as the last path segment of a URL, before percent-encoding. Path separators
/// and control characters become `_`; so do `.` and `..`, which URL normalisation would remove.
#[must_use]
pub fn url_segment(filename: &str) -> String {
    match filename {
        "." => "_".to_owned(),
        ".." => "__".to_owned(),
        _ => filename
            .chars()
            .map(|c| {
                if c.is_control() || matches!(c, '/' | '\\') {
                    '_'
                } else {
                    c
                }
            })
            .collect(),
    }
}

/// Returns the filename of a URL path: its last segment, percent-decoded. Empty if the path ends in
/// a slash.
#[must_use]
pub fn from_url_path(path: &str) -> String {
    let segment = path.rsplit('/').next().unwrap_or_default();
    shortened(&percent_decode_str(segment).decode_utf8_lossy())
}

/// Returns the filename of a transcoded file: the stem with a new extension. Never equal to the
/// original name, so that the two can be distinguished.
#[must_use]
pub fn converted(filename: &str, extension: &str) -> String {
    let stem = filename.rsplit_once('.').map_or(filename, |(stem, _)| stem);
    let stem = if stem.is_empty() { filename } else { stem };
    let name = shortened(&format!("{stem}.{extension}"));
    if name != filename {
        return name;
    }
    let ending = format!("-converted.{extension}");
    stem.chars()
        .take(MAX_LENGTH - ending.len())
        .chain(ending.chars())
        .collect()
}

/// Truncates a filename to [`MAX_LENGTH`] and preserves the extension if it is at most 10
/// characters long.
fn shortened(filename: &str) -> String {
    const MAX_EXTENSION: usize = 10;
    let length = filename.chars().count();
    if length <= MAX_LENGTH {
        return filename.to_owned();
    }
    let (stem, extension) = match filename.rsplit_once('.') {
        Some((stem, extension)) if extension.chars().count() <= MAX_EXTENSION => {
            (stem, format!(".{extension}"))
        }
        _ => (filename, String::new()),
    };
    stem.chars()
        .take(MAX_LENGTH - extension.chars().count())
        .chain(extension.chars())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converted_file_gets_a_different_name() {
        for (filename, name) in [
            ("scan.tiff", "scan.jpg"),
            ("scan", "scan.jpg"),
            ("scan.tiff.TIF", "scan.tiff.jpg"),
            (".tiff", ".tiff.jpg"),
            ("scan.jpg", "scan-converted.jpg"),
        ] {
            assert_eq!(converted(filename, "jpg"), name, "{filename}");
        }
        let longest = format!("{}.jpg", "a".repeat(MAX_LENGTH - 4));
        for name in [&longest, &"a".repeat(MAX_LENGTH)] {
            let converted = converted(name, "jpg");
            assert!(
                converted.chars().count() == MAX_LENGTH && converted != *name,
                "{converted}"
            );
        }
    }

    #[test]
    fn url_path_yields_last_segment() {
        for (path, name) in [
            ("/a/photo.jpg", "photo.jpg"),
            ("/a/%C3%BCber%20uns.jpg", "über uns.jpg"),
            ("/a%2Fb.jpg", "a/b.jpg"),
            ("/%ff.jpg", "\u{fffd}.jpg"),
            ("/a/", ""),
            ("/", ""),
        ] {
            assert_eq!(from_url_path(path), name, "{path}");
        }
        let long = from_url_path(&format!("/{}.jpeg", "ü".repeat(300)));
        assert!(
            long.chars().count() == MAX_LENGTH && long.ends_with("ü.jpeg"),
            "{long}"
        );
        assert_eq!(
            from_url_path(&format!("/a.{}", "b".repeat(300)))
                .chars()
                .count(),
            MAX_LENGTH
        );
    }

    #[test]
    fn path_traversal_is_neutralised() {
        for (filename, segment) in [
            ("photo.jpg", "photo.jpg"),
            ("../../etc/passwd", ".._.._etc_passwd"),
            ("..", "__"),
            (".", "_"),
            ("a\\b\0c\r\nd", "a_b_c__d"),
            ("über größe.png", "über größe.png"),
        ] {
            assert_eq!(url_segment(filename), segment, "{filename:?}");
        }
    }
}
