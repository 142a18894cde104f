//! Prints to the terminal. Escapes untrusted text first (terminal injection): text from a server
//! must not move the cursor, change colours, or hide or imitate the program's own output.

use std::fmt;
use std::io::{self, Write as _};

use serde::Deserialize;

/// Maximum number of characters printed of a text that a server sent.
const MAX_SHOWN: usize = 1000;

/// Untrusted text from a server. `Display` escapes and truncates it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServerText(String);

impl ServerText {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the unescaped text, for comparing it or sending it back. It must never be printed.
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

/// Prints a line. If the reader has closed the pipe, as `head` does, the line is dropped and the
/// command goes on. Other errors, such as a full disk, end the program.
pub(super) fn print_line(line: fmt::Arguments<'_>) {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("haversack: cannot write to standard output: {error}");
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Escapes a name from this machine, such as a file name, for printing.
pub(super) fn escaped(text: &str) -> String {
    escape(text, |_| false)
}

/// Escapes an error message for printing, keeping line breaks and tabs.
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

/// Returns true for characters that a terminal may interpret or hide: C0, DEL and C1 (ECMA-48),
/// line and paragraph separators, directional marks and overrides (Unicode Standard Annex 9), and
/// tags.
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
    fn characters_that_a_terminal_interprets_are_escaped() {
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
