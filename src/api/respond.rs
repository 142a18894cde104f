//! Answers of sends: rendered once, so that what is kept under an idempotency key is what was sent.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::App;
use crate::id::PartnerId;
use crate::service::Error;
use crate::service::sends::Answer;

/// Renders an answer.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_string(body).expect("bodies are made of strings, numbers and lists");
    Answer { status: status.as_u16(), body }
}

/// Gives an answer, fresh or kept.
pub(super) fn respond(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::ACCEPTED);
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], answer.body).into_response()
}

impl App {
    /// The answer kept under a key: given before anything else of a repeated call is looked at.
    pub(super) async fn kept_answer(&self, partner: PartnerId, key: Option<&str>) -> Result<Option<Answer>, Error> {
        match key {
            Some(key) => self.service.kept_answer(partner, key).await,
            None => Ok(None),
        }
    }
}
