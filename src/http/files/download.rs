//! Handles GET and HEAD requests for files.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::content;
use crate::attachments::download::FileHandle;
use crate::attachments::{Error, SignedUrlError};
use crate::blob;
use crate::http::error::Class;
use crate::http::state::HttpState;
use crate::id::{AttachmentId, PartnerId};

/// Security headers for all responses at file URLs. They stop browsers from treating a file as a
/// page of this origin: scripts do not run, and the media type is not guessed. Pages of other
/// origins can read files.
const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    ),
    (
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    ),
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(
            "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Last-Modified",
        ),
    ),
];

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Reasons why a file request is answered without the file.
enum Rejection {
    NotFound,
    Unauthorized(SignedUrlError),
    Failed(Error),
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

pub(super) async fn get(
    State(state): State<HttpState>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let file = match path {
        Ok(Path((partner, id, filename))) => {
            open(&state, &partner, &id, &filename, query.as_deref()).await
        }
        // The path is not UTF-8, so it cannot name a file.
        Err(_) => Err(Rejection::NotFound),
    };
    let response = match file {
        Ok(file) => serve(&state, &file, &method, &headers).await,
        Err(rejection) => rejection.into_response(),
    };
    (SECURITY_HEADERS, response).into_response()
}

/// Answers requests for paths that cannot name a file.
pub(super) async fn not_found() -> Response {
    (SECURITY_HEADERS, Rejection::NotFound).into_response()
}

/// Answers requests with methods other than GET and HEAD.
pub(super) async fn wrong_method() -> Response {
    let response = plain_text(
        StatusCode::METHOD_NOT_ALLOWED,
        "a file takes GET and HEAD only\n",
    );
    let allow = [(header::ALLOW, HeaderValue::from_static("GET, HEAD"))];
    (allow, SECURITY_HEADERS, response).into_response()
}

/// Opens the file that a URL names, after checking the signature in the query.
async fn open(
    state: &HttpState,
    partner: &str,
    id: &str,
    filename: &str,
    query: Option<&str>,
) -> Result<Arc<FileHandle>, Rejection> {
    let partner = PartnerId::parse(partner).ok_or(Rejection::NotFound)?;
    let id = AttachmentId::parse(id).ok_or(Rejection::NotFound)?;
    let attachments = &state.attachments;
    let file = attachments.open_file(partner, id, filename).await?;
    let file = file.ok_or(Rejection::NotFound)?;
    attachments
        .file_urls()
        .check(id, &file, query)
        .map_err(Rejection::Unauthorized)?;
    Ok(file)
}

async fn serve(
    state: &HttpState,
    file: &FileHandle,
    method: &Method,
    headers: &HeaderMap,
) -> Response {
    if let Some(url) = state.attachments.direct_url(file, method) {
        return redirect(&url);
    }
    match content::respond(state, file, method, headers).await {
        Ok(response) => response,
        Err(blob::Error::NotFound) => {
            state.attachments.evict(file);
            Rejection::NotFound.into_response()
        }
        // The blob has been replaced, for example by restoring a backup. Eviction makes the next
        // request open the new one.
        Err(error @ blob::Error::PreconditionFailed) => {
            state.attachments.evict(file);
            unreachable_for_now(&error, 1)
        }
        Err(error) => Rejection::Failed(error.into()).into_response(),
    }
}

/// Returns a redirect to the bucket, which stores the file's response headers together with the
/// file.
fn redirect(url: &str) -> Response {
    let url = HeaderValue::from_str(url).expect("URLs are header values");
    let headers = [(header::LOCATION, url), (header::CACHE_CONTROL, NO_STORE)];
    (StatusCode::FOUND, headers).into_response()
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => plain_text(StatusCode::NOT_FOUND, "there is no such file\n"),
            Self::Unauthorized(error) => plain_text(StatusCode::FORBIDDEN, format!("{error}\n")),
            Self::Failed(Error::AtCapacity(refused)) => unavailable(
                refused.retry_after,
                "the server is at capacity; try again\n",
            ),
            Self::Failed(error) => {
                if let Some(seconds) = Class::from(&error).retry_after {
                    return unreachable_for_now(&error, seconds);
                }
                tracing::error!(%error, "download failed");
                plain_text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "something went wrong on our side; please try again\n",
                )
            }
        }
    }
}

fn unreachable_for_now(error: &dyn std::error::Error, retry_after: u64) -> Response {
    tracing::warn!(%error, "store or database is not reachable");
    unavailable(
        retry_after,
        "the file is not reachable at the moment; try again\n",
    )
}

fn unavailable(retry_after: u64, message: &'static str) -> Response {
    let response = plain_text(StatusCode::SERVICE_UNAVAILABLE, message);
    let headers = [(header::RETRY_AFTER, HeaderValue::from(retry_after))];
    (headers, response).into_response()
}

/// Returns a text response, marked as not cacheable.
pub(super) fn plain_text(status: StatusCode, message: impl IntoResponse) -> Response {
    (status, [(header::CACHE_CONTROL, NO_STORE)], message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db;

    fn response(error: db::Error) -> Response {
        Rejection::Failed(Error::Db(error)).into_response()
    }

    #[test]
    fn transient_database_error_is_503_with_retry_after() {
        let response = response(sqlx::Error::PoolTimedOut.into());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn permanent_database_error_is_500() {
        let response = response(db::Error::UnknownKind("x".to_owned()));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
