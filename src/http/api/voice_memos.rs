//! Handles `POST /v3/chats/{chat_id}/voicememo`, which sends a voice memo.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::PathId;
use super::fields::{Ignored, ignored};
use super::idempotency::{render, send_once};
use super::json_body::JsonBody;
use super::models::{CHAT_SERVICE, HandleBody};
use super::{part_request, validate};
use crate::attachments::FileUrls;
use crate::domain::part::{DraftPart, Part};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::http::trace_id::TraceId;
use crate::id::ChatId;
use crate::send::{Destination, Draft, SendOutcome};

pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new().routes(routes!(send))
}

/// An audio file to send as a voice memo, as a URL or as an attachment.
#[derive(Deserialize, ToSchema)]
struct SendVoiceMemo {
    /// A public https URL of a file of at most 10 MiB, or the URL of a file that is stored here.
    voice_memo_url: Option<String>,
    /// The id of an uploaded attachment of at most 10 MiB.
    attachment_id: Option<String>,
    /// Accepted and ignored: without incoming messages, recipients cannot opt out.
    #[serde(default, deserialize_with = "ignored")]
    #[schema(value_type = Option<bool>)]
    override_optout: Ignored<bool>,
}

/// The voice memo sent.
#[derive(Serialize, ToSchema)]
struct SentVoiceMemo {
    voice_memo: VoiceMemoMessage,
}

/// The message with the voice memo.
#[derive(Serialize, ToSchema)]
struct VoiceMemoMessage {
    /// Id of the message.
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

/// The file of a voice memo.
#[derive(Serialize, ToSchema)]
struct VoiceMemoFile {
    /// Id of the attachment.
    id: String,
    url: String,
    filename: String,
    mime_type: String,
    size_bytes: u64,
    duration_ms: Option<u64>,
}

/// The chat of a voice memo.
#[derive(Serialize, ToSchema)]
struct VoiceMemoChat {
    id: String,
    handles: Vec<HandleBody>,
    is_group: bool,
    is_active: bool,
    service: &'static str,
}

/// Sends an audio file as a voice memo, which plays within the conversation.
#[utoipa::path(post, path = "/v3/chats/{chat_id}/voicememo", tag = "Messages", params(("chat_id" = String, Path)),
    request_body = SendVoiceMemo,
    responses((status = 202, body = SentVoiceMemo), (status = "4XX", body = ErrorBody)))]
async fn send(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    id: Result<PathId<ChatId>, ApiError>,
    JsonBody(body, _reservation): JsonBody<SendVoiceMemo>,
) -> Result<Response, ApiError> {
    let draft = |idempotency_key| {
        let part = body.part(state.attachments.file_urls())?;
        let PathId(id) = id?;
        Ok(Draft {
            destination: Destination::Chat(id),
            parts: vec![part],
            voice_memo: true,
            effect: None,
            reply_to: None,
            preferred_service: None,
            idempotency_key,
            trace_id: TraceId::current().to_string(),
        })
    };
    send_once(&state, partner, None, draft, |files, sent| {
        render(StatusCode::ACCEPTED, &SentVoiceMemo::new(files, sent))
    })
    .await
}

impl SendVoiceMemo {
    /// Returns the audio file as the message's only part. Empty request fields count as absent.
    fn part(self, files: &FileUrls) -> Result<DraftPart, ApiError> {
        let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
        match (
            non_empty(self.voice_memo_url),
            non_empty(self.attachment_id),
        ) {
            (None, None) => Err(ApiError::MissingField("voice_memo_url or attachment_id")),
            (Some(_), Some(_)) => Err(ApiError::InvalidParameter(
                "a voice memo has voice_memo_url or attachment_id, not both".to_owned(),
            )),
            (Some(url), None) => part_request::file_at(files, &url, "voice_memo_url"),
            (None, Some(id)) => validate::attachment_id(&id).map(DraftPart::Attachment),
        }
    }
}

impl SentVoiceMemo {
    fn new(files: &FileUrls, SendOutcome { chat, message, .. }: &SendOutcome) -> Self {
        let [Part::Media(Some(attachment))] = message.parts.as_slice() else {
            unreachable!("a voice memo that was just sent is one file")
        };
        let delivered = attachment.delivered();
        Self {
            voice_memo: VoiceMemoMessage {
                id: message.id.to_string(),
                from: chat.line.to_string(),
                to: chat.others().map(|other| other.handle.clone()).collect(),
                status: "queued",
                service: CHAT_SERVICE,
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
                    handles: HandleBody::of_chat(chat),
                    is_group: chat.is_group(),
                    is_active: true,
                    service: CHAT_SERVICE,
                },
            },
        }
    }
}
