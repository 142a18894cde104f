//! `/v3/attachments`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{JsonBody, PathId};
use super::models::required;
use crate::attachments::create::NewAttachment;
use crate::domain::attachment::{Status, UploadState};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::id::AttachmentId;

pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(get, delete))
}

/// A file to be uploaded.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateAttachment {
    /// Its name, 1 to 255 characters.
    filename: Option<String>,
    /// Its media type.
    content_type: Option<String>,
    /// Its size in bytes, 1 to 104857600.
    #[serde(default, deserialize_with = "any_integer")]
    #[schema(value_type = Option<u64>)]
    size_bytes: Option<i128>,
}

/// Where to upload it.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedAttachment {
    attachment_id: String,
    /// PUT the bytes here, with the `required_headers`.
    upload_url: String,
    /// Where the file will be.
    download_url: String,
    /// `PUT`.
    http_method: &'static str,
    /// When `upload_url` stops working.
    expires_at: String,
    /// Headers of the upload, to be sent unchanged.
    required_headers: BTreeMap<&'static str, String>,
}

/// An attachment.
#[derive(Serialize, ToSchema)]
pub(crate) struct AttachmentBody {
    id: String,
    filename: String,
    /// As declared.
    content_type: String,
    size_bytes: u64,
    /// `pending`, `complete` or `failed`.
    status: &'static str,
    created_at: String,
    /// Where the file is, once it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    download_url: Option<String>,
    /// Width of a picture in pixels, as it is stored, if it could be told. This and what follows is not in the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    /// Height of a picture in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    /// Duration of sound or film in milliseconds, if it could be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// Channels of sound, once it was sent as a voice memo.
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<u32>,
    /// Samples a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    sample_rate: Option<u32>,
    /// 64 numbers from 0 to 255: the peak of each of as many slices of equal length.
    #[serde(skip_serializing_if = "Option::is_none")]
    waveform: Option<Vec<u8>>,
    /// Why the status is `failed` although a file was uploaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_reason: Option<String>,
}

/// Announces a file and gets the URL to upload it to.
#[utoipa::path(post, path = "/v3/attachments", tag = "Attachments", request_body = CreateAttachment,
    responses((status = 200, body = CreatedAttachment), (status = "4XX", body = ErrorBody)))]
async fn create(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    JsonBody(body, _held): JsonBody<CreateAttachment>,
) -> Result<Json<CreatedAttachment>, ApiError> {
    let new = NewAttachment {
        filename: required(body.filename, "filename")?,
        content_type: required(body.content_type, "content_type")?,
        size_bytes: body
            .size_bytes
            .ok_or(ApiError::MissingField("size_bytes"))?,
    };
    let awaited = state.attachments.create(partner, new).await?;
    let attachment = awaited.attachment;
    Ok(Json(CreatedAttachment {
        attachment_id: attachment.id.to_string(),
        upload_url: awaited.upload_url,
        download_url: awaited.download_url,
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
    Ok(Json(AttachmentBody {
        id: attachment.id.to_string(),
        download_url: (status == Status::Complete)
            .then(|| state.attachments.file_urls().uploaded(&attachment)),
        filename: attachment.filename,
        content_type: attachment.declared_type,
        size_bytes: attachment.size_bytes,
        status: status.as_str(),
        created_at: attachment.created_at.to_string(),
        width: attachment.media_info.width,
        height: attachment.media_info.height,
        duration_ms: attachment.media_info.duration_ms,
        channels: attachment.audio.as_ref().map(|audio| audio.channels),
        sample_rate: attachment.audio.as_ref().map(|audio| audio.sample_rate),
        waveform: attachment.audio.map(|audio| audio.waveform),
        failure_reason: match attachment.state {
            UploadState::Rejected { reason, .. } => Some(reason),
            UploadState::Pending | UploadState::Stored { .. } | UploadState::Expired => None,
        },
    }))
}

/// Deletes an attachment for good.
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

/// A whole number of any size: one beyond every integer type is too large a file, not malformed JSON.
fn any_integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i128>, D::Error> {
    use serde::de::Error;
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    if let Some(integer) = number.as_i128() {
        return Ok(Some(integer));
    }
    match number.as_f64() {
        // JSON writes integers beyond 64 bits like any other; serde_json reads them as floats.
        Some(float) if float >= 1e18 => Ok(Some(i128::MAX)),
        Some(float) if float <= -1e18 => Ok(Some(i128::MIN)),
        _ => Err(D::Error::custom(format!(
            "invalid number {number}, expected a whole number"
        ))),
    }
}
