//! Renders upload errors as S3-compatible XML, because upload clients expect the responses of a
//! bucket. The error codes are from "Error responses" in the Amazon S3 API Reference.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::attachments::upload::Error;
use crate::quote::{self, Excerpt};

/// Client message for errors whose details only the operator may see.
const INTERNAL: &str = "We encountered an internal error. Please try again.";

/// A failed upload, which is rendered as an S3 error.
#[derive(Debug)]
pub(super) struct UploadError(pub(super) Error);

/// Response parameters of an error: status, S3 code, and seconds until a retry makes sense.
type Class = (StatusCode, &'static str, Option<u64>);

const UNAVAILABLE: Class = (
    StatusCode::SERVICE_UNAVAILABLE,
    "ServiceUnavailable",
    Some(1),
);
const FAILED: Class = (StatusCode::INTERNAL_SERVER_ERROR, "InternalError", None);

impl UploadError {
    pub(super) fn code(&self) -> &'static str {
        self.class().1
    }

    fn class(&self) -> Class {
        use StatusCode as S;
        match &self.0 {
            Error::MissingLength => (S::LENGTH_REQUIRED, "MissingContentLength", None),
            Error::BadSignature(_) => (S::FORBIDDEN, "SignatureDoesNotMatch", None),
            Error::Expired => (S::FORBIDDEN, "AccessDenied", None),
            Error::NotFound => (S::NOT_FOUND, "NoSuchKey", None),
            Error::Conflict | Error::Busy | Error::Replaced => {
                (S::CONFLICT, "OperationAborted", None)
            }
            Error::Incomplete => (S::BAD_REQUEST, "IncompleteBody", None),
            Error::TooSlow => (S::BAD_REQUEST, "RequestTimeout", None),
            Error::AtCapacity(refused) => (
                S::SERVICE_UNAVAILABLE,
                "SlowDown",
                Some(refused.retry_after),
            ),
            Error::Db(error) if error.is_transient() => UNAVAILABLE,
            Error::Blob(error) if error.is_transient() => UNAVAILABLE,
            Error::Db(_) | Error::Blob(_) => FAILED,
        }
    }

    /// Returns the error message for the client, and logs database and blob store errors.
    fn report(&self) -> String {
        match &self.0 {
            Error::Db(_) | Error::Blob(_) => {
                tracing::error!(error = %self.0, "upload failed");
                INTERNAL.to_owned()
            }
            error => Excerpt::of(error),
        }
    }
}

impl IntoResponse for UploadError {
    fn into_response(self) -> Response {
        let (status, code, retry_after) = self.class();
        let mut response = response(status, code, &self.report());
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

pub(super) fn response(status: StatusCode, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{}</Message></Error>",
        escape(&quote::bounded(message.to_owned()))
    );
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/xml"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, body).into_response()
}

/// Escapes text for use in XML content (XML 1.0 section 2.4). Control characters, which XML cannot
/// represent, are replaced with spaces.
fn escape(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut escaped, c| {
            match c {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                c if c.is_control() => escaped.push(' '),
                c => escaped.push(c),
            }
            escaped
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db;

    fn status(error: db::Error) -> StatusCode {
        UploadError(Error::Db(error)).into_response().status()
    }

    #[test]
    fn transient_database_error_is_503() {
        let error = sqlx::Error::PoolTimedOut.into();
        assert_eq!(status(error), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn permanent_database_error_is_500() {
        let error = db::Error::UnknownKind("x".to_owned());
        assert_eq!(status(error), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
