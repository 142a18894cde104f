//! Reading JSON bodies: bounded in size, counted in a budget while they arrive, and at a least rate.

use axum::extract::Request;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout};

use crate::budget::{AtCapacity, Reservation};
use crate::config::Limits;
use crate::domain::client_address::ClientAddress;
use crate::http::error::ApiError;
use crate::http::state::HttpState;

/// Capacity of the buffer of a small body.
const SMALL: usize = 4096;

/// Reads a body. The reservation counts the text and what its lists can take once it is parsed.
pub(super) async fn read(
    request: Request,
    state: &HttpState,
) -> Result<(Vec<u8>, Reservation), ApiError> {
    let limits = &state.limits;
    let most = usize::try_from(limits.max_json_bytes).unwrap_or(usize::MAX);
    let client = request
        .extensions()
        .get::<ClientAddress>()
        .copied()
        .unwrap_or_default();
    let mut reservation = state
        .budgets
        .json_bytes
        .try_reserve(&client.to_string(), 0)?;
    let too_large = || {
        ApiError::MalformedBody(format!(
            "the body ended early or is larger than {most} bytes"
        ))
    };

    let mut body = request.into_body();
    let declared = body
        .size_hint()
        .exact()
        .and_then(|size| usize::try_from(size).ok());
    if declared.is_some_and(|size| size > most) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut pace = limits.json_pace();
    let mut last = Instant::now();
    while !pace.next_chunk_timeout().is_zero() {
        let Ok(frame) = timeout(pace.next_chunk_timeout(), body.frame()).await else {
            break;
        };
        let Some(frame) = frame else {
            reservation.try_grow(Limits::json_overhead(bytes.len() as u64))?;
            return Ok((bytes, reservation));
        };
        // Copied: a piece that is kept as it came keeps the whole buffer it was read into, however small it is.
        let Ok(data) = frame.map_err(|_| too_large())?.into_data() else {
            continue;
        };
        let now = Instant::now();
        pace.moved(now - last, data.len());
        last = now;
        if data.len() > most - bytes.len() {
            return Err(too_large());
        }
        grow(
            &mut bytes,
            data.len(),
            declared.unwrap_or(most),
            &mut reservation,
        )?;
        bytes.extend_from_slice(&data);
    }
    Err(ApiError::MalformedBody(
        "the body did not arrive in time".to_owned(),
    ))
}

/// Makes room for `more` bytes, and reserves that room first. The capacity doubles, so that a body is copied a few times
/// at most, but never beyond what the body can need.
fn grow(
    bytes: &mut Vec<u8>,
    more: usize,
    most: usize,
    reservation: &mut Reservation,
) -> Result<(), AtCapacity> {
    let needed = bytes.len() + more;
    if needed > bytes.capacity() {
        let capacity = (2 * bytes.capacity()).max(SMALL).min(most).max(needed);
        reservation.try_grow((capacity - bytes.capacity()) as u64)?;
        bytes.reserve_exact(capacity - bytes.len());
    }
    Ok(())
}
