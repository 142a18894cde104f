//! Defines message parts and checks their text. As in the API, lengths of text are in characters,
//! and ranges in UTF-16 code units.

use serde::{Deserialize, Serialize};

use crate::domain::attachment::{Attachment, FileRef};
use crate::domain::fetch_url::FetchUrl;
use crate::id::AttachmentId;
use crate::quote::quoted;

/// Maximum number of parts of a message.
pub const MAX_PARTS: usize = 100;
/// Maximum number of media parts of a message with an external URL.
pub const MAX_EXTERNAL_URLS: usize = 40;
/// Maximum length of the text of a part, in characters.
pub const MAX_TEXT_LENGTH: usize = 10_000;
/// Maximum length of the URL of a link part, in bytes.
pub const MAX_LINK_LENGTH: usize = 2048;
/// Maximum number of text decorations of a part.
pub const MAX_DECORATIONS: usize = 100;
/// Maximum length of a `mention`, in characters: that of an e-mail address.
pub const MAX_MENTION_LENGTH: usize = 254;
/// Maximum number of inline stickers of a part.
pub const MAX_STICKERS: usize = 100;
/// Maximum number of inline stickers of a message. Each costs a lookup of an attachment.
pub const MAX_STICKERS_OF_MESSAGE: usize = 200;

const STYLES: &[&str] = &["bold", "italic", "strikethrough", "underline"];
const ANIMATIONS: &[&str] = &[
    "big", "small", "shake", "nod", "explode", "ripple", "bloom", "jitter",
];

/// A part of a request: validated, but its attachment has not been looked up yet.
#[derive(Clone, Debug, PartialEq)]
pub enum DraftPart {
    Text(Text),
    /// A link with a preview.
    Link(String),
    /// An attachment of the partner.
    Attachment(AttachmentId),
    /// A file named by one of this server's URLs; `None` if the URL names none.
    OwnFile(Option<FileRef>),
    /// A file on another server, to be fetched.
    Url(FetchUrl),
}

/// A part of a stored message.
#[derive(Clone, Debug)]
pub enum Part {
    Text(Text),
    /// A link with a preview.
    Link(String),
    /// A file; `None` once the attachment was deleted.
    Media(Option<Box<Attachment>>),
}

/// Text with its decorations, mention and inline stickers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// The text, verbatim.
    pub value: String,
    pub decorations: Vec<Decoration>,
    pub mention: Option<Mention>,
    /// Stickers within the line of text.
    pub stickers: Vec<Sticker>,
}

/// A range `[start, end)` of UTF-16 code units.
pub type Range = [u32; 2];

/// A style or an animation of a range of text: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoration {
    /// The decorated characters.
    pub range: Range,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub animation: Option<String>,
}

/// A mention of a participant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mention {
    /// Phone number or e-mail address of the participant.
    pub handle: String,
    /// The characters that show the mention; all of them if absent.
    pub range: Option<Range>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sticker {
    /// The characters that the sticker covers.
    pub range: Range,
    /// Id of the attachment with the picture, as text.
    pub attachment_id: String,
}

impl Text {
    /// Checks the rules that need no database.
    ///
    /// # Errors
    /// A sentence that names the violated rule and how to comply with it.
    pub fn check(&self) -> Result<(), String> {
        match self.value.chars().count() {
            0 => return Err("a text part needs a value of at least one character".to_owned()),
            length if length > MAX_TEXT_LENGTH => {
                return Err(format!(
                    "a text part holds at most {MAX_TEXT_LENGTH} characters; this one has {length}"
                ));
            }
            _ => {}
        }
        let length = u32::try_from(self.value.encode_utf16().count()).unwrap_or(u32::MAX);
        let check_range = |range: Range, what: &str| {
            if range[0] < range[1] && range[1] <= length {
                return Ok(());
            }
            Err(format!(
                "{what} [{}, {}) is not a range within the {length} UTF-16 units of value",
                range[0], range[1]
            ))
        };
        if self.decorations.len() > MAX_DECORATIONS {
            return Err(format!(
                "a text part has at most {MAX_DECORATIONS} text_decorations"
            ));
        }
        for decoration in &self.decorations {
            check_range(decoration.range, "text_decorations range")?;
            decoration.check()?;
        }
        if let Some(range) = self.mention.as_ref().and_then(|mention| mention.range) {
            check_range(range, "mention_range")?;
        }
        if self
            .mention
            .as_ref()
            .is_some_and(|mention| mention.handle.chars().count() > MAX_MENTION_LENGTH)
        {
            return Err(format!(
                "mention has more than {MAX_MENTION_LENGTH} characters: name a participant"
            ));
        }
        if self.stickers.len() > MAX_STICKERS {
            return Err(format!(
                "a text part has at most {MAX_STICKERS} inline_stickers"
            ));
        }
        if self.mention.is_some() && !self.stickers.is_empty() {
            return Err("inline_stickers cannot be combined with mention".to_owned());
        }
        let mut covered: Vec<Range> = self.stickers.iter().map(|sticker| sticker.range).collect();
        covered.sort_unstable();
        for range in &covered {
            check_range(*range, "inline_stickers range")?;
        }
        if covered.windows(2).any(|pair| pair[0][1] > pair[1][0]) {
            return Err("inline_stickers cannot overlap each other".to_owned());
        }
        Ok(())
    }

