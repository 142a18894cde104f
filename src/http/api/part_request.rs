//! Parses and validates the parts of a message to send.

use serde::Deserialize;
use url::Url;
use utoipa::ToSchema;

use super::fields::{Ignored, bounded_list, ignored};
use super::validate;
use crate::attachments::{self, FileUrls};
use crate::domain::fetch_url::FetchUrl;
use crate::domain::part::{
    Decoration, DraftPart, MAX_DECORATIONS, MAX_EXTERNAL_URLS, MAX_LINK_LENGTH, MAX_PARTS,
    MAX_STICKERS, MAX_STICKERS_OF_MESSAGE, Mention, Range, Sticker, Text,
};
use crate::http::error::ApiError;
use crate::quote::quoted;

/// A part of a message to send.
#[derive(Deserialize, ToSchema)]
pub(super) struct PartRequest {
    /// `text`, `media` or `link`.
    r#type: Option<String>,
    /// The text, or the link.
    value: Option<String>,
    /// Media: a public https URL of a file of at most 10 MiB, or a URL of this server's files.
    url: Option<String>,
    /// Media: the id of an uploaded attachment.
    attachment_id: Option<String>,
    /// Accepted and ignored: carriers decide it.
    #[serde(default, deserialize_with = "ignored")]
    #[schema(value_type = Option<bool>)]
    sticker: Ignored<bool>,
    #[serde(default, deserialize_with = "bounded_list::<_, _, MAX_DECORATIONS>")]
    #[schema(value_type = Option<Vec<Object>>)]
    text_decorations: Option<Vec<Decoration>>,
    mention: Option<String>,
    #[schema(value_type = Option<Vec<u32>>)]
    mention_range: Option<Range>,
    #[serde(default, deserialize_with = "bounded_list::<_, _, MAX_STICKERS>")]
    #[schema(value_type = Option<Vec<StickerRequest>>)]
    inline_stickers: Option<Vec<StickerRequest>>,
}

/// A sticker within a text.
#[derive(Clone, Deserialize, ToSchema)]
pub(super) struct StickerRequest {
    #[schema(value_type = Vec<u32>)]
    range: Range,
    url: Option<String>,
    attachment_id: Option<String>,
}

/// Validates message parts and converts them. Content errors in any part are reported first, then
/// invalid references, then features that this server does not support.
pub(super) fn drafts(
    files: &FileUrls,
    parts: Option<Vec<PartRequest>>,
) -> Result<Vec<DraftPart>, ApiError> {
    let parts = parts.unwrap_or_default();
    check_content(files, &parts).map_err(ApiError::InvalidContent)?;
    for part in &parts {
        part.check_references(files)?;
    }
    parts.into_iter().map(|part| part.draft(files)).collect()
}

fn check_content(files: &FileUrls, parts: &[PartRequest]) -> Result<(), String> {
    check_counts(parts)?;
    for (index, part) in parts.iter().enumerate() {
        part.check_content(parts.len())
            .map_err(|problem| format!("message.parts[{index}]: {problem}"))?;
    }
    let mut pairs = parts.windows(2);
    if pairs.any(|pair| pair.iter().all(|part| part.kind() == "text")) {
        return Err("two text parts cannot follow one another; join them into one".to_owned());
    }
    let external = parts.iter().filter(|part| part.has_external_url(files));
    if external.count() > MAX_EXTERNAL_URLS {
        return Err(format!(
            "at most {MAX_EXTERNAL_URLS} media parts may name an external url"
        ));
    }
    Ok(())
}

fn check_counts(parts: &[PartRequest]) -> Result<(), String> {
    if parts.is_empty() {
        return Err("message.parts needs at least one part".to_owned());
    }
    if parts.len() > MAX_PARTS {
        return Err(format!("message.parts has more than {MAX_PARTS} parts"));
    }
    let stickers: usize = parts.iter().map(|part| part.stickers().len()).sum();
    if stickers > MAX_STICKERS_OF_MESSAGE {
        return Err(format!(
            "a message has at most {MAX_STICKERS_OF_MESSAGE} inline_stickers in all its parts"
        ));
    }
    Ok(())
}

/// Returns the file at a URL, which is either stored on this server or has to be fetched. Errors
/// name the request field `field`.
pub(super) fn file_at(files: &FileUrls, url: &str, field: &str) -> Result<DraftPart, ApiError> {
    if let Some(file) = files.parse_local(url) {
        return Ok(DraftPart::OwnFile(file));
    }
    FetchUrl::parse(url).map(DraftPart::Url).map_err(|error| {
        // The query is left out of the error, because it may contain a signature.
        let shown = url.split_once('?').map_or(url, |(path, _)| path);
        ApiError::InvalidParameter(format!(
            "{field} {} is not one to fetch from: {error}",
            quoted(shown)
        ))
    })
}

