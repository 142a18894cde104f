//! Serves HTTP: connections, middleware, the API and files.
//!
//! [`api`], `files` and `ops` define the routes. This module combines them, and decides which
//! of them require an API key.

pub mod api;
mod error;
mod files;
mod middleware;
mod ops;
pub mod server;
mod state;
mod trace_id;

use axum::Router;
use axum::extract::OriginalUri;
use axum::handler::HandlerWithoutStateExt;
use axum::http::Method;
use axum::middleware::from_fn_with_state;

use error::ApiError;
use middleware::{auth, spool};
pub(crate) use state::Budgets;
pub use state::{HttpState, JsonConfig};

/// Path prefix that the official clients use for the whole API.
const CLIENT_PREFIX: &str = "/api/partner";

/// Returns all routes: the API, uploads, files, and the endpoints for operators.
pub fn router(state: HttpState) -> Router {
    let (api, openapi) = api::router();
    let open = Router::new()
        .merge(ops::router(openapi))
        .merge(files::router())
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), spool::large_responses));
    let routes = behind_key(&state, api).merge(open);
    middleware::for_every_request(state, routes)
}

/// Returns only the file routes, for a server that uses a separate host for files.
pub fn files_router(state: HttpState) -> Router {
    middleware::for_every_request(state, files::downloads_only())
}

/// Returns the API routes, below both path prefixes. All paths below them require an API key, even
/// paths that do not exist.
fn behind_key(state: &HttpState, api: Router<HttpState>) -> Router<HttpState> {
    Router::new()
        .merge(api.clone())
        .nest(CLIENT_PREFIX, api)
        .nest_service("/v3", no_route.into_service())
        .nest_service(CLIENT_PREFIX, no_route.into_service())
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), spool::large_responses))
        .layer(from_fn_with_state(state.clone(), auth::require_key))
}

async fn no_route(OriginalUri(uri): OriginalUri) -> ApiError {
    ApiError::NoRoute(uri.path().to_owned())
}

async fn wrong_method(method: Method) -> ApiError {
    ApiError::WrongMethod(method.to_string())
}
