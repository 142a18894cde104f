//! Parses and validates the `message` object that all endpoints for sending messages share.

use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

use super::fields::bounded_list;
use super::part_request::{self, PartRequest};
use super::validate::required;
use crate::attachments::FileUrls;
use crate::domain::message::{Effect, MAX_IDEMPOTENCY_KEY_LENGTH, MessageService, ReplyTo};
use crate::domain::part::MAX_PARTS;
use crate::http::error::ApiError;
use crate::http::trace_id::TraceId;
use crate::id::MessageId;
use crate::quote::quoted;
use crate::send::{Destination, Draft};

/// A message to send.
#[derive(Deserialize, ToSchema)]
pub(super) struct MessageContent {
    /// 1 to 100 parts, in order.
    #[serde(default, deserialize_with = "bounded_list::<_, _, MAX_PARTS>")]
    #[schema(value_type = Option<Vec<PartRequest>>)]
    parts: Option<Vec<PartRequest>>,
    effect: Option<EffectRequest>,
    reply_to: Option<ReplyToRequest>,
    /// `iMessage`, `RCS` or `SMS`.
    preferred_service: Option<String>,
    /// At most 255 characters. A repeated call sends nothing and gets the first response.
    idempotency_key: Option<String>,
    /// Not available.
    #[schema(value_type = Option<Object>)]
    experience: Option<IgnoredAny>,
}

/// An iMessage effect.
#[derive(Deserialize, ToSchema)]
pub(super) struct EffectRequest {
    r#type: Option<String>,
    name: Option<String>,
}

/// The message part to reply to.
#[derive(Deserialize, ToSchema)]
pub(super) struct ReplyToRequest {
    message_id: Option<String>,
    part_index: Option<i64>,
}

/// Returns the idempotency key of a message. A key in the body takes precedence over the header,
/// and an empty key counts as absent.
pub(super) fn idempotency_key(
    header: Option<&str>,
    content: Option<&MessageContent>,
) -> Option<String> {
    let body = content.and_then(|content| content.idempotency_key.as_deref());
    [body, header]
        .into_iter()
        .flatten()
        .find(|key| !key.is_empty())
        .map(str::to_owned)
}

/// Rejects a missing or empty `message` object.
pub(super) fn required_message(
    content: Option<MessageContent>,
) -> Result<MessageContent, ApiError> {
    content
        .filter(|content| !content.is_empty())
        .ok_or(ApiError::MissingField("message"))
}

impl MessageContent {
    fn is_empty(&self) -> bool {
        let Self {
            parts,
            effect,
            reply_to,
            preferred_service,
            idempotency_key,
            experience,
        } = self;
        parts.is_none()
            && effect.is_none()
            && reply_to.is_none()
            && preferred_service.is_none()
            && idempotency_key.is_none()
            && experience.is_none()
    }

    /// Validates the message and converts it into a draft.
    pub(super) fn draft(
        self,
        files: &FileUrls,
        destination: Destination,
        idempotency_key: Option<String>,
    ) -> Result<Draft, ApiError> {
        idempotency_key.as_deref().map(check_key).transpose()?;
        let preferred_service = self
            .preferred_service
            .as_deref()
            .map(preferred_service)
            .transpose()?;
        let effect = self
            .effect
            .map(EffectRequest::validate)
            .transpose()?
            .flatten();
        // Effects are dropped for other services, because only iMessage has them.
        let effect =
            effect.filter(|_| matches!(preferred_service, None | Some(MessageService::IMessage)));
        let reply_to = self.reply_to.map(ReplyToRequest::validate).transpose()?;
        let parts = part_request::drafts(files, self.parts)?;
        if self.experience.is_some() {
            return Err(ApiError::NotAvailable(
                "message.experience is not available on this server".to_owned(),
            ));
        }
        Ok(Draft {
            destination,
            parts,
            voice_memo: false,
            effect,
            reply_to,
            preferred_service,
            idempotency_key,
            trace_id: TraceId::current().to_string(),
        })
    }
}

fn check_key(key: &str) -> Result<(), ApiError> {
    if key.chars().count() > MAX_IDEMPOTENCY_KEY_LENGTH {
        return Err(ApiError::InvalidParameter(format!(
            "idempotency_key has more than {MAX_IDEMPOTENCY_KEY_LENGTH} characters"
        )));
    }
    Ok(())
}

fn preferred_service(name: &str) -> Result<MessageService, ApiError> {
    MessageService::parse(name).ok_or_else(|| {
        ApiError::InvalidParameter(format!(
            "preferred_service is iMessage, RCS or SMS; not {}",
            quoted(name)
        ))
    })
}

impl EffectRequest {
    /// An effect object with neither field comes from an older API version, and is ignored.
    fn validate(self) -> Result<Option<Effect>, ApiError> {
        match (self.r#type, self.name) {
            (None, None) => Ok(None),
            (kind, name) => Effect::new(kind.as_deref(), &name.unwrap_or_default())
                .map(Some)
                .map_err(ApiError::InvalidParameter),
        }
    }
}

impl ReplyToRequest {
    fn validate(self) -> Result<ReplyTo, ApiError> {
        let id = required(self.message_id, "message.reply_to.message_id")?;
        let message_id = MessageId::parse(&id).ok_or_else(|| {
            ApiError::InvalidParameter(format!("reply_to.message_id {} is not a UUID", quoted(&id)))
        })?;
        let index = self.part_index.unwrap_or(0);
        let part_index = u32::try_from(index).map_err(|_| {
            ApiError::InvalidParameter(format!("reply_to.part_index {index} is out of range"))
        })?;
        Ok(ReplyTo {
            message_id,
            part_index,
        })
    }
}
