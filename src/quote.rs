//! Quotes, escapes and truncates untrusted text, so that error messages and log lines that contain
//! it stay short and on one line.

use std::fmt::{self, Write};

/// Maximum number of characters of an untrusted text that are quoted.
pub const MAX_QUOTED: usize = 100;
/// Maximum length of a quoted text after escaping, in characters. An escaped control character
/// takes up to eight.
const MAX_ESCAPED: usize = 200;
/// Maximum length of a whole message, in characters.
pub const MAX_MESSAGE: usize = 500;

/// Displays untrusted text; created by [`quoted`] and [`shown`].
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a> {
    text: &'a str,
    marks: &'static str,
}

/// Displays a text in quotation marks, with control characters escaped. A long text is cut to its
/// start, followed by its length.
#[must_use]
pub const fn quoted(text: &str) -> Quoted<'_> {
    Quoted { text, marks: "\"" }
}

/// Displays a text as [`quoted`] does, but without quotation marks.
#[must_use]
pub const fn shown(text: &str) -> Quoted<'_> {
    Quoted { text, marks: "" }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, marks } = self;
        f.write_str(marks)?;
        let mut written = 0;
        for (at, c) in text.chars().enumerate() {
            let is_plain = marks.is_empty() && matches!(c, '"' | '\'' | '\\');
            let escaped = c.escape_debug();
            written += if is_plain { 1 } else { escaped.len() };
            if at == MAX_QUOTED || written > MAX_ESCAPED {
                return write!(f, "{marks}... ({} bytes)", text.len());
            }
            if is_plain {
                f.write_char(c)
            } else {
                write!(f, "{escaped}")
            }?;
        }
        f.write_str(marks)
    }
}

/// Truncates a message to [`MAX_MESSAGE`] characters. Intended for error messages from libraries,
/// which can repeat untrusted text in full.
#[must_use]
pub fn bounded(message: String) -> String {
    truncated(message, MAX_MESSAGE)
}

/// Truncates a text to `max_chars` characters, and appends `...` if it was longer.
fn truncated(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
        text.push_str("...");
        text.shrink_to_fit();
    }
    text
}

/// A writer that fails once its text has reached the maximum length, which ends the formatting.
#[derive(Debug)]
pub struct Excerpt {
    text: String,
    remaining: usize,
}

impl Excerpt {
    /// Formats the first [`MAX_MESSAGE`] characters of `value`. The rest is not formatted at all.
    #[must_use]
    pub fn of(value: impl fmt::Display) -> String {
        let mut excerpt = Self {
            text: String::new(),
            remaining: MAX_MESSAGE,
        };
        if write!(excerpt, "{value}").is_err() {
            excerpt.text.push_str("...");
        }
        excerpt.text
    }
}

impl Write for Excerpt {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.remaining = self.remaining.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(c);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_text_is_quoted_whole() {
        assert_eq!(quoted("a \"b\"\n").to_string(), r#""a \"b\"\n""#);
        assert_eq!(quoted("").to_string(), "\"\"");
        assert_eq!(shown("a \"b\"\n").to_string(), "a \"b\"\\n");
        assert_eq!(
            quoted(&"x".repeat(MAX_QUOTED)).to_string(),
            format!("\"{}\"", "x".repeat(MAX_QUOTED))
        );
    }

    #[test]
    fn long_text_is_truncated_and_its_length_shown() {
        let shown = quoted(&"🎂".repeat(25_000)).to_string();
        assert_eq!(
            shown,
            format!("\"{}\"... (100000 bytes)", "🎂".repeat(MAX_QUOTED))
        );
        assert_eq!(truncated("abc".to_owned(), 2), "ab...");
        assert_eq!(truncated("ab".to_owned(), 2), "ab");
    }

    #[test]
    fn excerpt_of_long_text_is_bounded() {
        assert_eq!(Excerpt::of("short"), "short");
        assert_eq!(Excerpt::of("x".repeat(1000)).len(), MAX_MESSAGE + 3);
    }

    proptest! {
        #[test]
        fn quoted_text_is_bounded_and_escaped(text in ".{0,400}|[\\x00-\\x1f\\x7f]{0,400}") {
            let shown = quoted(&text).to_string();
            prop_assert!(shown.chars().count() <= MAX_ESCAPED + 40, "{shown}");
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
