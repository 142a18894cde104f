//! Makes sending idempotent. The response is rendered once, so the copy stored under the
//! idempotency key is identical to the one sent.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::attachments::FileUrls;
use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::id::PartnerId;
use crate::send::{Draft, SendOutcome, StoredResponse};

/// Sends a message, or returns the stored response if `key` was used before.
///
/// The stored response takes precedence over validation: `draft`, which validates the fields, is
/// not called for a repeated request.
pub(super) async fn send_once(
    state: &HttpState,
    partner: PartnerId,
    key: Option<String>,
    draft: impl FnOnce(Option<String>) -> Result<Draft, ApiError>,
    render: impl FnOnce(&FileUrls, &SendOutcome) -> StoredResponse + Clone + Send + Sync + 'static,
) -> Result<Response, ApiError> {
    if let Some(stored) = state.sends.replay(partner, key.as_deref()).await? {
        return Ok(respond(stored));
    }
    let sent = state.sends.send(partner, draft(key)?, render);
    Ok(respond(sent.await?))
}

/// Renders a response in the form in which it is sent and stored.
pub(super) fn render(status: StatusCode, body: &impl Serialize) -> StoredResponse {
    StoredResponse {
        status: status.as_u16(),
        body: serde_json::to_string(body).expect("bodies consist of strings, numbers and lists"),
    }
}

fn respond(stored: StoredResponse) -> Response {
    let status = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::ACCEPTED);
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], stored.body).into_response()
}
