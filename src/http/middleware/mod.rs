//! Processes requests before they reach their handlers, and responses afterwards.

pub(super) mod auth;
mod host;
mod loop_detection;
mod proxied_requests;
mod request_id;
pub(super) mod spool;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};

use super::state::HttpState;

/// Adds the middleware layers for all requests. The outermost layer is added last, and gives every
/// response a trace id, including responses that another layer creates.
pub(super) fn for_every_request(state: HttpState, routes: Router<HttpState>) -> Router {
    routes
        .layer(from_fn_with_state(state.clone(), loop_detection::refuse))
        .layer(from_fn_with_state(state.clone(), proxied_requests::limit))
        .layer(from_fn(host::check))
        .layer(from_fn_with_state(state.clone(), request_id::trace))
        .with_state(state)
}
