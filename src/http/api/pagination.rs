//! Parses the query parameters `limit` and `cursor` of list endpoints.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::extract::QueryParams;
use crate::domain::page::ChatCursor;
use crate::http::error::ApiError;
use crate::id::MessageId;
use crate::quote::quoted;

/// Maximum number of items on a page.
const MAX_LIMIT: u32 = 100;

/// Returns the page size from the query parameter `limit`, or `default` if it is absent.
pub(super) fn limit(query: &QueryParams, default: u32) -> Result<u32, ApiError> {
    let Some(text) = query.get("limit") else {
        return Ok(default);
    };
    let limit = text
        .parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| {
        ApiError::InvalidParameter(format!(
            "limit must be a whole number from 1 to {MAX_LIMIT}, not {}",
            quoted(text)
        ))
    })
}

/// A position in a list. Clients receive it as opaque text: its ids in unpadded URL-safe base64.
pub(super) trait Cursor: Sized {
    fn to_text(&self) -> String;
    fn from_text(text: &str) -> Option<Self>;

    /// Encodes the position for the field `next_cursor`.
    fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.to_text())
    }

    /// Parses the position in the query parameter `cursor`; returns `None` if it is absent.
    fn from_query(query: &QueryParams) -> Result<Option<Self>, ApiError> {
        let Some(text) = query.get("cursor") else {
            return Ok(None);
        };
        let decoded = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let cursor = decoded.and_then(|text| Self::from_text(&text));
        cursor.map(Some).ok_or_else(|| {
            ApiError::InvalidParameter(
                "cursor must be a next_cursor of the same list, unchanged".to_owned(),
            )
        })
    }
}

impl Cursor for MessageId {
    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl Cursor for ChatCursor {
    fn to_text(&self) -> String {
        format!("{}/{}", self.as_of, self.after)
    }

    fn from_text(text: &str) -> Option<Self> {
        let (as_of, after) = text.split_once('/')?;
        Some(Self {
            as_of: MessageId::parse(as_of)?,
            after: MessageId::parse(after)?,
        })
    }
}
