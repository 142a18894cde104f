//! Serves files over HTTP: presigned PUT for uploads, and GET and HEAD with ranges, conditional
//! requests and headers that make files safe to open. These routes require no API key, and ignore
//! it if one is sent.

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

/// Returns the upload and download routes.
pub(super) fn router() -> Router<HttpState> {
    downloads().route("/uploads/{attachment_id}", any(upload::put))
}

/// Returns the download routes only; all other paths get 404.
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
