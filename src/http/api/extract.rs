//! What handlers take from a request: the caller, ids of the path, the query, the JSON body. Each refuses what it
//! cannot read with the code the contract names.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::bounded_json::Bounded;
use super::json_body;
use crate::budget::Reservation;
use crate::http::error::ApiError;
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::quote::{Excerpt, quoted, shown};

/// An id of the path.
pub(crate) struct PathId<T>(pub(crate) T);

impl<T: ParseId, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(segments) = Path::<HashMap<String, String>>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::InvalidParameter("the path is not valid UTF-8".to_owned()))?;
        let text = segments.into_values().next().unwrap_or_default();
        T::parse(&text).map(Self).ok_or_else(|| {
            ApiError::InvalidParameter(format!("{} in the path is not a UUID", quoted(&text)))
        })
    }
}

/// An id that stands in paths.
pub(crate) trait ParseId: Sized {
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! path_ids {
    ($($id:ident)*) => {$(
        impl ParseId for crate::id::$id {
            fn parse(text: &str) -> Option<Self> {
                crate::id::$id::parse(text)
            }
        }
    )*};
}

path_ids! { AttachmentId ChatId MessageId }

/// The query, as pairs; of a name given twice the last counts.
pub(crate) struct QueryParams(HashMap<String, String>);

impl QueryParams {
    /// The value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::from_request_parts(parts, state).await.map_err(|_| {
            ApiError::InvalidParameter("the query string cannot be read".to_owned())
        })?;
        Ok(Self(pairs))
    }
}

/// Bytes of a JSON body from which on it takes noticeable time to parse.
const LARGE_BODY: usize = 32 * 1024;

/// A JSON object, whatever `Content-Type` says, and what it holds of the budget of JSON bodies until it was handled.
pub(crate) struct JsonBody<T>(pub(crate) T, pub(crate) Reservation);

impl<T: DeserializeOwned> FromRequest<HttpState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &HttpState) -> Result<Self, ApiError> {
        let caller = request.extensions().get::<Caller>().copied();
        let (body, held) = json_body::read(request, state).await?;
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(ApiError::MalformedBody(
                "the body must be a JSON object".to_owned(),
            ));
        }
        let _permit = match caller {
            Some(Caller(partner)) if body.len() > LARGE_BODY => {
                Some(state.parse_permit(partner).await?)
            }
            _ => None,
        };
        let json = &mut serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(Bounded(&mut *json)).map_err(|error| {
            let path = Excerpt::of(error.path());
            let place = if path == "." || path == "?" {
                String::new()
            } else {
                format!("{}: ", shown(&path))
            };
            ApiError::MalformedBody(format!("{place}{}", Excerpt::of(error.inner())))
        })?;
        json.end()
            .map_err(|error| ApiError::MalformedBody(error.to_string()))?;
        Ok(Self(value, held))
    }
}

/// A list of which at most `MOST` items and one more are kept, so that its length can be refused without holding all
/// that a body can name.
pub(crate) fn at_most<'de, D, T, const MOST: usize>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Items<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while items.len() <= MOST {
                match list.next_element()? {
                    Some(item) => items.push(item),
                    None => return Ok(Some(items)),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Some(items))
        }
    }

    deserializer.deserialize_any(Items::<T, MOST>(PhantomData))
}
