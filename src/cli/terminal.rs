//! Text that others wrote, on the terminal. Owns its escaping: a server must not move the cursor, colour or hide what
//! this program says, or write lines that look like its own.

use std::fmt;

use serde::Deserialize;

/// The most characters of a text that are shown.
const MAX_SHOWN: usize = 1000;

/// Text that a server sent. It is only ever displayed escaped and cut.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServerText(String);

impl ServerText {
    /// Of a body or a header.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as it came, to be compared or sent back, never to be shown.
    pub(super) fn as_sent(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        f.write_str(&escape(
            &rest.by_ref().take(MAX_SHOWN).collect::<String>(),
            |_| false,
        ))?;
        if rest.next().is_some() {
            f.write_str("...")
        } else {
            Ok(())
        }
    }
}

/// A name from this machine, such as that of a file that somebody sent.
pub(super) fn escaped(text: &str) -> String {
    escape(text, |_| false)
}

/// The text of an error, which may have several lines.
pub(super) fn escaped_lines(text: &str) -> String {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

fn escape(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut escaped, c| {
            if is_active(c) && !is_kept(c) {
                escaped.extend(c.escape_unicode());
            } else {
                escaped.push(c);
            }
            escaped
        })
}

/// Whether a terminal may act on a character instead of showing it: C0, DEL and C1 (ECMA-48), line and paragraph
/// separators, marks and overrides of direction (Unicode Standard Annex 9), and tags, which no terminal shows.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        )
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        let hostile =
            "a\u{1b}[2J\u{7}\u{7f}\u{9b}31m\r\n\u{202e}b\u{2066}\u{2028}\u{feff}\u{e0041}é😀";
        let shown = ServerText::new(hostile).to_string();
        assert!(!shown.contains(is_active), "{shown:?}");
        assert!(
            shown.starts_with("a\\u{1b}[2J\\u{7}\\u{7f}\\u{9b}31m\\u{d}\\u{a}\\u{202e}b")
                && shown.ends_with("é😀")
        );
        assert_eq!(escaped_lines("a\n\tb\u{1b}"), "a\n\tb\\u{1b}");
        assert_eq!(
            ServerText::new("é".repeat(1001)).to_string(),
            "é".repeat(1000) + "..."
        );
    }
}
