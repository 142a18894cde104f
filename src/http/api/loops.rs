//! Loop detection: requests that this server sent itself, by way of a proxy or a CDN, for the media URL of a sender.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::error::ApiError;

/// Refuses a request that a fetch of this server sent.
pub(super) async fn refuse(State(app): State<ApiState>, request: Request, next: Next) -> Response {
    if app.service.fetcher().own().sent(request.headers()) {
        return ApiError::LoopDetected.into_response();
    }
    next.run(request).await
}
