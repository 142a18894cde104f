//! Message parts: what a message is made of, and the rules for its text. Lengths and ranges count as the API does:
//! text in characters, ranges in UTF-16 code units.

use serde::{Deserialize, Serialize};

use crate::domain::attachment::{Attachment, FileRef};
use crate::domain::fetch_url::FetchUrl;
use crate::id::AttachmentId;
use crate::quote::quoted;

/// Most parts of a message.
pub const MAX_PARTS: usize = 100;
/// Most media parts of a message that name an external URL.
pub const MAX_EXTERNAL_URLS: usize = 40;
/// Longest text of a part, in characters.
pub const MAX_TEXT_LENGTH: usize = 10_000;
/// Longest URL of a link part, in bytes.
pub const MAX_LINK_LENGTH: usize = 2048;
/// Most text decorations of a part.
pub const MAX_DECORATIONS: usize = 100;
/// Longest `mention`, in characters: the longest e-mail address.
pub const MAX_MENTION_LENGTH: usize = 254;
/// Most inline stickers of a part.
pub const MAX_STICKERS: usize = 100;
/// Most inline stickers of a message. Each names an attachment to look up.
pub const MAX_STICKERS_OF_MESSAGE: usize = 200;

const STYLES: &[&str] = &["bold", "italic", "strikethrough", "underline"];
const ANIMATIONS: &[&str] = &[
    "big", "small", "shake", "nod", "explode", "ripple", "bloom", "jitter",
];

/// A part as a caller asks for it: checked, its attachment not looked up yet.
#[derive(Clone, Debug, PartialEq)]
pub enum DraftPart {
    /// Words.
    Text(Text),
    /// A link with a preview.
    Link(String),
    /// A file of the partner.
    Attachment(AttachmentId),
    /// A file named by one of this server's URLs; `None` if the URL names none.
    OwnFile(Option<FileRef>),
    /// A file that someone else hosts.
    Url(FetchUrl),
}

/// A part of a stored message.
#[derive(Clone, Debug)]
pub enum Part {
    /// Words.
    Text(Text),
    /// A link with a preview.
    Link(String),
    /// A file; `None` once the attachment was deleted.
    Media(Option<Box<Attachment>>),
}

/// The words of a part and what is done to them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// The words, sent as they are.
    pub value: String,
    /// Styles and animations of ranges.
    pub decorations: Vec<Decoration>,
    /// Whom the text mentions.
    pub mention: Option<Mention>,
    /// Stickers in the line with the words.
    pub stickers: Vec<Sticker>,
}

/// A range `[start, end)` of UTF-16 code units.
pub type Range = [u32; 2];

/// One decoration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoration {
    /// The decorated characters.
    pub range: Range,
    /// A style, or
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// an animation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub animation: Option<String>,
}

/// One mention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mention {
    /// The number or address of a participant.
    pub handle: String,
    /// The characters that show the mention; all of them if absent.
    pub range: Option<Range>,
}

/// One inline sticker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sticker {
    /// The characters that the sticker covers.
    pub range: Range,
    /// Its picture, as the id's text.
    pub attachment_id: String,
}

impl Text {
    /// Checks everything that needs no database.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what would be right.
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

    /// Bytes that it takes when it is stored, roughly.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        // A decoration and a sticker as JSON.
        self.value.len() + self.decorations.len() * 40 + self.stickers.len() * 80
    }

    /// Whether the text holds a URL: a word that starts with `http://`, `https://`, `ftp://` or `www.`.
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
