//! GET and HEAD of a file.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};

use super::conditional::{self, Outcome};
use super::multipart::Multipart;
use super::range::{self, Requested};
use crate::attachments::Error;
use crate::attachments::download::FileHandle;
use crate::blob::{self, ByteStream};
use crate::domain::{disposition, object_headers};
use crate::http::state::HttpState;
use crate::id::{AttachmentId, PartnerId};

/// On every answer. A file is never a document of our origin: it may run no script and is not guessed at.
const SAFETY: [(HeaderName, HeaderValue); 4] = [
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

/// GET and HEAD.
pub(super) async fn get(
    State(state): State<HttpState>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
) -> Response {
    // A path that is not UTF-8 names no file.
    let Ok(Path((partner, id, segment))) = path else {
        return not_found().await;
    };
    let found = match (PartnerId::parse(&partner), AttachmentId::parse(&id)) {
        (Some(partner), Some(id)) => {
            let found = state.attachments.open_file(partner, id, &segment).await;
            found.map(|file| {
                file.map(|file| {
                    (
                        state
                            .attachments
                            .file_urls()
                            .check(id, &file, query.as_deref()),
                        file,
                    )
                })
            })
        }
        _ => Ok(None),
    };
    let mut response = match found {
        // Before anything of the request is compared with the file.
        Ok(Some((Err(unusable), _))) => refuse(StatusCode::FORBIDDEN, format!("{unusable}\n")),
        Ok(Some((Ok(()), file))) => match redirect(&state, &file, &method) {
            Some(response) => response,
            None => answer(&state, &file, &method, &headers)
                .await
                .unwrap_or_else(|error| unread(&state, &file, error)),
        },
        Ok(None) => refuse(StatusCode::NOT_FOUND, "there is no such file\n"),
        Err(error) => failed(&error),
    };
    response.headers_mut().extend(SAFETY);
    response
}

/// Paths that can name no file.
pub(super) async fn not_found() -> Response {
    (
        SAFETY,
        refuse(StatusCode::NOT_FOUND, "there is no such file\n"),
    )
        .into_response()
}

/// Every other method.
pub(super) async fn wrong_method() -> Response {
    let refused = refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "a file takes GET and HEAD only\n",
    );
    (
        [(header::ALLOW, HeaderValue::from_static("GET, HEAD"))],
        SAFETY,
        refused,
    )
        .into_response()
}

/// To the store itself, which has everything that is told of the file.
fn redirect(state: &HttpState, file: &FileHandle, method: &Method) -> Option<Response> {
    let url = state.attachments.direct_url(file, method)?;
    Some(
        (
            StatusCode::FOUND,
            [
                (header::LOCATION, value(&url)),
                (header::CACHE_CONTROL, NO_STORE),
            ],
        )
            .into_response(),
    )
}

fn unread(state: &HttpState, file: &FileHandle, error: blob::Error) -> Response {
    if matches!(error, blob::Error::NotFound) {
        state.attachments.evict(file);
        return refuse(StatusCode::NOT_FOUND, "there is no such file\n");
    }
    if matches!(error, blob::Error::PreconditionFailed) {
        // Put there anew by hands, from a backup say: it is opened anew the next time.
        state.attachments.evict(file);
    }
    failed(&error.into())
}

fn failed(error: &Error) -> Response {
    let passing = match error {
        Error::AtCapacity(refused) => {
            let told = refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server is at capacity; try again\n",
            );
            return (
                [(header::RETRY_AFTER, HeaderValue::from(refused.retry_after))],
                told,
            )
                .into_response();
        }
        Error::Blob(blob) => blob.is_transient() || matches!(blob, blob::Error::PreconditionFailed),
        Error::Db(db) => db.is_transient(),
        _ => false,
    };
    if passing {
        tracing::warn!(%error, "store or database is not reachable");
        let refused = refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "the file is not reachable at the moment; try again\n",
        );
        return (
            [(header::RETRY_AFTER, HeaderValue::from_static("1"))],
            refused,
        )
            .into_response();
    }
    tracing::error!(%error, "download failed");
    refuse(
        StatusCode::INTERNAL_SERVER_ERROR,
        "something went wrong on our side; please try again\n",
    )
}

