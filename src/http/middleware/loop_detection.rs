//! Detects request loops with the `CDN-Loop` header (RFC 8586): rejects requests that this server
//! sent to fetch a media URL and that reached it again, for example through a proxy or a CDN.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::error::ApiError;
use crate::http::state::HttpState;

pub(super) async fn refuse(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    if state.sends.is_own_fetch(request.headers()) {
        return ApiError::LoopDetected.into_response();
    }
    next.run(request).await
}
