//! Files over HTTP: the presigned PUT, and GET and HEAD with ranges, conditional requests and
//! headers that make files safe to open. These routes need no API key and ignore one.

mod conditional;
mod content;
mod download;
mod multipart;
mod range;
mod s3_error;
mod upload;

use axum::Router;
use axum::routing::{any, get};

use crate::http::state::HttpState;

/// Returns the routes of uploads and downloads.
pub(super) fn router() -> Router<HttpState> {
    downloads().route("/uploads/{attachment_id}", any(upload::put))
}

/// Returns the routes of downloads, and 404 for every other path.
pub(super) fn downloads_only() -> Router<HttpState> {
    downloads().fallback(download::not_found)
}

fn downloads() -> Router<HttpState> {
    Router::new()
        .route(
            "/attachments/partners/{partner_id}/{attachment_id}/{filename}",
            get(download::get).fallback(download::wrong_method),
        )
        .route("/attachments/{*other}", any(download::not_found))
}
