//! Spools large responses: writes them to an unnamed temporary file and serves the client from it.
//!
//! A response that the client does not read thus occupies at most [`MAX_IN_MEMORY`] bytes of
//! memory. This applies to every response that is built as a whole, whether newly rendered or
//! replayed for an idempotency key. Files are not spooled, because they are streamed from the blob
//! store.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::task::spawn_blocking;

use super::auth::Caller;
use crate::budget::Reservation;
use crate::domain::client_address::ClientAddress;
use crate::http::error::ApiError;
use crate::http::state::HttpState;

/// Maximum size of a response that stays in memory, in bytes.
const MAX_IN_MEMORY: u64 = 256 * 1024;
/// Number of bytes read from the temporary file at a time.
const CHUNK: usize = 32 * 1024;

pub(in crate::http) async fn large_responses(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    let holder = holder(&request);
    let response = next.run(request).await;
    let Some(size) = response
        .body()
        .size_hint()
        .exact()
        .filter(|size| *size > MAX_IN_MEMORY)
    else {
        return response;
    };
    let budget = state.attachments.temporary_bytes();
    let reservation = match budget.try_reserve(&holder, size) {
        Ok(reservation) => reservation,
        Err(refused) => return ApiError::AtCapacity(refused).into_response(),
    };
    let (mut parts, body) = response.into_parts();
    // `Content-Length` is set here, because hyper cannot know the length of a stream.
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    match spool(state.spool_dir, body, size, reservation).await {
        Ok(body) => Response::from_parts(parts, body),
        Err(error) => {
            tracing::error!(%error, size, "cannot spool a large response");
            ApiError::Internal.into_response()
        }
    }
}

/// Returns the holder whose budget share the response counts against: the partner, or the client
/// address if the request has no API key.
fn holder(request: &Request) -> String {
    let extensions = request.extensions();
    let client = || {
        extensions
            .get::<ClientAddress>()
            .copied()
            .unwrap_or_default()
    };
    extensions.get::<Caller>().map_or_else(
        || client().to_string(),
        |Caller(partner)| partner.to_string(),
    )
}

async fn spool(dir: PathBuf, body: Body, size: u64, reservation: Reservation) -> io::Result<Body> {
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let file = spawn_blocking(move || {
        let mut file = tempfile::tempfile_in(dir)?;
        file.write_all(&bytes)?;
        file.rewind()?;
        Ok::<_, io::Error>(file)
    });
    let file = file.await.map_err(io::Error::other)??;
    let chunks = stream::try_unfold(
        (file, size, reservation),
        |(mut file, left, reservation)| async move {
            if left == 0 {
                return Ok::<_, io::Error>(None);
            }
            let (chunk, file) =
                spawn_blocking(move || read_chunk(&mut file, left).map(|chunk| (chunk, file)))
                    .await
                    .map_err(io::Error::other)??;
            let left = left - chunk.len() as u64;
            Ok(Some((chunk, (file, left, reservation))))
        },
    );
    Ok(Body::from_stream(chunks))
}

fn read_chunk(file: &mut File, left: u64) -> io::Result<Bytes> {
    let mut chunk = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
    file.read_exact(&mut chunk)?;
    Ok(chunk.into())
}
