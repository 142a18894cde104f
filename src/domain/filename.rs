//! Filenames: kept as given for JSON, made harmless for URLs.

use percent_encoding::percent_decode_str;

/// Most characters of a filename (Linq Partner API v3, `POST /v3/attachments`).
pub const MAX_LENGTH: usize = 255;

/// The filename as the last segment of a URL (not yet percent-encoded): path separators and control characters
/// become `_`, and the names `.` and `..`, which would be resolved away, do as well.
#[must_use]
pub fn url_segment(filename: &str) -> String {
    match filename {
        "." => "_".to_owned(),
        ".." => "__".to_owned(),
        _ => filename.chars().map(|c| if c.is_control() || matches!(c, '/' | '\\') { '_' } else { c }).collect(),
    }
}

/// The name of the file at a URL's path: its last segment, percent-decoded. Empty if the path ends in a slash.
#[must_use]
pub fn of_url_path(path: &str) -> String {
    let segment = path.rsplit('/').next().unwrap_or_default();
    shortened(&percent_decode_str(segment).decode_utf8_lossy())
}

/// The name of a file that was converted: with another extension. Never the same name, so that both can be told apart.
#[must_use]
pub fn converted(filename: &str, extension: &str) -> String {
    let stem = filename.rsplit_once('.').map_or(filename, |(stem, _)| stem);
    let stem = if stem.is_empty() { filename } else { stem };
    let name = shortened(&format!("{stem}.{extension}"));
    if name != filename {
        return name;
    }
    let ending = format!("-converted.{extension}");
    stem.chars().take(MAX_LENGTH - ending.len()).chain(ending.chars()).collect()
}

/// The name cut to [`MAX_LENGTH`], in front of its extension if that is no longer than extensions are.
fn shortened(filename: &str) -> String {
    const LONGEST_EXTENSION: usize = 10;
    let length = filename.chars().count();
    if length <= MAX_LENGTH {
        return filename.to_owned();
    }
    let (stem, extension) = match filename.rsplit_once('.') {
        Some((stem, extension)) if extension.chars().count() <= LONGEST_EXTENSION => (stem, format!(".{extension}")),
        _ => (filename, String::new()),
    };
    stem.chars().take(MAX_LENGTH - extension.chars().count()).chain(extension.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_what_was_converted() {
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
            assert!(converted.chars().count() == MAX_LENGTH && converted != *name, "{converted}");
        }
    }

    #[test]
    fn the_name_of_a_url() {
        for (path, name) in [
            ("/a/photo.jpg", "photo.jpg"),
            ("/a/%C3%BCber%20uns.jpg", "über uns.jpg"),
            ("/a%2Fb.jpg", "a/b.jpg"),
            ("/%ff.jpg", "\u{fffd}.jpg"),
            ("/a/", ""),
            ("/", ""),
        ] {
            assert_eq!(of_url_path(path), name, "{path}");
        }
        let long = of_url_path(&format!("/{}.jpeg", "ü".repeat(300)));
        assert!(long.chars().count() == MAX_LENGTH && long.ends_with("ü.jpeg"), "{long}");
        assert_eq!(of_url_path(&format!("/a.{}", "b".repeat(300))).chars().count(), MAX_LENGTH);
    }

    #[test]
    fn nothing_that_steers_a_path_survives() {
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
