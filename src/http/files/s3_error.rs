//! Answers of the presigned PUT: errors are XML as S3 gives them, because upload clients expect a bucket.
//! Codes: Amazon S3 API Reference, "Error responses".

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::attachments::upload::Error;
use crate::quote::{self, Excerpt};

/// A refused upload.
#[derive(Debug)]
pub(crate) struct UploadError(pub(crate) Error);

impl UploadError {
    pub(crate) fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match &self.0 {
            Error::MissingLength => (StatusCode::LENGTH_REQUIRED, "MissingContentLength"),
            Error::BadSignature(_) => (StatusCode::FORBIDDEN, "SignatureDoesNotMatch"),
            Error::Expired => (StatusCode::FORBIDDEN, "AccessDenied"),
            Error::NotFound => (StatusCode::NOT_FOUND, "NoSuchKey"),
            Error::Conflict | Error::Busy | Error::Replaced => {
                (StatusCode::CONFLICT, "OperationAborted")
            }
            Error::Incomplete => (StatusCode::BAD_REQUEST, "IncompleteBody"),
            Error::TooSlow => (StatusCode::BAD_REQUEST, "RequestTimeout"),
            Error::AtCapacity(_) => (StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            Error::Blob(blob) if blob.is_transient() => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            }
            Error::Db(db) if db.is_transient() => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            }
            Error::Db(_) | Error::Blob(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        }
    }
}

impl IntoResponse for UploadError {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        let retry_after = if let Error::AtCapacity(refused) = &self.0 {
            refused.retry_after
        } else {
            1
        };
        let message = if status.is_server_error() && !matches!(self.0, Error::AtCapacity(_)) {
            tracing::error!(error = %self.0, "upload failed");
            "We encountered an internal error. Please try again.".to_owned()
        } else {
            Excerpt::of(&self.0)
        };
        let mut response = error(status, code, &message);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
        }
        response
    }
}

/// One error.
pub(crate) fn error(status: StatusCode, code: &str, message: &str) -> Response {
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

/// Text as XML content (XML 1.0 section 2.4). Control characters, which XML cannot hold, become spaces.
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

    #[test]
    fn a_database_that_is_away_is_not_a_fault() {
        let answer = |error| UploadError(Error::Db(error)).into_response().status();
        assert_eq!(
            answer(sqlx::Error::PoolTimedOut.into()),
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(
            answer(db::Error::UnknownKind("x".to_owned())),
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }
}