impl PartRequest {
    fn kind(&self) -> &str {
        self.r#type.as_deref().unwrap_or_default()
    }

    fn stickers(&self) -> &[StickerRequest] {
        self.inline_stickers.as_deref().unwrap_or_default()
    }

    fn has_external_url(&self, files: &FileUrls) -> bool {
        let is_external = |url: &String| files.parse_local(url).is_none();
        self.kind() == "media" && self.url.as_ref().is_some_and(is_external)
    }

    /// Checks the content of this part of a message with `count` parts.
    fn check_content(&self, count: usize) -> Result<(), String> {
        match self.kind() {
            "text" => self.check_text(),
            "media" => self.check_media(),
            "link" if count > 1 => {
                Err("a link part must be the only one of its message".to_owned())
            }
            "link" => self.check_link(),
            "imessage_app" | "app_clip" => Ok(()),
            "" => Err("type is missing: text, media or link".to_owned()),
            other => Err(format!(
                "type {} is not known: use text, media or link",
                quoted(other)
            )),
        }
    }

    fn check_text(&self) -> Result<(), String> {
        if self.mention_range.is_some() && self.mention.is_none() {
            return Err("mention_range needs mention".to_owned());
        }
        let has_one_file =
            |sticker: &StickerRequest| sticker.url.is_some() != sticker.attachment_id.is_some();
        if !self.stickers().iter().all(has_one_file) {
            return Err("an inline sticker has exactly one of url and attachment_id".to_owned());
        }
        // The text rules only concern ranges, so the sticker files need not be known yet.
        let stickers = self.stickers().iter().map(|sticker| Sticker {
            range: sticker.range,
            attachment_id: String::new(),
        });
        self.text(stickers.collect()).check()
    }

    fn check_media(&self) -> Result<(), String> {
        match (&self.url, &self.attachment_id) {
            (Some(_), Some(_)) => Err("a media part has url or attachment_id, not both".to_owned()),
            (None, None) => Err("a media part needs attachment_id or url".to_owned()),
            _ => Ok(()),
        }
    }

    fn check_link(&self) -> Result<(), String> {
        let value = self.value.as_deref().unwrap_or_default();
        let is_web = |url: Url| matches!(url.scheme(), "http" | "https");
        if value.len() > MAX_LINK_LENGTH || !Url::parse(value).is_ok_and(is_web) {
            return Err(format!(
                "a link part needs an http or https URL of at most {MAX_LINK_LENGTH} bytes as value"
            ));
        }
        Ok(())
    }

    /// Checks the file reference of a media part.
    fn check_references(&self, files: &FileUrls) -> Result<(), ApiError> {
        if self.kind() != "media" {
            return Ok(());
        }
        if let Some(url) = &self.url {
            file_at(files, url, "media url")?;
        }
        if let Some(id) = &self.attachment_id {
            validate::attachment_id(id)?;
        }
        Ok(())
    }

    fn draft(self, files: &FileUrls) -> Result<DraftPart, ApiError> {
        match (self.kind(), &self.attachment_id, &self.url) {
            ("text", ..) => {
                let stickers = self
                    .stickers()
                    .iter()
                    .map(|sticker| sticker.resolve(files))
                    .collect::<Result<_, _>>()?;
                Ok(DraftPart::Text(self.text(stickers)))
            }
            ("link", ..) => Ok(DraftPart::Link(self.value.unwrap_or_default())),
            ("media", Some(id), _) => Ok(DraftPart::Attachment(validate::attachment_id(id)?)),
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
    /// Finds the attachment that contains the sticker's picture. Only files stored on this server
    /// are accepted.
    fn resolve(&self, files: &FileUrls) -> Result<Sticker, ApiError> {
        let id = match (&self.attachment_id, &self.url) {
            (Some(id), _) => validate::attachment_id(id)?,
            (None, url) => {
                let url = url.as_deref().unwrap_or_default();
                let local = files.parse_local(url).ok_or_else(|| {
                    ApiError::InvalidParameter(format!(
                        "inline sticker url {} is not the URL of a file stored here",
                        quoted(url)
                    ))
                })?;
                local.ok_or(attachments::Error::NotFound)?.id
            }
        };
        Ok(Sticker {
            range: self.range,
            attachment_id: id.to_string(),
        })
    }
}
