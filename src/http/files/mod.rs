//! The bytes over HTTP: the presigned PUT, and GET and HEAD of files with ranges, validators and safe headers. No key
//! is needed here, and one that is sent is ignored.

mod conditional;
mod download;
mod multipart;
mod range;
mod s3_error;
mod upload;

use axum::Router;
use axum::routing::{any, get};

use crate::http::api::{self, ApiState};

/// Routes of uploads and files.
pub fn router() -> Router<ApiState> {
    files().route("/uploads/{attachment_id}", any(upload::put))
}

/// Routes of files.
fn files() -> Router<ApiState> {
    Router::new()
        .route(
            "/attachments/partners/{partner_id}/{attachment_id}/{filename}",
            get(download::get).fallback(download::wrong_method),
        )
        .route("/attachments/{*other}", any(download::not_found))
}

/// Files and nothing else, for a host of their own.
pub fn files_only(app: ApiState) -> Router {
    api::traced(app, files().fallback(download::not_found))
}