fn refuse(status: StatusCode, message: impl IntoResponse) -> Response {
    (status, [(header::CACHE_CONTROL, NO_STORE)], message).into_response()
}

async fn answer(
    state: &HttpState,
    file: &FileHandle,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, blob::Error> {
    let etag = format!("\"{}\"", file.md5);
    let modified = file.stored_at.to_system_time();
    let mut response = match conditional::evaluate(headers, &etag, modified) {
        Outcome::Failed => {
            return Ok(refuse(
                StatusCode::PRECONDITION_FAILED,
                "the file is not the one you asked for\n",
            ));
        }
        Outcome::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Outcome::Proceed { ranges } => {
            let size = file.blob.size();
            // Range is defined for GET only (RFC 9110 section 14.2).
            let requested = if ranges && method == Method::GET {
                range::requested(
                    headers
                        .get_all(header::RANGE)
                        .iter()
                        .map(HeaderValue::as_bytes),
                    size,
                )
            } else {
                Requested::Whole
            };
            match content(state, file, method, requested, size).await? {
                Some(response) => response,
                None => return Ok(unsatisfiable(size)),
            }
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, value(&etag));
    headers.insert(
        header::LAST_MODIFIED,
        value(&httpdate::fmt_http_date(modified)),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static(object_headers::cache_control(file.tier())),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(response)
}

/// The whole file or parts of it; `None` if it has none of what was asked for. Nothing is read for a HEAD.
async fn content(
    state: &HttpState,
    file: &FileHandle,
    method: &Method,
    requested: Requested,
    size: u64,
) -> Result<Option<Response>, blob::Error> {
    let single = async |range: std::ops::Range<u64>| {
        let length = range.end - range.start;
        let stream = match *method {
            Method::HEAD => stream::empty().boxed(),
            _ => file.blob.clone().read(range).await?,
        };
        Ok::<_, blob::Error>((length, stream, file.media_type.clone()))
    };
    let (status, content_range, (length, stream, media_type)) = match requested {
        Requested::Unsatisfiable => return Ok(None),
        Requested::Whole => (StatusCode::OK, None, single(0..size).await?),
        Requested::Ranges(ranges) => {
            if let [range] = ranges.as_slice() {
                let (first, last) = (*range.start(), *range.end());
                let content_range = format!("bytes {first}-{last}/{size}");
                (
                    StatusCode::PARTIAL_CONTENT,
                    Some(content_range),
                    single(first..last + 1).await?,
                )
            } else {
                let parts = Multipart::new(ranges, &file.media_type, size);
                let (length, media_type) = (parts.content_length(), parts.content_type());
                (
                    StatusCode::PARTIAL_CONTENT,
                    None,
                    (length, parts.stream(file.blob.clone()), media_type),
                )
            }
        }
    };
    let mut response = (status, Body::from_stream(counted(state, stream))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(&media_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(
        header::CONTENT_DISPOSITION,
        value(&disposition::for_file(&file.media_type, &file.filename)),
    );
    if let Some(content_range) = content_range {
        headers.insert(header::CONTENT_RANGE, value(&content_range));
    }
    Ok(Some(response))
}

fn unsatisfiable(size: u64) -> Response {
    let refused = refuse(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "the file has no such range\n",
    );
    (
        [(header::CONTENT_RANGE, value(&format!("bytes */{size}")))],
        refused,
    )
        .into_response()
}

fn counted(state: &HttpState, stream: ByteStream) -> ByteStream {
    let counter = state.metrics.downloaded_bytes.clone();
    stream
        .inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                counter.inc_by(chunk.len() as u64);
            }
        })
        .boxed()
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("types, tags, dates, ranges and URLs are header values")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db;

    #[test]
    fn what_passes_is_to_be_asked_for_again() {
        let away = failed(&Error::Db(sqlx::Error::PoolTimedOut.into()));
        assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(away.headers()[header::RETRY_AFTER], "1");
        let broken = failed(&Error::Db(db::Error::UnknownKind("x".to_owned())));
        assert_eq!(broken.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
