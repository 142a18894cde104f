//! Callers' text in messages: quoted, escaped, and cut, so that an error or a log line is short whatever it is about.

use std::fmt::{self, Write};

/// Most characters of a caller's text in one message.
pub const MAX_QUOTED: usize = 100;
/// Most characters they may take once they are escaped: a control character takes up to eight.
const MAX_ESCAPED: usize = 200;
/// Most characters of a whole message.
pub const MAX_MESSAGE: usize = 500;

/// A caller's text, as [`quoted`] or [`shown`] shows it.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a> {
    text: &'a str,
    marks: &'static str,
}

/// Shows a text within quotation marks: control characters escaped, and of a long text the start and its length.
#[must_use]
pub const fn quoted(text: &str) -> Quoted<'_> {
    Quoted { text, marks: "\"" }
}

/// Shows a text as [`quoted`] does, without quotation marks.
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

/// A message of at most [`MAX_MESSAGE`] characters: the guard behind [`quoted`], for what libraries say of a caller's text.
#[must_use]
pub fn bounded(message: String) -> String {
    cut(message, MAX_MESSAGE)
}

/// A text of at most `most` characters, with `...` after it if it was cut.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push_str("...");
        text.shrink_to_fit();
    }
    text
}

/// Takes what is written until it is full, and nothing of what follows.
#[derive(Debug)]
pub struct Excerpt {
    text: String,
    left: usize,
}

impl Excerpt {
    /// What `arguments` say, at most [`MAX_MESSAGE`] characters of it; the rest is never made.
    #[must_use]
    pub fn of(arguments: impl fmt::Display) -> String {
        let mut excerpt = Self {
            text: String::new(),
            left: MAX_MESSAGE,
        };
        if write!(excerpt, "{arguments}").is_err() {
            excerpt.text.push_str("...");
        }
        excerpt.text
    }
}

impl Write for Excerpt {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
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
    fn long_text_is_cut_and_its_length_told() {
        let shown = quoted(&"🎂".repeat(25_000)).to_string();
        assert_eq!(
            shown,
            format!("\"{}\"... (100000 bytes)", "🎂".repeat(MAX_QUOTED))
        );
        assert_eq!(cut("abc".to_owned(), 2), "ab...");
        assert_eq!(cut("ab".to_owned(), 2), "ab");
    }

    #[test]
    fn excerpt_stops_within_a_long_text() {
        assert_eq!(Excerpt::of("short"), "short");
        assert_eq!(Excerpt::of("x".repeat(1000)).len(), MAX_MESSAGE + 3);
    }

    proptest! {
        #[test]
        fn quotes_are_bounded_whatever_is_quoted(text in ".{0,400}|[\\x00-\\x1f\\x7f]{0,400}") {
            let shown = quoted(&text).to_string();
            prop_assert!(shown.chars().count() <= MAX_ESCAPED + 40, "{shown}");
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
