//! Handles `/v3/attachments`: announces, returns and deletes attachments.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::PathId;
use super::fields::any_integer;
use super::json_body::JsonBody;
use super::validate::required;
use crate::attachments::create::NewAttachment;
use crate::domain::attachment::{Attachment, Status, UploadState};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::id::AttachmentId;

pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(get, delete))
}

/// An announced file.
#[derive(Deserialize, ToSchema)]
struct CreateAttachment {
    /// 1 to 255 characters.
    filename: Option<String>,
    /// The media type.
    content_type: Option<String>,
    /// Size in bytes, 1 to 104857600.
    #[serde(default, deserialize_with = "any_integer")]
    #[schema(value_type = Option<u64>)]
    size_bytes: Option<i128>,
}

/// The upload URL of an announced file.
#[derive(Serialize, ToSchema)]
struct CreatedAttachment {
    attachment_id: String,
    /// The URL to PUT the file to, with the `required_headers`.
    upload_url: String,
    /// URL of the file after its upload.
    download_url: String,
    /// `PUT`.
    http_method: &'static str,
    /// Expiry of `upload_url`.
    expires_at: String,
    /// Headers of the PUT, to be sent unchanged.
    required_headers: BTreeMap<&'static str, String>,
}

/// An attachment.
#[derive(Serialize, ToSchema)]
struct AttachmentBody {
    id: String,
    filename: String,
    /// The declared media type.
    content_type: String,
    size_bytes: u64,
    /// `pending`, `complete` or `failed`.
    status: &'static str,
    created_at: String,
    /// URL of the file; only if `status` is `complete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    download_url: Option<String>,
    /// Width of the stored picture in pixels, if known. The reference has none of these fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    /// Height of the stored picture in pixels, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    /// Duration of audio or video in milliseconds, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// Number of audio channels; only after the attachment was sent as a voice memo.
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<u32>,
    /// Audio samples per second; only after the attachment was sent as a voice memo.
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_rate: Option<u32>,
    /// Peaks of 64 equal slices, 0 to 255; only after the attachment was sent as a voice memo.
    #[serde(skip_serializing_if = "Option::is_none")]
    waveform: Option<Vec<u8>>,
    /// The reason for rejecting the uploaded file, if `status` is `failed` because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_reason: Option<String>,
}

/// Announces a file and returns its upload URL.
#[utoipa::path(post, path = "/v3/attachments", tag = "Attachments", request_body = CreateAttachment,
    responses((status = 200, body = CreatedAttachment), (status = "4XX", body = ErrorBody)))]
async fn create(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    JsonBody(body, _reservation): JsonBody<CreateAttachment>,
) -> Result<Json<CreatedAttachment>, ApiError> {
    let new = NewAttachment {
        filename: required(body.filename, "filename")?,
        content_type: required(body.content_type, "content_type")?,
        size_bytes: body
            .size_bytes
            .ok_or(ApiError::MissingField("size_bytes"))?,
    };
    let ticket = state.attachments.create(partner, new).await?;
    let attachment = ticket.attachment;
    Ok(Json(CreatedAttachment {
        attachment_id: attachment.id.to_string(),
        upload_url: ticket.upload_url,
        download_url: ticket.download_url,
        http_method: "PUT",
        expires_at: attachment.upload_expires_at.to_string(),
        required_headers: BTreeMap::from([
            ("Content-Type", attachment.signed_type),
            ("Content-Length", attachment.size_bytes.to_string()),
        ]),
    }))
}

/// Reads an attachment.
#[utoipa::path(get, path = "/v3/attachments/{attachment_id}", tag = "Attachments",
    params(("attachment_id" = String, Path)),
    responses((status = 200, body = AttachmentBody), (status = "4XX", body = ErrorBody)))]
async fn get(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<AttachmentId>,
) -> Result<Json<AttachmentBody>, ApiError> {
    let (attachment, now) = state.attachments.get(partner, id).await?;
    let status = attachment.status(now);
    let url =
        (status == Status::Complete).then(|| state.attachments.file_urls().uploaded(&attachment));
    Ok(Json(AttachmentBody::new(attachment, status, url)))
}

impl AttachmentBody {
    fn new(attachment: Attachment, status: Status, download_url: Option<String>) -> Self {
        let (media_info, audio) = (attachment.media_info, attachment.audio);
        Self {
            id: attachment.id.to_string(),
            filename: attachment.filename,
            content_type: attachment.declared_type,
            size_bytes: attachment.size_bytes,
            status: status.as_str(),
            created_at: attachment.created_at.to_string(),
            download_url,
            width: media_info.width,
            height: media_info.height,
            duration_ms: media_info.duration_ms,
            channels: audio.as_ref().map(|audio| audio.channels),
            sample_rate: audio.as_ref().map(|audio| audio.sample_rate),
            waveform: audio.map(|audio| audio.waveform),
            failure_reason: match attachment.state {
                UploadState::Rejected { reason, .. } => Some(reason),
                UploadState::Pending | UploadState::Stored { .. } | UploadState::Expired => None,
            },
        }
    }
}

/// Deletes an attachment and its file.
#[utoipa::path(delete, path = "/v3/attachments/{attachment_id}", tag = "Attachments",
    params(("attachment_id" = String, Path)),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
async fn delete(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<AttachmentId>,
) -> Result<StatusCode, ApiError> {
    state.attachments.delete(partner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
