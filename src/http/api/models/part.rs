//! Defines the JSON models of message parts.

use serde::Serialize;
use utoipa::ToSchema;

use crate::attachments::FileUrls;
use crate::domain::chat::Chat;
use crate::domain::part::{Decoration, Mention, Part, Range, Sticker, Text};

/// A part of a message.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum PartBody {
    /// A text.
    Text {
        value: String,
        #[schema(value_type = Option<Vec<Object>>)]
        text_decorations: Option<Vec<Decoration>>,
        inline_stickers: Option<Vec<StickerBody>>,
        mention: Option<String>,
        #[schema(value_type = Option<Vec<u32>>)]
        mention_range: Option<Range>,
        mentions: Option<Vec<MentionBody>>,
        #[schema(value_type = Option<Vec<Object>>)]
        reactions: Option<()>,
    },
    /// A link.
    Link {
        value: String,
        #[schema(value_type = Option<Vec<Object>>)]
        reactions: Option<()>,
    },
    /// A file. Once its attachment is deleted, all strings are empty and the size is 0.
    Media {
        id: String,
        url: String,
        filename: String,
        mime_type: String,
        size_bytes: u64,
        #[schema(value_type = Option<Vec<Object>>)]
        reactions: Option<()>,
    },
}

/// A sticker within a text.
#[derive(Serialize, ToSchema)]
pub(super) struct StickerBody {
    #[schema(value_type = Vec<u32>)]
    range: Range,
    /// The attachment with the sticker's picture.
    id: String,
}

/// A mention within a text.
#[derive(Serialize, ToSchema)]
pub(super) struct MentionBody {
    handle: String,
    is_me: bool,
    #[schema(value_type = Vec<u32>)]
    range: Range,
}

impl PartBody {
    pub(super) fn new(files: &FileUrls, chat: &Chat, part: &Part) -> Self {
        match part {
            Part::Text(text) => Self::text(chat, text),
            Part::Link(url) => Self::Link {
                value: url.clone(),
                reactions: None,
            },
            Part::Media(Some(attachment)) => {
                let delivered = attachment.delivered();
                Self::Media {
                    id: attachment.id.to_string(),
                    url: files.delivered(attachment),
                    filename: delivered.filename.to_owned(),
                    mime_type: delivered.media_type.to_owned(),
                    size_bytes: delivered.size_bytes,
                    reactions: None,
                }
            }
            // A deleted file has empty fields instead of null or none: without them, the Python SDK
            // would parse the part as text.
            Part::Media(None) => Self::Media {
                id: String::new(),
                url: String::new(),
                filename: String::new(),
                mime_type: String::new(),
                size_bytes: 0,
                reactions: None,
            },
        }
    }

    fn text(chat: &Chat, text: &Text) -> Self {
        let mention = text.mention.as_ref();
        Self::Text {
            value: text.value.clone(),
            text_decorations: non_empty(text.decorations.clone()),
            inline_stickers: non_empty(text.stickers.iter().map(StickerBody::from).collect()),
            mention: mention.map(|mention| mention.handle.clone()),
            mention_range: mention.and_then(|mention| mention.range),
            mentions: mention.map(|mention| vec![MentionBody::new(chat, text, mention)]),
            reactions: None,
        }
    }
}

impl From<&Sticker> for StickerBody {
    fn from(sticker: &Sticker) -> Self {
        Self {
            range: sticker.range,
            id: sticker.attachment_id.clone(),
        }
    }
}

impl MentionBody {
    /// Converts a mention. If it has no range, the range covers the whole text.
    fn new(chat: &Chat, text: &Text, mention: &Mention) -> Self {
        let length = text.value.encode_utf16().count();
        let whole = [0, u32::try_from(length).unwrap_or(u32::MAX)];
        Self {
            handle: mention.handle.clone(),
            is_me: mention.handle == chat.line.as_str(),
            range: mention.range.unwrap_or(whole),
        }
    }
}

fn non_empty<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}
