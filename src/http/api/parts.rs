//! Message parts on the wire, both ways.

use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::extract::at_most;
use crate::attachments::{self, FileUrls};
use crate::domain::chat::Chat;
use crate::domain::part::{
    Decoration, DraftPart, MAX_DECORATIONS, MAX_EXTERNAL_URLS, MAX_LINK_LENGTH, MAX_PARTS,
    MAX_STICKERS, MAX_STICKERS_OF_MESSAGE, Mention, Part, Range, Sticker, Text,
};
use crate::fetch::FetchUrl;
use crate::http::error::ApiError;
use crate::id::AttachmentId;
use crate::quote::quoted;

/// A part of a message to send.
#[derive(Deserialize, ToSchema)]
pub(crate) struct PartRequest {
    /// `text`, `media` or `link`.
    r#type: Option<String>,
    /// The words, or the link.
    value: Option<String>,
    /// Media: a public https URL of a file of at most 10 MiB, or the URL of a file that is stored here.
    url: Option<String>,
    /// Media: the id of an uploaded attachment.
    attachment_id: Option<String>,
    /// Accepted; a carrier's matter.
    #[expect(dead_code, reason = "checked to be a boolean")]
    sticker: Option<bool>,
    #[serde(default, deserialize_with = "at_most::<_, _, MAX_DECORATIONS>")]
    #[schema(value_type = Option<Vec<Object>>)]
    text_decorations: Option<Vec<Decoration>>,
    mention: Option<String>,
    #[schema(value_type = Option<Vec<u32>>)]
    mention_range: Option<Range>,
    #[serde(default, deserialize_with = "at_most::<_, _, MAX_STICKERS>")]
    #[schema(value_type = Option<Vec<StickerRequest>>)]
    inline_stickers: Option<Vec<StickerRequest>>,
}

/// A sticker in the line with the words.
#[derive(Clone, Deserialize, ToSchema)]
pub(crate) struct StickerRequest {
    #[schema(value_type = Vec<u32>)]
    range: Range,
    url: Option<String>,
    attachment_id: Option<String>,
}

/// The file at a URL, ours or somebody else's.
pub(super) fn file_at(files: &FileUrls, url: &str, what: &str) -> Result<DraftPart, ApiError> {
    if let Some(file) = files.parse_local(url) {
        return Ok(DraftPart::OwnFile(file));
    }
    // Without its query, which may hold a signature.
    let shown = url.split_once('?').map_or(url, |(path, _)| path);
    let problem = |e| {
        ApiError::InvalidParameter(format!(
            "{what} {} is not one to fetch from: {e}",
            quoted(shown)
        ))
    };
    FetchUrl::parse(url).map(DraftPart::Url).map_err(problem)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::InvalidContent(message.into())
}

/// Checks parts and turns them into drafts. All that is wrong with the content comes first, whichever part it is in;
/// then values that cannot be read; then what this server does not have.
pub(super) fn drafts(
    files: &FileUrls,
    parts: Option<Vec<PartRequest>>,
) -> Result<Vec<DraftPart>, ApiError> {
    let parts = parts
        .filter(|parts| !parts.is_empty())
        .ok_or_else(|| invalid("message.parts needs at least one part"))?;
    if parts.len() > MAX_PARTS {
        return Err(invalid(format!(
            "message.parts has more than {MAX_PARTS} parts"
        )));
    }
    let stickers = parts
        .iter()
        .filter_map(|part| part.inline_stickers.as_deref())
        .map(<[_]>::len)
        .sum::<usize>();
    if stickers > MAX_STICKERS_OF_MESSAGE {
        return Err(invalid(format!(
            "a message has at most {MAX_STICKERS_OF_MESSAGE} inline_stickers in all its parts"
        )));
    }
    for (at, part) in parts.iter().enumerate() {
        part.check(parts.len())
            .map_err(|problem| invalid(format!("message.parts[{at}]: {problem}")))?;
    }
    if parts
        .windows(2)
        .any(|pair| pair.iter().all(|part| part.kind() == "text"))
    {
        return Err(invalid(
            "two text parts cannot follow one another; join them into one",
        ));
    }
    let is_external = |part: &&PartRequest| {
        part.kind() == "media"
            && part
                .url
                .as_deref()
                .is_some_and(|url| files.parse_local(url).is_none())
    };
    if parts.iter().filter(is_external).count() > MAX_EXTERNAL_URLS {
        return Err(invalid(format!(
            "at most {MAX_EXTERNAL_URLS} media parts may name an external url"
        )));
    }
    for part in &parts {
        part.check_references(files)?;
    }
    parts.into_iter().map(|part| part.draft(files)).collect()
}

impl PartRequest {
    fn kind(&self) -> &str {
        self.r#type.as_deref().unwrap_or_default()
    }

