//! Endpoints of the reference that this server does not have: a typed, explained 403/2011 instead of a bare 404.

use axum::Router;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};

use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::quote::shown;

async fn not_available(uri: Uri) -> Response {
    let path = shown(uri.path());
    let message = format!(
        "{path} is not available on this server; docs/reference/compatibility.md lists what is"
    );
    ApiError::NotAvailable(message).into_response()
}

fn on(methods: &str) -> MethodRouter<HttpState> {
    methods
        .split(' ')
        .fold(MethodRouter::new(), |router, method| match method {
            "GET" => router.get(not_available),
            "POST" => router.post(not_available),
            "PUT" => router.put(not_available),
            "PATCH" => router.patch(not_available),
            "DELETE" => router.merge(routing::delete(not_available)),
            other => unreachable!("{other} is not used below"),
        })
}

/// Methods and paths of the newest SDK that are not served.
static ENDPOINTS: &[(&str, &str)] = &[
    ("GET POST", "/v3/webhook-subscriptions"),
    ("GET PUT DELETE", "/v3/webhook-subscriptions/{id}"),
    ("GET", "/v3/webhook-events"),
    ("POST", "/v3/messages/{message_id}/reactions"),
    ("PATCH", "/v3/messages/{message_id}/reactions/{id}"),
    ("PATCH", "/v3/messages/{message_id}"),
    ("PUT", "/v3/chats/{chat_id}"),
    ("PUT", "/v3/phone_numbers/{id}"),
    ("POST DELETE", "/v3/chats/{chat_id}/participants"),
    ("POST", "/v3/chats/{chat_id}/leave"),
    ("POST", "/v3/capability/check_imessage"),
    ("POST", "/v3/capability/check_rcs"),
    ("GET", "/v3/available_number"),
    ("POST DELETE", "/v3/chats/{chat_id}/background"),
    ("POST", "/v3/chats/{chat_id}/share_contact_card"),
    ("GET POST PATCH", "/v3/contact_card"),
    ("GET POST DELETE", "/v3/blocked_handles"),
    ("POST", "/v3/messages/{message_id}/update"),
    ("GET", "/v3/experiences"),
    ("GET", "/v3/experiences/{name}"),
    ("POST", "/v3/chats/{chat_id}/location/request"),
    ("GET DELETE", "/v3/chats/{chat_id}/location"),
    ("POST", "/v3/chats/{chat_id}/polls"),
    ("GET", "/v3/messages/{message_id}/poll"),
    ("POST", "/v3/messages/{message_id}/poll/options"),
    ("POST", "/v3/messages/{message_id}/poll/votes"),
    ("GET POST", "/v3/payment_requests"),
    ("GET", "/v3/payment_requests/{id}"),
    ("POST", "/v3/payment_requests/{id}/cancel"),
    ("POST", "/v3/payments"),
    ("GET", "/v3/payments/{id}"),
    ("GET", "/v3/payments/{id}/credentials"),
    ("POST", "/v3/payments/{id}/cancel"),
    ("POST", "/v3/payments/handles/{handle}/connect"),
    ("POST", "/v3/payments/handles/{handle}/verify"),
    ("GET DELETE", "/v3/payments/handles/{handle}/connection"),
    ("GET", "/v3/payments/providers/{provider}"),
    ("POST", "/v3/payments/providers/{provider}/connect"),
    ("POST", "/v3/phone_numbers/{id}/reputation_audit"),
    ("GET", "/v3/phone_numbers/{id}/reputation_audit/{audit}"),
];

pub(crate) fn router() -> Router<HttpState> {
    ENDPOINTS
        .iter()
        .fold(Router::new(), |router, (methods, path)| {
            router.route(path, on(methods))
        })
}
