//! Defines the wire format of the API: routes, bodies and validation. Each handler parses its
//! request, calls one use case, and converts the result into a response.

mod attachments;
mod bounded_json;
mod chats;
mod extract;
mod fields;
mod idempotency;
mod json_body;
mod message_request;
mod messages;
mod models;
mod pagination;
mod part_request;
mod phone_numbers;
mod unsupported;
mod validate;
mod voice_memos;

use axum::Router;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

use super::state::HttpState;

#[derive(OpenApi)]
#[openapi(info(
    title = "Haversack",
    description = "The attachments part of the Linq Partner API v3, self-hosted. Every path is also served below \
                   /api/partner."
), modifiers(&BearerKey), security(("api_key" = [])))]
struct Document;

/// Adds the security scheme for API keys to the `OpenAPI` document.
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

/// Returns the API routes and their `OpenAPI` document.
pub(super) fn router() -> (Router<HttpState>, String) {
    let (served, document) = served();
    (served.merge(unsupported::router()), document)
}

/// Returns the `OpenAPI` document, as served at `/openapi.json` and committed as
/// `docs/reference/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    served().1
}

fn served() -> (Router<HttpState>, String) {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .merge(attachments::router())
        .merge(chats::router())
        .merge(messages::router())
        .merge(phone_numbers::router())
        .merge(voice_memos::router())
        .split_for_parts();
    let document = document
        .to_pretty_json()
        .expect("the document can be serialized");
    (router, document)
}
