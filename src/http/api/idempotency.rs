//! Idempotent sends. The response to a send is rendered once, so the one stored under its key is
//! the one that was sent.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::attachments::FileUrls;
use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::id::PartnerId;
use crate::send::{Draft, SendOutcome, StoredResponse};

/// Sends a message, or returns the response of the send that used `key` before.
///
/// The stored response takes precedence over validation: the fields of a repeated call are not
/// read, so `draft`, which validates them, is not called.
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

/// Renders a response that can be stored.
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
