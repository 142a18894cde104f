//! Large answers: kept in a file without a name instead of in memory until the client has read them.
//!
//! The one place that bounds what an answer that nobody reads holds: [`MAX_HELD`] bytes in memory. It covers every answer
//! that is made as a whole, fresh or kept under an idempotency key; files are streamed from their store anyway.

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

use super::ApiState;
use super::auth::Caller;
use super::error::ApiError;
use crate::budget::Reservation;
use crate::domain::client_address::ClientAddress;

/// Largest answer that is held in memory until it has been read, in bytes.
const MAX_HELD: u64 = 256 * 1024;
/// Bytes that are read from the file at a time.
const PIECE: usize = 32 * 1024;

/// Moves the answer into a file if it is large.
pub(super) async fn spool(State(app): State<ApiState>, request: Request, next: Next) -> Response {
    let holder = match (
        request.extensions().get::<Caller>(),
        request.extensions().get::<ClientAddress>(),
    ) {
        (Some(Caller(partner)), _) => partner.to_string(),
        (None, client) => client.copied().unwrap_or_default().to_string(),
    };
    let response = next.run(request).await;
    let Some(size) = response
        .body()
        .size_hint()
        .exact()
        .filter(|size| *size > MAX_HELD)
    else {
        return response;
    };
    let held = match app
        .service
        .budgets()
        .temporary_bytes
        .try_reserve(&holder, size)
    {
        Ok(held) => held,
        Err(refused) => return ApiError::AtCapacity(refused).into_response(),
    };
    let (mut parts, body) = response.into_parts();
    // Of a stream nobody else knows it.
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    match in_file(app.answers.clone(), body, size, held).await {
        Ok(body) => Response::from_parts(parts, body),
        Err(error) => {
            tracing::error!(%error, "cannot keep a large answer in a temporary file");
            ApiError::Internal.into_response()
        }
    }
}

async fn in_file(folder: PathBuf, body: Body, size: u64, held: Reservation) -> io::Result<Body> {
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let file = spawn_blocking(move || {
        let mut file = tempfile::tempfile_in(folder)?;
        file.write_all(&bytes)?;
        file.rewind()?;
        Ok::<_, io::Error>(file)
    });
    let file = file.await.map_err(io::Error::other)??;
    let pieces = stream::try_unfold((file, size, held), |(mut file, left, held)| async move {
        if left == 0 {
            return Ok::<_, io::Error>(None);
        }
        let (piece, file) =
            spawn_blocking(move || read(&mut file, left).map(|piece| (piece, file)))
                .await
                .map_err(io::Error::other)??;
        let left = left - piece.len() as u64;
        Ok(Some((piece, (file, left, held))))
    });
    Ok(Body::from_stream(pieces))
}

fn read(file: &mut File, left: u64) -> io::Result<Bytes> {
    let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
    file.read_exact(&mut piece)?;
    Ok(piece.into())
}
