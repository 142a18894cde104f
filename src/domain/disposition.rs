//! Builds `Content-Disposition` headers (RFC 6266) for arbitrary filenames.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::filename;
use crate::media::{self, Disposition};

/// Percent-encode set: everything except `attr-char` (RFC 8187 section 3.2.1).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Returns the header value for a filename: `filename` in ASCII for old clients, `filename*` in
/// UTF-8 for current ones.
#[must_use]
pub fn header(disposition: Disposition, name: &str) -> String {
    let mut value = match disposition {
        Disposition::Inline => "inline".to_owned(),
        Disposition::Attachment => "attachment".to_owned(),
    };
    let name = filename::url_segment(name);
    // Some clients decode `%41` in a quoted filename, others do not (RFC 6266 appendix D): replace
    // percent signs too.
    let plain = |c: char| {
        if c == ' ' || (c.is_ascii_graphic() && !matches!(c, '"' | '%')) {
            c
        } else {
            '_'
        }
    };
    let ascii: String = name.chars().map(plain).collect();
    let _ = write!(
        value,
        "; filename=\"{ascii}\"; filename*=UTF-8''{}",
        utf8_percent_encode(&name, ENCODED)
    );
    value
}

/// Returns the header value for a file. Media types missing from the type table are always
/// `attachment`, never `inline`.
#[must_use]
pub fn for_file(media_type: &str, name: &str) -> String {
    let declared = media::declared(media_type);
    header(
        declared.map_or(Disposition::Attachment, |declared| {
            declared.media_type.disposition
        }),
        name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    #[test]
    fn header_contains_ascii_and_utf8_filename() {
        for (name, expected) in [
            (
                "photo.jpg",
                "inline; filename=\"photo.jpg\"; filename*=UTF-8''photo.jpg",
            ),
            (
                "a b.jpg",
                "inline; filename=\"a b.jpg\"; filename*=UTF-8''a%20b.jpg",
            ),
            (
                "über.jpg",
                "inline; filename=\"_ber.jpg\"; filename*=UTF-8''%C3%BCber.jpg",
            ),
            (
                "a\"b\\c.jpg",
                "inline; filename=\"a_b_c.jpg\"; filename*=UTF-8''a%22b_c.jpg",
            ),
            (
                "a\r\nX: y",
                "inline; filename=\"a__X: y\"; filename*=UTF-8''a__X%3A%20y",
            ),
            (
                "100%.txt",
                "inline; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt",
            ),
        ] {
            assert_eq!(header(Disposition::Inline, name), expected, "{name:?}");
        }
        assert!(header(Disposition::Attachment, "a").starts_with("attachment; "));
        assert!(for_file("image/png", "a").starts_with("inline; "));
        assert!(for_file("application/x-unknown", "a").starts_with("attachment; "));
    }

    proptest! {
        #[test]
        fn any_filename_round_trips_through_the_header(name in any::<String>()) {
            let text = header(Disposition::Attachment, &name);
            prop_assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
            let (quoted, extended) = text.split_once("; filename*=UTF-8''").expect("both forms");
            let quoted = quoted.strip_prefix("attachment; filename=\"").and_then(|rest| rest.strip_suffix('"'));
            prop_assert!(quoted.is_some_and(|quoted| !quoted.contains(['"', '\\', '%'])));
            let decoded = percent_decode_str(extended).decode_utf8().expect("UTF-8");
            prop_assert_eq!(decoded, filename::url_segment(&name));
        }
    }
}
