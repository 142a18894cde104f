//! Gives each request a trace id and a log span, counts it, and converts panics into error
//! responses. This is the outermost middleware layer.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;

use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::http::trace_id::TraceId;
use crate::metrics::RequestLabels;

const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

pub(super) async fn trace(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    let id = TraceId::random();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let method = method_label(request.method());
    let span = tracing::error_span!("request", trace_id = %id, method, route);

    // The panic hook logs panics, within the request's span.
    let response = async {
        let result = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        result.unwrap_or_else(|_| ApiError::Internal.into_response())
    };
    let mut response = id.scope(response).instrument(span.clone()).await;

    let status = response.status().as_u16();
    let value = HeaderValue::from_str(&id.to_string()).expect("hexadecimal is a header value");
    response.headers_mut().insert(X_TRACE_ID, value);
    let duration = start.elapsed();
    span.in_scope(|| tracing::debug!(status, ?duration, "request handled"));
    let labels = RequestLabels {
        route,
        method,
        status,
    };
    state.metrics.request(&labels, duration);
    response
}

/// Returns the HTTP method as a metric label. Unusual methods share one label, because clients can
/// send any token and a metric must have few labels.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