    /// Returns the approximate size of the stored text, in bytes.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        // Approximate sizes as JSON: 40 bytes per decoration, 80 per sticker.
        self.value.len() + self.decorations.len() * 40 + self.stickers.len() * 80
    }

    /// Returns true if the text contains a URL: a word that starts with `http://`, `https://`,
    /// `ftp://` or `www.`.
    #[must_use]
    pub fn has_url(&self) -> bool {
        let lower = self.value.to_lowercase();
        ["http://", "https://", "ftp://", "www."]
            .iter()
            .any(|start| {
                lower
                    .match_indices(start)
                    .any(|(at, _)| !lower[..at].ends_with(|before: char| before.is_alphanumeric()))
            })
    }
}

impl Decoration {
    fn check(&self) -> Result<(), String> {
        let (name, allowed, what) = match (&self.style, &self.animation) {
            (Some(style), None) => (style, STYLES, "style"),
            (None, Some(animation)) => (animation, ANIMATIONS, "animation"),
            _ => return Err("a text decoration has exactly one of style and animation".to_owned()),
        };
        if allowed.contains(&name.as_str()) {
            return Ok(());
        }
        Err(format!(
            "a decoration's {what} is one of {}; not {name}",
            allowed.join(", "),
            name = quoted(name)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Text {
        Text {
            value: value.to_owned(),
            ..Text::default()
        }
    }

    #[test]
    fn urls_in_text_are_seen() {
        for with in [
            "http://a.example",
            "see HTTPS://a.example",
            "(www.example.com)",
            "x ftp://a",
        ] {
            assert!(text(with).has_url(), "{with}");
        }
        for without in ["hello", "awww.yes", "http:/a", "example.com", "xhttps://a"] {
            assert!(!text(without).has_url(), "{without}");
        }
    }

    #[test]
    fn lengths_count_characters_and_ranges_utf16_units() {
        assert!(text("").check().is_err());
        assert!(text(" ").check().is_ok());
        assert!(text(&"é".repeat(MAX_TEXT_LENGTH)).check().is_ok());
        assert!(text(&"é".repeat(MAX_TEXT_LENGTH + 1)).check().is_err());

        let bold = |range| Text {
            decorations: vec![Decoration {
                range,
                style: Some("bold".to_owned()),
                animation: None,
            }],
            ..text("🎂")
        };
        assert!(bold([0, 2]).check().is_ok(), "an emoji is two units");
        for range in [[0, 3], [1, 1], [2, 1]] {
            assert!(bold(range).check().is_err(), "{range:?}");
        }
    }

    #[test]
    fn a_decoration_is_one_known_thing() {
        let decoration = |style: Option<&str>, animation: Option<&str>| Decoration {
            range: [0, 1],
            style: style.map(str::to_owned),
            animation: animation.map(str::to_owned),
        };
        assert!(decoration(Some("bold"), None).check().is_ok());
        assert!(decoration(None, Some("shake")).check().is_ok());
        for (style, animation) in [
            (None, None),
            (Some("bold"), Some("shake")),
            (Some("shake"), None),
        ] {
            assert!(decoration(style, animation).check().is_err());
        }
    }

    #[test]
    fn mention_is_no_longer_than_an_address() {
        let mention = |length| Text {
            mention: Some(Mention {
                handle: "x".repeat(length),
                range: None,
            }),
            ..text("x")
        };
        assert!(mention(MAX_MENTION_LENGTH).check().is_ok());
        assert!(mention(MAX_MENTION_LENGTH + 1).check().is_err());
    }

    #[test]
    fn stickers_do_not_overlap() {
        let with = |ranges: &[Range]| Text {
            stickers: ranges
                .iter()
                .map(|range| Sticker {
                    range: *range,
                    attachment_id: String::new(),
                })
                .collect(),
            ..text("cake cake")
        };
        assert!(with(&[[5, 9], [0, 4]]).check().is_ok());
        assert!(with(&[[0, 5], [4, 9]]).check().is_err());
    }
}
