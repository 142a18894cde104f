//! Extracts JSON bodies. Limits the size of each body, the memory used by all bodies, the time for
//! receiving one, and the number of large bodies parsed at the same time.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::bounded_json::Bounded;
use crate::budget::{AtCapacity, Reservation};
use crate::domain::client_address::ClientAddress;
use crate::http::error::ApiError;
use crate::http::middleware::auth::Caller;
use crate::http::state::{HttpState, JsonConfig};
use crate::quote::{Excerpt, shown};

/// Size in bytes above which a body takes noticeable time to parse.
const LARGE_BODY: usize = 32 * 1024;
/// Initial capacity of a body's buffer, in bytes.
const MIN_CAPACITY: usize = 4096;

/// Extractor for a JSON object; the `Content-Type` of the request does not matter. Hold the memory
/// reservation until the request has been handled.
pub(super) struct JsonBody<T>(pub(super) T, pub(super) Reservation);

impl<T: DeserializeOwned> FromRequest<HttpState> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &HttpState) -> Result<Self, ApiError> {
        let caller = request.extensions().get::<Caller>().copied();
        let (bytes, reservation) = read(request, state).await?;
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(malformed("the body must be a JSON object"));
        }
        let _permit = match caller {
            Some(Caller(partner)) if bytes.len() > LARGE_BODY => {
                Some(state.parse_permit(partner).await?)
            }
            _ => None,
        };
        Ok(Self(parse(&bytes)?, reservation))
    }
}

fn malformed(message: &str) -> ApiError {
    ApiError::MalformedBody(message.to_owned())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let json = &mut serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(Bounded(&mut *json)).map_err(|error| {
        let path = Excerpt::of(error.path());
        let location = if path == "." || path == "?" {
            String::new()
        } else {
            format!("{}: ", shown(&path))
        };
        ApiError::MalformedBody(format!("{location}{}", Excerpt::of(error.inner())))
    })?;
    json.end()
        .map_err(|error| ApiError::MalformedBody(error.to_string()))?;
    Ok(value)
}

/// Reads the request body. The returned reservation covers its text and the lists that parsing can
/// create from it.
async fn read(request: Request, state: &HttpState) -> Result<(Vec<u8>, Reservation), ApiError> {
    let client = request
        .extensions()
        .get::<ClientAddress>()
        .copied()
        .unwrap_or_default();
    let reservation = state
        .budgets
        .json_bytes
        .try_reserve(&client.to_string(), 0)?;
    let max = usize::try_from(state.json.max_bytes).unwrap_or(usize::MAX);
    let mut buffer = Buffer::new(request.body(), max, reservation)?;
    let mut body = request.into_body();
    let mut pace = state.json_pace.clone();
    let mut last = Instant::now();
    while !pace.next_chunk_timeout().is_zero() {
        let Ok(frame) = timeout(pace.next_chunk_timeout(), body.frame()).await else {
            break;
        };
        let Some(frame) = frame else {
            return buffer.finish();
        };
        let Ok(data) = frame.map_err(|_| buffer.too_large())?.into_data() else {
            continue;
        };
        let now = Instant::now();
        pace.moved(now - last, data.len());
        last = now;
        buffer.append(&data)?;
    }
    Err(malformed("the body did not arrive in time"))
}

/// The bytes of a request body, copied into one buffer. Keeping the received chunks instead would
/// keep the connection's whole read buffer alive, even for a small chunk.
struct Buffer {
    bytes: Vec<u8>,
    /// Maximum body size, in bytes.
    max: usize,
    /// Declared size of this body, or `max` if none is declared.
    expected: usize,
    reservation: Reservation,
}

impl Buffer {
    fn new(body: &Body, max: usize, reservation: Reservation) -> Result<Self, ApiError> {
        let declared = body.size_hint().exact();
        let declared = declared.map(|size| usize::try_from(size).unwrap_or(usize::MAX));
        let buffer = Self {
            bytes: Vec::new(),
            max,
            expected: declared.unwrap_or(max),
            reservation,
        };
        if buffer.expected > max {
            return Err(buffer.too_large());
        }
        Ok(buffer)
    }

    fn too_large(&self) -> ApiError {
        let max = self.max;
        ApiError::MalformedBody(format!(
            "the body ended early or is larger than {max} bytes"
        ))
    }

    fn append(&mut self, data: &[u8]) -> Result<(), ApiError> {
        if data.len() > self.max - self.bytes.len() {
            return Err(self.too_large());
        }
        self.reserve(data.len())?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Doubles the capacity when needed, so that a body is copied only a few times, but never
    /// beyond the expected size. Memory is reserved in the budget before it is allocated.
    fn reserve(&mut self, additional: usize) -> Result<(), AtCapacity> {
        let needed = self.bytes.len() + additional;
        let capacity = self.bytes.capacity();
        if needed > capacity {
            let grown = (2 * capacity)
                .max(MIN_CAPACITY)
                .min(self.expected)
                .max(needed);
            self.reservation.try_grow((grown - capacity) as u64)?;
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(Vec<u8>, Reservation), ApiError> {
        self.reservation
            .try_grow(JsonConfig::list_bytes(self.bytes.len() as u64))?;
        Ok((self.bytes, self.reservation))
    }
}
