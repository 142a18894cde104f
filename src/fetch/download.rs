//! Reads a response body within the size and time limits of the configuration.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::{Response, header};
use tokio::time::{Instant, timeout_at};

use super::exchange::Driver;
use super::meter::Meter;
use super::{Config, Error};
use crate::budget::Reservation;
use crate::domain::validators::Validators;

/// A file that is being received. Dropping the value closes the connection.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    content_type: Option<String>,
    validators: Option<Validators>,
    expected: Option<u64>,
    received: u64,
    max_bytes: u64,
    max_header_bytes: usize,
    idle_timeout: Duration,
    timeout: Duration,
    deadline: Instant,
    meter: Arc<Meter>,
    connection: (Driver, Arc<Reservation>),
}

impl Download {
    pub(super) fn new(
        response: Response<Incoming>,
        validators: Option<Validators>,
        config: &Config,
        deadline: Instant,
        meter: Arc<Meter>,
        connection: (Driver, Arc<Reservation>),
    ) -> Result<Self, Error> {
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let body = response.into_body();
        let expected = body.size_hint().exact();
        if expected.is_some_and(|length| length > config.max_bytes) {
            return Err(Error::TooLarge(config.max_bytes));
        }
        Ok(Self {
            body,
            content_type,
            validators,
            expected,
            received: 0,
            max_bytes: config.max_bytes,
            max_header_bytes: config.max_header_bytes,
            idle_timeout: config.idle_timeout,
            timeout: config.timeout,
            deadline,
            meter,
            connection,
        })
    }

    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// Returns the validators with which a later request can ask whether the file has changed.
    #[must_use]
    pub fn validators(&self) -> Option<&Validators> {
        self.validators.as_ref()
    }

    /// Returns the permit of this fetch, so that the caller can hold it after the last byte was
    /// received.
    #[must_use]
    pub fn into_permit(self) -> Arc<Reservation> {
        self.connection.1
    }

    /// Receives the next bytes of the file. Returns `None` once the file is complete.
    ///
    /// # Errors
    /// The file is too large, incomplete or too slow, or the origin floods the connection.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        // Only bytes of the file reset the idle timeout; empty frames and trailers do not, so they
        // cannot keep a connection open.
        let idle = Instant::now() + self.idle_timeout;
        let until = idle.min(self.deadline);
        loop {
            let Ok(frame) = timeout_at(until, self.body.frame()).await else {
                return Err(if idle < self.deadline {
                    Error::Idle(self.idle_timeout)
                } else {
                    Error::TooSlow(self.timeout)
                });
            };
            let Some(frame) = frame else {
                let is_complete = self
                    .expected
                    .is_none_or(|expected| expected == self.received);
                return if is_complete {
                    Ok(None)
                } else {
                    Err(Error::Truncated)
                };
            };
            let frame = frame.map_err(|error| match self.meter.flood() {
                Some(flood) => Error::Flood(flood),
                None => Error::from_http(&error, self.max_header_bytes),
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.is_empty() {
                continue;
            }
            self.received += data.len() as u64;
            self.meter
                .count_piece(data.len() as u64)
                .map_err(Error::Flood)?;
            if self.received > self.max_bytes {
                return Err(Error::TooLarge(self.max_bytes));
            }
            return Ok(Some(data));
        }
    }
}
