//! Middleware: what happens to requests before their handlers, and to responses after them.

pub(super) mod auth;
mod host;
mod loop_detection;
mod proxied_requests;
mod request_id;
pub(super) mod spool;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};

use super::state::HttpState;

/// Adds the layers that every request passes. The last one is the outermost: each response has a
/// trace id, also if another layer made it.
pub(super) fn for_every_request(state: HttpState, routes: Router<HttpState>) -> Router {
    routes
        .layer(from_fn_with_state(state.clone(), loop_detection::refuse))
        .layer(from_fn_with_state(state.clone(), proxied_requests::limit))
        .layer(from_fn(host::check))
        .layer(from_fn_with_state(state.clone(), request_id::trace))
        .with_state(state)
}
