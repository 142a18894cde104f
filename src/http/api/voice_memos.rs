//! `POST /v3/chats/{chat_id}/voicememo`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{JsonBody, PathId};
use super::idempotency::{answer, respond};
use super::models::{self, HandleBody};
use super::parts;
use crate::attachments::FileUrls;
use crate::domain::part::{DraftPart, Part};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::http::trace_id::TraceId;
use crate::id::{AttachmentId, ChatId};
use crate::quote::quoted;
use crate::send::{Destination, Draft, SendOutcome};

pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new().routes(routes!(send))
}

/// Sound to send as a voice memo: exactly one of the two.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SendVoiceMemo {
    /// A public https URL of a file of at most 10 MiB, or the URL of a file that is stored here.
    voice_memo_url: Option<String>,
    /// The id of an uploaded attachment of at most 10 MiB.
    attachment_id: Option<String>,
    /// Accepted; nobody can opt out while nothing comes in.
    #[expect(dead_code, reason = "checked to be a boolean")]
    override_optout: Option<bool>,
}

/// The voice memo sent.
#[derive(Serialize, ToSchema)]
pub(crate) struct SentVoiceMemo {
    voice_memo: VoiceMemoMessage,
}

/// A message that is a voice memo.
#[derive(Serialize, ToSchema)]
struct VoiceMemoMessage {
    /// Of the message.
    id: String,
    from: String,
    to: Vec<String>,
    /// `queued`.
    status: &'static str,
    service: &'static str,
    created_at: String,
    voice_memo: VoiceMemoFile,
    chat: VoiceMemoChat,
}

/// The file that plays.
#[derive(Serialize, ToSchema)]
struct VoiceMemoFile {
    /// Of the attachment.
    id: String,
    url: String,
    filename: String,
    mime_type: String,
    size_bytes: u64,
    duration_ms: Option<u64>,
}

/// The chat it is in.
#[derive(Serialize, ToSchema)]
struct VoiceMemoChat {
    id: String,
    handles: Vec<HandleBody>,
    is_group: bool,
    is_active: bool,
    service: &'static str,
}

/// Sends sound as a voice memo, which plays in the conversation.
#[utoipa::path(post, path = "/v3/chats/{chat_id}/voicememo", tag = "Messages", params(("chat_id" = String, Path)),
    request_body = SendVoiceMemo,
    responses((status = 202, body = SentVoiceMemo), (status = "4XX", body = ErrorBody)))]
async fn send(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    id: Result<PathId<ChatId>, ApiError>,
    JsonBody(body, _held): JsonBody<SendVoiceMemo>,
) -> Result<Response, ApiError> {
    let part = part(state.attachments.file_urls(), &body)?;
    let PathId(id) = id?;
    let draft = Draft {
        destination: Destination::Chat(id),
        parts: vec![part],
        voice_memo: true,
        effect: None,
        reply_to: None,
        preferred_service: None,
        idempotency_key: None,
        trace_id: TraceId::current().to_string(),
    };
    let render = |files: &_, sent: &SendOutcome| {
        answer(StatusCode::ACCEPTED, &SentVoiceMemo::new(files, sent))
    };
    Ok(respond(state.sends.send(partner, draft, render).await?))
}

fn part(files: &FileUrls, body: &SendVoiceMemo) -> Result<DraftPart, ApiError> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (given(&body.voice_memo_url), given(&body.attachment_id)) {
        (None, None) => Err(ApiError::MissingField("voice_memo_url or attachment_id")),
        (Some(_), Some(_)) => Err(ApiError::InvalidParameter(
            "a voice memo has voice_memo_url or attachment_id, not both".to_owned(),
        )),
        (Some(url), None) => parts::file_at(files, &url, "voice_memo_url"),
        (None, Some(id)) => AttachmentId::parse(&id)
            .map(DraftPart::Attachment)
            .ok_or_else(|| {
                ApiError::InvalidParameter(format!("attachment_id {} is not a UUID", quoted(&id)))
            }),
    }
}

impl SentVoiceMemo {
    fn new(files: &FileUrls, SendOutcome { chat, message, .. }: &SendOutcome) -> Self {
        let [Part::Media(Some(attachment))] = message.parts.as_slice() else {
            unreachable!("a voice memo is one file that is there")
        };
        let delivered = attachment.delivered();
        Self {
            voice_memo: VoiceMemoMessage {
                id: message.id.to_string(),
                from: chat.line.to_string(),
                to: chat.others().map(|other| other.handle.clone()).collect(),
                status: "queued",
                service: models::CHAT_SERVICE,
                created_at: message.created_at.to_string(),
                voice_memo: VoiceMemoFile {
                    id: attachment.id.to_string(),
                    url: files.delivered(attachment),
                    filename: delivered.filename.to_owned(),
                    mime_type: delivered.media_type.to_owned(),
                    size_bytes: delivered.size_bytes,
                    duration_ms: attachment.media_info.duration_ms,
                },
                chat: VoiceMemoChat {
                    id: chat.id.to_string(),
                    handles: models::handles(chat),
                    is_group: chat.is_group(),
                    is_active: true,
                    service: models::CHAT_SERVICE,
                },
            },
        }
    }
}
