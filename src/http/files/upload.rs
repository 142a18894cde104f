//! The presigned PUT. Everything that can be refused is refused before the body is touched, so that a client that
//! waits for `100 Continue` (RFC 9110 section 10.1.1) sends nothing in vain: hyper sends it at the first read.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::s3_error::{self, UploadError};
use crate::attachments::upload::{Error, UploadHead};
use crate::http::state::HttpState;
use crate::id::AttachmentId;

/// PUT of an upload URL.
pub(super) async fn put(
    State(state): State<HttpState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let id = path.map(|Path(id)| id).unwrap_or_default();
    if request.method() != Method::PUT {
        let refused = s3_error::error(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "an upload URL takes PUT only",
        );
        return ([(header::ALLOW, HeaderValue::from_static("PUT"))], refused).into_response();
    }
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

async fn receive(state: &HttpState, id: &str, request: Request) -> Result<String, Error> {
    let (parts, body) = request.into_parts();
    // The canonical spelling only: the signature covers it.
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

/// The one `Content-Type`: of several, one might be signed and another one believed.
fn content_type(headers: &HeaderMap) -> Result<&str, Error> {
    if headers
        .get_all(header::CONTENT_TYPE)
        .iter()
        .nth(1)
        .is_some()
    {
        return Err(Error::BadSignature(
            "the request has several Content-Type headers: send the one that was given".to_owned(),
        ));
    }
    Ok(text(headers, header::CONTENT_TYPE).unwrap_or_default())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
