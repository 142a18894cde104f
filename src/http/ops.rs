//! Handles endpoints for operators and tools: `/healthz`, `/readyz`, `/metrics`, `/openapi.json`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};

use super::state::HttpState;

pub(super) fn router(openapi: String) -> Router<HttpState> {
    let openapi: Arc<str> = openapi.into();
    let document = move || async move {
        (
            [(header::CONTENT_TYPE, "application/json")],
            openapi.to_string(),
        )
    };
    Router::new()
        .route("/healthz", routing::get(async || "alive\n"))
        .route("/readyz", routing::get(ready))
        .route("/metrics", routing::get(metrics))
        .route("/openapi.json", routing::get(document))
}

async fn ready(State(state): State<HttpState>) -> Response {
    let problems = state.attachments.check().await;
    if problems.is_empty() {
        let ffmpeg = state.attachments.ffmpeg_version().await;
        let ffmpeg = ffmpeg.unwrap_or_else(|| "none; CAF is delivered as it is".to_owned());
        return format!("ready\nffmpeg: {ffmpeg}\n").into_response();
    }
    tracing::warn!(?problems, "not ready");
    (StatusCode::SERVICE_UNAVAILABLE, "not ready: see the log\n").into_response()
}

async fn metrics(State(state): State<HttpState>) -> Response {
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, openmetrics)],
        state.metrics.render(),
    )
        .into_response()
}
