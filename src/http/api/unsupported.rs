//! Answers requests for endpoints that the API reference has but this server does not implement.
//! The response is 403 with code 2011 and an explanation; unknown paths get 404.
//!
//! Before implementing an endpoint, remove its method from [`ENDPOINTS`]: the router accepts only
//! one handler per method and path.

use axum::Router;
use axum::http::Uri;
use axum::routing::{MethodFilter, MethodRouter, on};

use crate::http::error::ApiError;
use crate::http::state::HttpState;
use crate::quote::shown;

/// Methods and paths that the newest SDK uses and this server does not implement.
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

pub(super) fn router() -> Router<HttpState> {
    ENDPOINTS
        .iter()
        .fold(Router::new(), |router, (methods, path)| {
            router.route(path, not_available_for(methods))
        })
}

fn not_available_for(methods: &str) -> MethodRouter<HttpState> {
    let filters = methods.split(' ').map(|method| match method {
        "GET" => MethodFilter::GET,
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        "PATCH" => MethodFilter::PATCH,
        "DELETE" => MethodFilter::DELETE,
        other => unreachable!("{other} is not a method of ENDPOINTS"),
    });
    let filter = filters.reduce(MethodFilter::or);
    on(filter.expect("each entry has a method"), not_available)
}

async fn not_available(uri: Uri) -> ApiError {
    ApiError::NotAvailable(format!(
        "{} is not available on this server; docs/reference/compatibility.md lists what is",
        shown(uri.path())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Replaces parameter names in a path, because the router treats paths that differ only in
    /// these names as the same path.
    fn pattern(path: &str) -> String {
        let segments = path.split('/').map(|segment| {
            let is_parameter = segment.starts_with('{');
            if is_parameter { "{}" } else { segment }
        });
        segments.collect::<Vec<_>>().join("/")
    }

    #[test]
    fn served_endpoints_are_not_listed() {
        let document: serde_json::Value =
            serde_json::from_str(&crate::http::api::openapi()).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let served: HashSet<_> = paths
            .iter()
            .flat_map(|(path, operations)| {
                let methods = operations.as_object().expect("operations").keys();
                methods.map(|method| (method.to_uppercase(), pattern(path)))
            })
            .collect();
        let listed = ENDPOINTS.iter().flat_map(|(methods, path)| {
            methods
                .split(' ')
                .map(|method| (method.to_owned(), pattern(path)))
        });
        let both: Vec<_> = listed
            .filter(|endpoint| served.contains(endpoint))
            .collect();
        assert!(
            both.is_empty(),
            "served now, so remove from ENDPOINTS: {both:?}"
        );
    }
}
