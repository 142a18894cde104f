//! Filenames: kept as given for JSON, made harmless for URLs.

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

#[cfg(test)]
mod tests {
    use super::*;

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
