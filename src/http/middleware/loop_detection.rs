//! Loop detection by `CDN-Loop` (RFC 8586): refuses requests that this server sent itself to fetch
//! a media URL, and that a proxy or a CDN brought back.

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
