//! Answers of sends: rendered once, so that what is kept under an idempotency key is what was sent.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::http::state::HttpState;
use crate::id::PartnerId;
use crate::send::{Error, StoredResponse};

/// Renders an answer.
pub(crate) fn answer(status: StatusCode, body: &impl Serialize) -> StoredResponse {
    let body = serde_json::to_string(body).expect("bodies are made of strings, numbers and lists");
    StoredResponse {
        status: status.as_u16(),
        body,
    }
}

/// Gives an answer, fresh or kept.
pub(crate) fn respond(answer: StoredResponse) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::ACCEPTED);
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], answer.body).into_response()
}

impl HttpState {
    /// The answer kept under a key: given before anything else of a repeated call is looked at.
    pub(crate) async fn replay(
        &self,
        partner: PartnerId,
        key: Option<&str>,
    ) -> Result<Option<StoredResponse>, Error> {
        self.sends.replay(partner, key).await
    }
}