    fn check(&self, parts: usize) -> Result<(), String> {
        match self.kind() {
            "text" => {
                if self.mention_range.is_some() && self.mention.is_none() {
                    return Err("mention_range needs mention".to_owned());
                }
                let stickers = self.inline_stickers.iter().flatten();
                if stickers
                    .clone()
                    .any(|sticker| sticker.url.is_some() == sticker.attachment_id.is_some())
                {
                    return Err(
                        "an inline sticker has exactly one of url and attachment_id".to_owned()
                    );
                }
                let stickers = stickers.map(|sticker| Sticker {
                    range: sticker.range,
                    attachment_id: String::new(),
                });
                self.text(stickers.collect()).check()
            }
            "media" => match (&self.url, &self.attachment_id) {
                (Some(_), Some(_)) => {
                    Err("a media part has url or attachment_id, not both".to_owned())
                }
                (None, None) => Err("a media part needs attachment_id or url".to_owned()),
                _ => Ok(()),
            },
            "link" => {
                if parts > 1 {
                    return Err("a link part must be the only one of its message".to_owned());
                }
                let value = self.value.as_deref().unwrap_or_default();
                let is_link = |url: Url| matches!(url.scheme(), "http" | "https");
                if value.len() <= MAX_LINK_LENGTH && Url::parse(value).is_ok_and(is_link) {
                    return Ok(());
                }
                Err(format!(
                    "a link part needs an http or https URL of at most {MAX_LINK_LENGTH} bytes as value"
                ))
            }
            "imessage_app" | "app_clip" => Ok(()),
            "" => Err("type is missing: text, media or link".to_owned()),
            other => Err(format!(
                "type {} is not known: use text, media or link",
                quoted(other)
            )),
        }
    }

    fn check_references(&self, files: &FileUrls) -> Result<(), ApiError> {
        if self.kind() != "media" {
            return Ok(());
        }
        if let Some(url) = &self.url {
            file_at(files, url, "media url")?;
        }
        match &self.attachment_id {
            Some(id) if AttachmentId::parse(id).is_none() => Err(ApiError::InvalidParameter(
                format!("attachment_id {} is not a UUID", quoted(id)),
            )),
            _ => Ok(()),
        }
    }

    fn draft(self, files: &FileUrls) -> Result<DraftPart, ApiError> {
        match (self.kind(), &self.attachment_id, &self.url) {
            ("text", ..) => {
                let stickers = self
                    .inline_stickers
                    .iter()
                    .flatten()
                    .map(|sticker| sticker.resolve(files));
                Ok(DraftPart::Text(
                    self.text(stickers.collect::<Result<_, _>>()?),
                ))
            }
            ("link", ..) => Ok(DraftPart::Link(self.value.unwrap_or_default())),
            ("media", Some(id), _) => Ok(DraftPart::Attachment(
                AttachmentId::parse(id).ok_or(attachments::Error::NotFound)?,
            )),
            ("media", None, Some(url)) => file_at(files, url, "media url"),
            (kind, ..) => Err(ApiError::NotAvailable(format!(
                "{kind} parts are not available on this server"
            ))),
        }
    }

    fn text(&self, stickers: Vec<Sticker>) -> Text {
        Text {
            value: self.value.clone().unwrap_or_default(),
            decorations: self.text_decorations.clone().unwrap_or_default(),
            mention: self.mention.clone().map(|handle| Mention {
                handle,
                range: self.mention_range,
            }),
            stickers,
        }
    }
}

impl StickerRequest {
    /// A sticker's picture is one of our own files, by id or by URL.
    fn resolve(&self, files: &FileUrls) -> Result<Sticker, ApiError> {
        let id = match (&self.attachment_id, &self.url) {
            (Some(id), _) => AttachmentId::parse(id).ok_or_else(|| {
                ApiError::InvalidParameter(format!("attachment_id {} is not a UUID", quoted(id)))
            })?,
            (None, url) => {
                let url = url.as_deref().unwrap_or_default();
                let own = files.parse_local(url).ok_or_else(|| {
                    let url = quoted(url);
                    ApiError::InvalidParameter(format!(
                        "inline sticker url {url} is not the URL of a file stored here"
                    ))
                })?;
                own.ok_or(attachments::Error::NotFound)?.id
            }
        };
        Ok(Sticker {
            range: self.range,
            attachment_id: id.to_string(),
        })
    }
}

/// A part of a message.
#[derive(Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(crate) enum PartBody {
    /// Words.
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
    /// A file. All strings are empty and the size 0 once its attachment was deleted.
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

/// A sticker in the line with the words.
#[derive(Serialize, ToSchema)]
pub(crate) struct StickerBody {
    #[schema(value_type = Vec<u32>)]
    range: Range,
    /// The attachment that is its picture.
    id: String,
}

impl StickerBody {
    fn new(sticker: Sticker) -> Self {
        Self {
            range: sticker.range,
            id: sticker.attachment_id,
        }
    }
}

/// Who is mentioned where.
#[derive(Serialize, ToSchema)]
pub(crate) struct MentionBody {
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
            Part::Media(Some(attachment)) => Self::Media {
                id: attachment.id.to_string(),
                url: files.delivered(attachment),
                filename: attachment.delivered().filename.to_owned(),
                mime_type: attachment.delivered().media_type.to_owned(),
                size_bytes: attachment.delivered().size_bytes,
                reactions: None,
            },
            // Empty strings, not null: with null or missing fields the Python SDK builds a text part.
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
        let mentions = text.mention.as_ref().map(|mention| {
            let whole = [
                0,
                u32::try_from(text.value.encode_utf16().count()).unwrap_or(u32::MAX),
            ];
            vec![MentionBody {
                handle: mention.handle.clone(),
                is_me: mention.handle == chat.line.as_str(),
                range: mention.range.unwrap_or(whole),
            }]
        });
        Self::Text {
            value: text.value.clone(),
            text_decorations: some_if_any(&text.decorations),
            inline_stickers: some_if_any(&text.stickers)
                .map(|stickers| stickers.into_iter().map(StickerBody::new).collect()),
            mention: text.mention.as_ref().map(|mention| mention.handle.clone()),
            mention_range: text.mention.as_ref().and_then(|mention| mention.range),
            mentions,
            reactions: None,
        }
    }
}

fn some_if_any<T: Clone>(items: &[T]) -> Option<Vec<T>> {
    (!items.is_empty()).then(|| items.to_vec())
}
