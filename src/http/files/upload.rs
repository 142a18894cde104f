//! Handles uploads by presigned PUT. All checks that do not need the body run before it is read:
//! hyper sends `100 Continue` at the first read (RFC 9110 section 10.1.1), so a rejected client
//! that waits for it does not send the body.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::s3_error::{self, UploadError};
use crate::attachments::upload::{Error, UploadHead};
use crate::http::state::HttpState;
use crate::id::AttachmentId;

/// Handles requests with any method for an upload URL.
pub(super) async fn put(
    State(state): State<HttpState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    if request.method() != Method::PUT {
        return wrong_method();
    }
    let id = path.map(|Path(id)| id).unwrap_or_default();
    match receive(&state, &id, request).await {
        Ok(md5) => {
            state.metrics.upload("stored");
            let etag = HeaderValue::from_str(&format!("\"{md5}\""))
                .expect("hexadecimal is a header value");
            (StatusCode::OK, [(header::ETAG, etag)]).into_response()
        }
        Err(error) => {
            let error = UploadError(error);
            state.metrics.upload(error.code());
            error.into_response()
        }
    }
}

fn wrong_method() -> Response {
    let response = s3_error::response(
        StatusCode::METHOD_NOT_ALLOWED,
        "MethodNotAllowed",
        "an upload URL takes PUT only",
    );
    ([(header::ALLOW, HeaderValue::from_static("PUT"))], response).into_response()
}

/// Stores the uploaded file and returns its MD5 hash.
async fn receive(state: &HttpState, id: &str, request: Request) -> Result<String, Error> {
    let (parts, body) = request.into_parts();
    // Only the canonical form of the id is accepted, because the signature covers the path.
    let id = AttachmentId::parse(id)
        .filter(|parsed| parsed.to_string() == id)
        .ok_or_else(|| {
            Error::BadSignature("the path names no upload: use upload_url unchanged".to_owned())
        })?;
    let head = UploadHead {
        id,
        query: parts.uri.query().unwrap_or_default(),
        content_type: content_type(&parts.headers)?,
        content_length: text(&parts.headers, header::CONTENT_LENGTH)
            .and_then(|length| length.parse().ok()),
    };
    let digests = state
        .attachments
        .receive_upload(head, body.into_data_stream())
        .await?;
    Ok(digests.md5)
}

/// Returns the `Content-Type` header, or an empty string if it is absent. Rejects repeated headers,
/// because the signature would cover only one of them.
fn content_type(headers: &HeaderMap) -> Result<&str, Error> {
    if headers.get_all(header::CONTENT_TYPE).iter().count() > 1 {
        return Err(Error::BadSignature(
            "the request has several Content-Type headers: send the one that was given".to_owned(),
        ));
    }
    Ok(text(headers, header::CONTENT_TYPE).unwrap_or_default())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
