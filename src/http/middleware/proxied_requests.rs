//! Limits concurrent requests per client behind a trusted proxy. Clients that connect directly are
//! limited by their number of connections (`server/clients.rs`), but a proxy's connections carry
//! requests of many clients.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::budget::{AtCapacity, Reservation};
use crate::domain::client_address::ClientAddress;
use crate::http::error::ApiError;
use crate::http::state::HttpState;

/// Counts a request as running until the client has received the whole response. A client that does
/// not read its response therefore keeps its permit.
pub(super) async fn limit(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    match permit(&state, &request) {
        Ok(Some(permit)) => next.run(request).await.map(|body| {
            Body::new(BodyWithPermit {
                body,
                _permit: permit,
            })
        }),
        Ok(None) => next.run(request).await,
        Err(refused) => ApiError::AtCapacity(refused).into_response(),
    }
}

/// Reserves a permit for a client behind a proxy. Returns `None` for a direct client, which needs
/// none.
fn permit(state: &HttpState, request: &Request) -> Result<Option<Reservation>, AtCapacity> {
    request
        .extensions()
        .get::<ClientAddress>()
        .filter(|client| client.is_forwarded())
        .map(|client| {
            let budget = &state.budgets.proxied_requests;
            budget.try_reserve(&client.to_string(), 1)
        })
        .transpose()
}

struct BodyWithPermit {
    body: Body,
    _permit: Reservation,
}

impl http_body::Body for BodyWithPermit {
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
