//! Errors on the wire: the envelope, and the one place where failures become codes.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::request_id::TraceId;
use crate::fetch;
use crate::quote::{self, Excerpt, shown};
use crate::service;

const OUR_FAULT: &str = "something went wrong on our side; please try again";

/// A failure of an API call: HTTP status, code, and a sentence for the developer.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: u16,
    message: String,
    retry_after: Option<u64>,
}

impl ApiError {
    /// No key, or none that is known.
    pub(crate) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, 2004, message)
    }

    /// A request of this server itself (RFC 5842 section 7.2).
    pub(crate) fn loop_detected() -> Self {
        let message =
            "this server fetches no media URL from itself; use the URL that it gave for the file";
        Self::new(StatusCode::LOOP_DETECTED, 1005, message)
    }

    /// A panic.
    pub(crate) fn bug() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, 3006, OUR_FAULT)
    }

    /// A route that does not exist.
    pub(crate) fn no_route(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            2001,
            format!("there is no resource at {}", shown(path)),
        )
    }

    /// A route that exists, called by another method.
    pub(crate) fn wrong_method(method: &str) -> Self {
        let message = format!(
            "{} is not allowed here; see the Allow header",
            shown(method)
        );
        Self::new(StatusCode::METHOD_NOT_ALLOWED, 1005, message)
    }

    /// A body that is not the JSON it should be.
    pub(crate) fn malformed_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, 1003, message)
    }

    fn new(status: StatusCode, code: u16, message: impl Into<String>) -> Self {
        // Whatever it quotes, and however often.
        Self {
            status,
            code,
            message: quote::bounded(message.into()),
            retry_after: None,
        }
    }
}

impl From<service::Error> for ApiError {
    fn from(error: service::Error) -> Self {
        use service::Error as E;
        let (status, code) = match &error {
            E::MissingField(_) => (StatusCode::BAD_REQUEST, 1001),
            E::InvalidNumber { .. } => (StatusCode::BAD_REQUEST, 1002),
            E::InvalidContent(_) => (StatusCode::BAD_REQUEST, 1004),
            E::InvalidParameter(_) => (StatusCode::BAD_REQUEST, 1005),
            E::RateLimited { .. } | E::TooManyPending { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, 1007)
            }
            E::ChatNotFound => (StatusCode::NOT_FOUND, 2001),
            E::MessageNotFound => (StatusCode::NOT_FOUND, 2002),
            E::AttachmentNotFound => (StatusCode::NOT_FOUND, 2003),
            E::LineNotOwned(_) => (StatusCode::FORBIDDEN, 2006),
            E::AttachmentNotReady(_) => (StatusCode::NOT_FOUND, 2007),
            E::NotAvailable(_) => (StatusCode::FORBIDDEN, 2011),
            E::MentionInDirectChat => (StatusCode::CONFLICT, 2023),
            E::UnsupportedType(_) => (StatusCode::BAD_REQUEST, 5004),
            E::TooLarge(_) => (StatusCode::BAD_REQUEST, 5005),
            E::TypeMismatch(_) => (StatusCode::BAD_REQUEST, 5006),
            E::Fetch { source, .. } => match source.cause() {
                fetch::Error::TooLarge(_) => (StatusCode::BAD_REQUEST, 5005),
                fetch::Error::AtCapacity(_) => (StatusCode::SERVICE_UNAVAILABLE, 4004),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, 5002),
            },
            E::VoiceMemoTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, 5005),
            E::AttachmentDeleted | E::Unprepared(_) | E::Unsettled(_) | E::AtCapacity(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, 4004)
            }
            E::Blob(blob) if blob.is_transient() => (StatusCode::SERVICE_UNAVAILABLE, 4004),
            E::Db(error) if error.is_transient() => (StatusCode::SERVICE_UNAVAILABLE, 4004),
            E::Db(_) => (StatusCode::INTERNAL_SERVER_ERROR, 3006),
            E::Blob(_) | E::BlobMissing(_) => (StatusCode::INTERNAL_SERVER_ERROR, 5001),
        };
        let retry_after = match &error {
            E::RateLimited { retry_after, .. } | E::TooManyPending { retry_after, .. } => {
                Some(*retry_after)
            }
            E::AtCapacity(refused)
            | E::Fetch {
                source: fetch::Error::AtCapacity(refused),
                ..
            } => Some(refused.retry_after),
            E::AttachmentDeleted | E::Unprepared(_) | E::Unsettled(_) => Some(1),
            E::Db(error) if error.is_transient() => Some(1),
            _ => None,
        };
        if let E::Blob(blob) = &error
            && blob.is_transient()
        {
            // What is wrong with it is the operator's business; that it passes is the client's.
            tracing::warn!(%error, "store or database is not reachable");
            let told = Self::new(
                status,
                code,
                "storage is not reachable at the moment; please try again",
            );
            return Self {
                retry_after: Some(1),
                ..told
            };
        }
        // What is another host's fault, or the moment's, is the client's business.
        let ours = !matches!(
            error,
            E::Fetch { .. }
                | E::AttachmentDeleted
                | E::Unprepared(_)
                | E::Unsettled(_)
                | E::AtCapacity(_)
        );
        if status.is_server_error() && ours {
            // Told once, here; the client gets a fixed text and the trace id, which the log line carries too.
            tracing::error!(%error, "request failed");
            return Self {
                retry_after,
                ..Self::new(status, code, OUR_FAULT)
            };
        }
        Self {
            retry_after,
            ..Self::new(status, code, Excerpt::of(&error))
        }
    }
}

/// The envelope of every error.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// Always `false`.
    success: bool,
    error: ErrorDetail,
    /// The same as the `X-Trace-ID` header.
    trace_id: String,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
struct ErrorDetail {
    /// The HTTP status.
    status: u16,
    /// The API's own code.
    code: u16,
    /// What was wrong, and what would be right.
    message: String,
    /// About the code.
    doc_url: String,
    /// On 429 only: seconds to wait, as in the `Retry-After` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self {
            status,
            code,
            message,
            retry_after,
        } = self;
        let body = ErrorBody {
            success: false,
            error: ErrorDetail {
                status: status.as_u16(),
                code,
                message,
                doc_url: format!(
                    "https://docs.linqapp.com/error/codes/{}xxx/{code}/",
                    code / 1000
                ),
                retry_after: retry_after.filter(|_| status == StatusCode::TOO_MANY_REQUESTS),
            },
            trace_id: TraceId::current().to_string(),
        };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
