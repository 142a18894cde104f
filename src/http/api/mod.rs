//! The wire format of the API and nothing else: routes, keys, bodies, codes. A handler takes what it needs from the
//! request, calls one function of the service, and writes the answer.

mod attachments;
mod auth;
mod body;
mod bounded_json;
mod chats;
mod error;
mod extract;
mod host;
mod idempotency;
mod large;
mod loops;
mod message_request;
mod messages;
mod models;
mod ops;
mod pagination;
mod parts;
mod phone_numbers;
mod request_id;
mod unsupported;
mod voice_memos;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

use crate::service::Service;
use error::ApiError;

/// What handlers share.
#[derive(Clone, Debug)]
pub struct ApiState {
    pub(crate) service: Arc<Service>,
    /// Folder for answers that are too large for memory.
    answers: PathBuf,
}

impl ApiState {
    /// Over a service, with a folder for answers that are too large for memory.
    #[must_use]
    pub fn new(service: Arc<Service>, answers: PathBuf) -> Self {
        Self { service, answers }
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Haversack",
    description = "The attachments part of the Linq Partner API v3, self-hosted. Every path is also served below \
                   /api/partner."
), modifiers(&BearerKey), security(("api_key" = [])))]
struct Document;

/// How a key is sent.
struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("api_key", scheme);
    }
}

/// The prefix that the official clients put before every path.
const PREFIX: &str = "/api/partner";

/// The routes of the API, and its `OpenAPI` document.
fn documented() -> (Router<ApiState>, String) {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(attachments::router())
        .merge(chats::router())
        .merge(messages::router())
        .merge(phone_numbers::router())
        .merge(voice_memos::router())
        .split_for_parts();
    (
        router,
        document.to_pretty_json().expect("the document is JSON"),
    )
}

/// The `OpenAPI` document, as served at `/openapi.json` and committed as `docs/reference/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    documented().1
}

/// The API under both prefixes, the operators' endpoints, and `files`, the routes that need no key.
pub fn router(app: ApiState, files: Router<ApiState>) -> Router {
    let (api, document) = documented();
    let api = api.merge(unsupported::router());
    let routes = Router::new()
        .merge(api.clone())
        .nest(PREFIX, api)
        .merge(ops::router(document))
        .merge(files)
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), large::spool))
        .layer(from_fn_with_state(app.clone(), auth::require_key));
    traced(app, routes)
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::NoRoute(uri.path().to_owned())
}

async fn wrong_method(method: Method) -> ApiError {
    ApiError::WrongMethod(method.to_string())
}

/// Routes with trace ids, counted and logged, that this server does not call itself.
pub(crate) fn traced(app: ApiState, routes: Router<ApiState>) -> Router {
    let routes = routes.layer(from_fn_with_state(app.clone(), loops::refuse));
    routes
        .layer(from_fn_with_state(app.clone(), request_id::trace))
        .with_state(app)
}
