//! API keys: `Authorization: Bearer KEY`, checked before anything else.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::{ApiState, PREFIX};
use crate::id::PartnerId;

/// The partner behind the request's key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller(pub(crate) PartnerId);

/// Lets requests with a known key pass, with their [`Caller`]. Everything below `/v3` and the clients' prefix needs
/// one, whether it exists or not; upload and file URLs need none and ignore one.
pub(crate) async fn require_key(
    State(app): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    if !["/v3", PREFIX].iter().any(|start| {
        path.strip_prefix(start)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }) {
        return next.run(request).await;
    }
    let key = bearer_key(request.headers()).map(str::to_owned);
    match identify(&app, key).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

async fn identify(app: &ApiState, key: Result<String, ApiError>) -> Result<Caller, ApiError> {
    let partner = app.service.authenticate(&key?).await?;
    partner
        .map(Caller)
        .ok_or_else(|| ApiError::Unauthorized("this API key is not known"))
}

fn bearer_key(headers: &HeaderMap) -> Result<&str, ApiError> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let header = all.next().ok_or_else(|| {
        ApiError::Unauthorized("an API key is required: send it as Authorization: Bearer KEY")
    })?;
    // A proxy and this server might each take another one for the right one.
    if all.next().is_some() {
        return Err(ApiError::Unauthorized(
            "a request has one Authorization header, not several",
        ));
    }
    let bearer = header.to_str().ok().and_then(|text| text.split_once(' '));
    let key = bearer
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    key.filter(|key| !key.is_empty()).ok_or_else(|| {
        ApiError::Unauthorized("the Authorization header is not of the form: Bearer KEY")
    })
}
