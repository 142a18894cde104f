//! Converts errors of the API and the middleware into JSON responses, and maps them to HTTP
//! statuses, API error codes and log levels.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::trace_id::TraceId;
use crate::budget::AtCapacity;
use crate::quote::{Excerpt, quoted, shown};
use crate::{attachments, messages, partners, send};

/// Client message for errors whose details only the operator may see.
const INTERNAL: &str = "something went wrong on our side; please try again";
/// Client message for an unreachable blob store. Only the operator sees the details.
const STORE_UNREACHABLE: &str = "storage is not reachable at the moment; please try again";

/// Reasons why an API call failed. The last variants are use-case errors, the others come from HTTP
/// handling.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    Unauthorized(&'static str),
    /// A required field is missing, null or empty.
    #[error("{0} is required")]
    MissingField(&'static str),
    /// A phone number is not in E.164 form.
    #[error("{field}: {} is not a phone number in E.164 form, such as +12025550199", quoted(.value))]
    InvalidNumber { field: &'static str, value: String },
    /// The request body is not a JSON object of the expected form.
    #[error("{0}")]
    MalformedBody(String),
    /// The message parts are invalid.
    #[error("{0}")]
    InvalidContent(String),
    /// A parameter, a header or part of the path has an invalid value.
    #[error("{0}")]
    InvalidParameter(String),
    /// The API reference has this feature, but this server does not support it.
    #[error("{0}")]
    NotAvailable(String),
    #[error("there is no resource at {}", shown(.0))]
    NoRoute(String),
    #[error("{} is not allowed here; see the Allow header", shown(.0))]
    WrongMethod(String),
    /// This server sent the request to itself (RFC 5842 section 7.2).
    #[error("this server fetches no media URL from itself; use the URL that it gave for the file")]
    LoopDetected,
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// A panic or an I/O error, which has already been logged.
    #[error("{INTERNAL}")]
    Internal,
    #[error(transparent)]
    Attachment(#[from] attachments::Error),
    #[error(transparent)]
    Send(#[from] send::Error),
    #[error(transparent)]
    Message(#[from] messages::Error),
    #[error(transparent)]
    Partner(#[from] partners::Error),
}

/// Error class, which determines the response and the log entry.
pub(super) struct Class {
    status: StatusCode,
    code: u16,
    /// Number of seconds after which a retry makes sense.
    pub(super) retry_after: Option<u64>,
    report: Report,
}

/// Message for the client and log entry for the operator.
#[derive(Clone, Copy)]
enum Report {
    /// The error is shown to the client and not logged: the client or another host is at fault.
    Show,
    /// The client gets [`STORE_UNREACHABLE`], and a warning is logged.
    StoreUnreachable,
    /// The client gets [`INTERNAL`], and an error is logged.
    Internal,
}

impl Class {
    const fn new(status: StatusCode, code: u16) -> Self {
        Self {
            status,
            code,
            retry_after: None,
            report: Report::Show,
        }
    }

    const fn unavailable(retry_after: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, 4004).with_retry_after(retry_after)
    }

    const fn rate_limited(retry_after: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, 1007).with_retry_after(retry_after)
    }

    const fn internal(code: u16) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code).with_report(Report::Internal)
    }

    /// Returns the class of a database error.
    const fn database(is_transient: bool) -> Self {
        if is_transient {
            Self::unavailable(1).with_report(Report::Internal)
        } else {
            Self::internal(3006)
        }
    }

    /// Returns the class of a blob store error.
    const fn store(is_transient: bool) -> Self {
        if is_transient {
            Self::unavailable(1).with_report(Report::StoreUnreachable)
        } else {
            Self::internal(5001)
        }
    }

    const fn with_retry_after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    const fn with_report(self, report: Report) -> Self {
        Self { report, ..self }
    }
}

impl From<&ApiError> for Class {
    fn from(error: &ApiError) -> Self {
        use ApiError as E;
        use StatusCode as S;
        match error {
            E::MissingField(_) => Self::new(S::BAD_REQUEST, 1001),
            E::InvalidNumber { .. } => Self::new(S::BAD_REQUEST, 1002),
            E::MalformedBody(_) => Self::new(S::BAD_REQUEST, 1003),
            E::InvalidContent(_) => Self::new(S::BAD_REQUEST, 1004),
            E::InvalidParameter(_) => Self::new(S::BAD_REQUEST, 1005),
            E::WrongMethod(_) => Self::new(S::METHOD_NOT_ALLOWED, 1005),
            E::LoopDetected => Self::new(S::LOOP_DETECTED, 1005),
            E::NoRoute(_) => Self::new(S::NOT_FOUND, 2001),
            E::Unauthorized(_) => Self::new(S::UNAUTHORIZED, 2004),
            E::NotAvailable(_) => Self::new(S::FORBIDDEN, 2011),
            E::AtCapacity(refused) => Self::unavailable(refused.retry_after),
            E::Internal => Self::new(S::INTERNAL_SERVER_ERROR, 3006),
            E::Attachment(error) => Self::from(error),
            E::Send(error) => Self::from(error),
            E::Message(error) => Self::from(error),
            E::Partner(error) => Self::from(error),
        }
    }
}

impl From<&attachments::Error> for Class {
    fn from(error: &attachments::Error) -> Self {
        use StatusCode as S;
        use attachments::Error as E;
        match error {
            E::EmptyFile | E::FilenameTooLong(_) => Self::new(S::BAD_REQUEST, 1005),
            E::TooManyPending { retry_after, .. } => Self::rate_limited(*retry_after),
            E::NotFound => Self::new(S::NOT_FOUND, 2003),
            E::UnsupportedType(_) | E::UnsupportedExtension(_) => Self::new(S::BAD_REQUEST, 5004),
            E::TooLarge(_) => Self::new(S::BAD_REQUEST, 5005),
            E::Deleted => Self::unavailable(1),
            E::AtCapacity(refused) => Self::unavailable(refused.retry_after),
            E::Db(error) => Self::database(error.is_transient()),
            E::Blob(error) => Self::store(error.is_transient()),
            E::BlobMissing(_) => Self::internal(5001),
        }
    }
}

impl From<&send::Error> for Class {
    fn from(error: &send::Error) -> Self {
        use StatusCode as S;
        use send::Error as E;
        match error {
            E::FirstMessage(_) | E::NoLineLeft | E::PartIndexOutOfRange { .. } => {
                Self::new(S::BAD_REQUEST, 1005)
            }
            E::RateLimited { retry_after, .. } => Self::rate_limited(*retry_after),
            E::ChatNotFound => Self::new(S::NOT_FOUND, 2001),
            E::MessageNotFound => Self::new(S::NOT_FOUND, 2002),
            E::LineNotOwned(_) => Self::new(S::FORBIDDEN, 2006),
            E::AttachmentNotReady(_) => Self::new(S::NOT_FOUND, 2007),
            E::MentionInDirectChat => Self::new(S::CONFLICT, 2023),
            E::AttachmentRejected { .. }
            | E::NotAudio { .. }
            | E::NotPlayable(_)
            | E::UnsupportedExtension { .. }
            | E::UnsupportedType { .. } => Self::new(S::BAD_REQUEST, 5004),
            E::FetchTooLarge { .. } => Self::new(S::BAD_REQUEST, 5005),
            E::VoiceMemoTooLarge(_) => Self::new(S::PAYLOAD_TOO_LARGE, 5005),
            E::TypeMismatch { .. } => Self::new(S::BAD_REQUEST, 5006),
            E::Fetch { .. } => Self::new(S::INTERNAL_SERVER_ERROR, 5002),
            E::FetchAtCapacity { refused, .. } | E::AtCapacity(refused) => {
                Self::unavailable(refused.retry_after)
            }
            E::Attachment(error) => Self::from(error),
            E::Db(error) => Self::database(error.is_transient()),
            E::Blob(error) => Self::store(error.is_transient()),
        }
    }
}

impl From<&messages::Error> for Class {
    fn from(error: &messages::Error) -> Self {
        use messages::Error as E;
        match error {
            E::ChatNotFound => Self::new(StatusCode::NOT_FOUND, 2001),
            E::MessageNotFound => Self::new(StatusCode::NOT_FOUND, 2002),
            E::LineNotOwned(_) => Self::new(StatusCode::FORBIDDEN, 2006),
            E::AtCapacity(refused) => Self::unavailable(refused.retry_after),
            E::Db(error) => Self::database(error.is_transient()),
        }
    }
}

impl From<&partners::Error> for Class {
    fn from(error: &partners::Error) -> Self {
        match error {
            partners::Error::AtCapacity(refused) => Self::unavailable(refused.retry_after),
            partners::Error::Db(error) => Self::database(error.is_transient()),
        }
    }
}

impl ApiError {
    /// Returns the error message for the client. Logs the error if its details are not shown to the
    /// client.
    fn report(&self, report: Report) -> String {
        match report {
            Report::Show => Excerpt::of(self),
            Report::StoreUnreachable => {
                tracing::warn!(error = %self, "blob store is not reachable");
                STORE_UNREACHABLE.to_owned()
            }
            Report::Internal => {
                tracing::error!(error = %self, "request failed");
                INTERNAL.to_owned()
            }
        }
    }
}

/// The envelope of every error.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// Always `false`.
    success: bool,
    error: ErrorDetail,
    /// Value of the `X-Trace-ID` header.
    trace_id: String,
}

/// An error.
#[derive(Serialize, ToSchema)]
struct ErrorDetail {
    /// The HTTP status.
    status: u16,
    /// The code of the API.
    code: u16,
    /// The problem and its remedy.
    message: String,
    /// The reference page of the code.
    doc_url: String,
    /// Seconds to wait; only with status 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Class {
            status,
            code,
            retry_after,
            report,
        } = Class::from(&self);
        let body = ErrorBody {
            success: false,
            error: ErrorDetail {
                status: status.as_u16(),
                code,
                message: self.report(report),
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
