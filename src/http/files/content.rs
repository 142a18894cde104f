//! Builds the response to a file request, with conditional requests, ranges, and the file's
//! headers.

use std::ops::{Range, RangeInclusive};

use axum::body::Body;
use axum::http::header::{self, HeaderMap};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};

use super::conditional::{self, Outcome};
use super::download::plain_text;
use super::multipart::Multipart;
use super::range::{self, Requested};
use crate::attachments::download::FileHandle;
use crate::blob::{self, ByteStream};
use crate::domain::object_headers::ObjectHeaders;
use crate::http::state::HttpState;

pub(super) async fn respond(
    state: &HttpState,
    file: &FileHandle,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, blob::Error> {
    let etag = format!("\"{}\"", file.md5);
    let modified = file.stored_at.to_system_time();
    let object = ObjectHeaders::for_file(&file.media_type, &file.filename, file.tier());
    let mut response = match conditional::evaluate(headers, &etag, modified) {
        Outcome::Failed => {
            return Ok(plain_text(
                StatusCode::PRECONDITION_FAILED,
                "the file is not the one you asked for\n",
            ));
        }
        Outcome::NotModified => StatusCode::NOT_MODIFIED.into_response(),
        Outcome::Proceed { ranges } => {
            let requested = if ranges && method == Method::GET {
                requested(headers, file.blob.size())
            } else {
                Requested::Whole
            };
            match file_body(file, method, requested).await? {
                Some(body) => body.into_response(state, &object),
                None => return Ok(unsatisfiable(file.blob.size())),
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
        HeaderValue::from_static(object.cache_control),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(response)
}

/// Parses the `Range` header of a GET request; other methods do not define it (RFC 9110 section
/// 14.2).
fn requested(headers: &HeaderMap, size: u64) -> Requested {
    let values = headers.get_all(header::RANGE).iter();
    range::requested(values.map(HeaderValue::as_bytes), size)
}

/// Response body with the whole file, one range or several, and the headers that describe it.
struct FileBody {
    status: StatusCode,
    media_type: String,
    length: u64,
    content_range: Option<String>,
    stream: ByteStream,
}

/// Opens the requested bytes of a file. Returns `None` if all requested ranges lie outside the
/// file. For HEAD, nothing is read.
async fn file_body(
    file: &FileHandle,
    method: &Method,
    requested: Requested,
) -> Result<Option<FileBody>, blob::Error> {
    let size = file.blob.size();
    let body = match requested {
        Requested::Unsatisfiable => return Ok(None),
        Requested::Whole => FileBody {
            status: StatusCode::OK,
            media_type: file.media_type.clone(),
            length: size,
            content_range: None,
            stream: read(file, method, 0..size).await?,
        },
        Requested::Ranges(ranges) => match ranges.as_slice() {
            [range] => one_range(file, method, range).await?,
            _ => multipart(file, ranges),
        },
    };
    Ok(Some(body))
}

async fn one_range(
    file: &FileHandle,
    method: &Method,
    range: &RangeInclusive<u64>,
) -> Result<FileBody, blob::Error> {
    let (first, last) = (*range.start(), *range.end());
    Ok(FileBody {
        status: StatusCode::PARTIAL_CONTENT,
        media_type: file.media_type.clone(),
        length: last - first + 1,
        content_range: Some(format!("bytes {first}-{last}/{}", file.blob.size())),
        stream: read(file, method, first..last + 1).await?,
    })
}

fn multipart(file: &FileHandle, ranges: Vec<RangeInclusive<u64>>) -> FileBody {
    let parts = Multipart::new(ranges, &file.media_type, file.blob.size());
    FileBody {
        status: StatusCode::PARTIAL_CONTENT,
        media_type: parts.content_type(),
        length: parts.content_length(),
        content_range: None,
        stream: parts.stream(file.blob.clone()),
    }
}

async fn read(
    file: &FileHandle,
    method: &Method,
    range: Range<u64>,
) -> Result<ByteStream, blob::Error> {
    match *method {
        Method::HEAD => Ok(stream::empty().boxed()),
        _ => file.blob.clone().read(range).await,
    }
}

impl FileBody {
    fn into_response(self, state: &HttpState, object: &ObjectHeaders) -> Response {
        let body = Body::from_stream(counted(state, self.stream));
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, value(&self.media_type));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.length));
        headers.insert(
            header::CONTENT_DISPOSITION,
            value(&object.content_disposition),
        );
        if let Some(content_range) = self.content_range {
            headers.insert(header::CONTENT_RANGE, value(&content_range));
        }
        response
    }
}

fn unsatisfiable(size: u64) -> Response {
    let response = plain_text(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "the file has no such range\n",
    );
    let headers = [(header::CONTENT_RANGE, value(&format!("bytes */{size}")))];
    (headers, response).into_response()
}

/// Adds the bytes sent to the metric for downloaded bytes.
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
    HeaderValue::from_str(text).expect("types, tags, dates and ranges are header values")
}
