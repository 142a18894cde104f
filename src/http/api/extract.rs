//! Extracts path ids and query parameters from requests.

use std::collections::HashMap;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;

use crate::http::error::ApiError;
use crate::id::{AttachmentId, ChatId, MessageId};
use crate::quote::quoted;

/// Extractor for an id in the request path.
pub(super) struct PathId<T>(pub(super) T);

/// An id type and the name of its path parameter, which is identical in all routes.
pub(super) trait PathParameter: Sized {
    const NAME: &'static str;

    fn parse(text: &str) -> Option<Self>;
}

impl PathParameter for AttachmentId {
    const NAME: &'static str = "attachment_id";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl PathParameter for ChatId {
    const NAME: &'static str = "chat_id";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl PathParameter for MessageId {
    const NAME: &'static str = "message_id";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl<T: PathParameter, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    /// # Panics
    /// Panics if the route has no parameter with this name.
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parameters = match RawPathParams::from_request_parts(parts, state).await {
            Ok(parameters) => parameters,
            Err(RawPathParamsRejection::InvalidUtf8InPathParam(_)) => {
                let message = "the path is not valid UTF-8".to_owned();
                return Err(ApiError::InvalidParameter(message));
            }
            Err(error) => panic!("{error}"),
        };
        let (_, text) = parameters
            .iter()
            .find(|(name, _)| *name == T::NAME)
            .unwrap_or_else(|| panic!("the route has no parameter {{{}}}", T::NAME));
        T::parse(text).map(Self).ok_or_else(|| {
            ApiError::InvalidParameter(format!("{} in the path is not a UUID", quoted(text)))
        })
    }
}

/// The query parameters of a request. If a name is repeated, the last value counts.
pub(super) struct QueryParams(HashMap<String, String>);

impl QueryParams {
    /// Returns the value of a query parameter. Empty values count as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(parameters) = Query::from_request_parts(parts, state).await.map_err(|_| {
            ApiError::InvalidParameter("the query string cannot be read".to_owned())
        })?;
        Ok(Self(parameters))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::routing::get;
    use axum::{Router, response::Response};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    const CHAT: &str = "01990000-0000-7000-8000-000000000001";
    const MESSAGE: &str = "01990000-0000-7000-8000-000000000002";

    #[tokio::test]
    async fn ids_of_a_path_with_two_are_found_by_name() {
        let ids = async |PathId(message): PathId<MessageId>, PathId(chat): PathId<ChatId>| {
            format!("{chat} {message}")
        };
        let routes = Router::new()
            .route("/a/{chat_id}/{message_id}", get(ids))
            .route("/b/{message_id}/{chat_id}", get(ids));
        for path in [
            format!("/a/{CHAT}/{MESSAGE}"),
            format!("/b/{MESSAGE}/{CHAT}"),
        ] {
            let request = Request::get(&path).body(Body::empty()).expect("request");
            let response: Response = routes.clone().oneshot(request).await.expect("response");
            let body = response.into_body().collect().await.expect("body");
            assert_eq!(body.to_bytes(), format!("{CHAT} {MESSAGE}"), "{path}");
        }
    }
}
