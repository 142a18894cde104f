//! Trace ids: one fresh for every request, in the answer's `X-Trace-ID`, in error bodies and in every log line. And
//! what is counted and logged of each request.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body::{Frame, SizeHint};
use tracing::Instrument;

use super::ApiState;
use super::error::ApiError;
use super::host;
use crate::budget::Reservation;
use crate::domain::client_address::ClientAddress;
use crate::metrics::RequestLabels;

const HEADER: HeaderName = HeaderName::from_static("x-trace-id");

tokio::task_local! {
    static CURRENT: TraceId;
}

/// 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceId(u128);

impl TraceId {
    /// The trace id of the request at hand.
    pub(crate) fn current() -> Self {
        CURRENT.try_with(|id| *id).unwrap_or(Self(0))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The answer after a panic, which the panic hook has reported already.
fn bug() -> Response {
    ApiError::Internal.into_response()
}

/// The method as a label. Clients can make up any number of methods, but not of labels.
fn known_method(method: &Method) -> &'static str {
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

/// Checks what hyper leaves to us, and counts a request that came through a trusted proxy. Others are counted by their
/// connection.
fn admit(app: &ApiState, request: &Request) -> Result<Option<Reservation>, ApiError> {
    host::check(request).map_err(|problem| ApiError::InvalidParameter(problem.to_owned()))?;
    let client = request
        .extensions()
        .get::<ClientAddress>()
        .filter(|client| client.is_forwarded());
    let reserve = |client: &ClientAddress| {
        app.service
            .budgets()
            .proxied_requests
            .try_reserve(&client.to_string(), 1)
    };
    Ok(client.map(reserve).transpose()?)
}

/// A body with what its request holds.
struct Placed {
    body: Body,
    _place: Reservation,
}

impl http_body::Body for Placed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gives the request its trace id, counts it and logs it.
pub(crate) async fn trace(State(app): State<ApiState>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = TraceId(rand::random());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str);
    let labels = (route.to_owned(), known_method(request.method()));
    let span = tracing::error_span!("request", trace_id = %id, method = labels.1, route = labels.0);

    let answer = async {
        match admit(&app, &request) {
            // Until the answer has been taken: a client that does not read it holds its place.
            Ok(Some(place)) => next.run(request).await.map(|body| {
                Body::new(Placed {
                    body,
                    _place: place,
                })
            }),
            Ok(None) => next.run(request).await,
            Err(error) => error.into_response(),
        }
    };
    let answer = AssertUnwindSafe(answer)
        .catch_unwind()
        .map(|answer| answer.unwrap_or_else(|_| bug()));
    let mut response = CURRENT.scope(id, answer).instrument(span.clone()).await;

    let status = response.status().as_u16();
    let value = HeaderValue::from_str(&id.to_string()).expect("hexadecimal is a header value");
    response.headers_mut().insert(HEADER, value);
    let duration = start.elapsed();
    span.in_scope(|| tracing::debug!(status, ?duration, "answered"));
    app.service.metrics().request(
        &RequestLabels {
            route: labels.0,
            method: labels.1,
            status,
        },
        duration,
    );
    response
}
