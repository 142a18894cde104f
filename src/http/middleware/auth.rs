//! Authenticates requests by API key: `Authorization: Bearer KEY`.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::id::PartnerId;

/// The partner that an authenticated request belongs to.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Caller(pub(in crate::http) PartnerId);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Caller>().copied();
        caller.ok_or(ApiError::Unauthorized("an API key is required"))
    }
}

/// Rejects requests without a valid API key. Passes on the others, with their [`Caller`].
pub(in crate::http) async fn require_key(
    State(state): State<HttpState>,
    mut request: Request,
    next: Next,
) -> Response {
    // The key is copied, because a future that holds a reference to the request could not be sent
    // to another thread.
    let key = bearer_key(request.headers()).map(str::to_owned);
    match authenticate(&state, key).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

async fn authenticate(
    state: &HttpState,
    key: Result<String, ApiError>,
) -> Result<Caller, ApiError> {
    let partner = state.partners.authenticate(&key?).await?;
    partner
        .map(Caller)
        .ok_or(ApiError::Unauthorized("this API key is not known"))
}

fn bearer_key(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(ApiError::Unauthorized(
        "an API key is required: send it as Authorization: Bearer KEY",
    ))?;
    // Repeated headers are rejected, because a proxy and this server could each use a different
    // one.
    if values.next().is_some() {
        return Err(ApiError::Unauthorized(
            "a request has one Authorization header, not several",
        ));
    }
    value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim())
        .filter(|key| !key.is_empty())
        .ok_or(ApiError::Unauthorized(
            "the Authorization header is not of the form: Bearer KEY",
        ))
}
