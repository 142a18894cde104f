//! Handles `/v3/messages`: sends, returns and deletes messages, and lists threads.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{PathId, QueryParams};
use super::fields::{Ignored, bounded_list, ignored};
use super::idempotency::{render, send_once};
use super::json_body::JsonBody;
use super::message_request::{MessageContent, idempotency_key, required_message};
use super::models::{CHAT_SERVICE, HandleBody, MessageBody, MessageList, SentMessageBody};
use super::pagination::{self, Cursor};
use super::validate::{MAX_LISTED, check_length, phone_number, recipients, required_recipients};
use crate::attachments::FileUrls;
use crate::domain::page::Order;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::id::MessageId;
use crate::quote::quoted;
use crate::send::{Destination, Draft, LineSelection, SendOutcome};

pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(get, delete))
        .routes(routes!(thread))
}

/// A message from the best suited of your phone numbers.
#[derive(Deserialize, ToSchema)]
struct CreateMessage {
    /// 1 to 31 phone numbers or e-mail addresses.
    #[serde(default, deserialize_with = "bounded_list::<_, _, MAX_LISTED>")]
    #[schema(value_type = Option<Vec<String>>)]
    to: Option<Vec<String>>,
    message: Option<MessageContent>,
    /// Phone numbers of yours not to use.
    #[serde(default, deserialize_with = "bounded_list::<_, _, MAX_LISTED>")]
    #[schema(value_type = Option<Vec<String>>)]
    exclude_from: Option<Vec<String>>,
    /// Accepted and ignored: without incoming messages, recipients cannot opt out.
    #[serde(default, deserialize_with = "ignored")]
    #[schema(value_type = Option<bool>)]
    override_optout: Ignored<bool>,
    /// Accepted and ignored: this server flags no phone number.
    #[serde(default, deserialize_with = "ignored")]
    #[schema(value_type = Option<Object>)]
    continuation_message: Ignored<IgnoredAny>,
}

/// The message sent, with its chat and phone number.
#[derive(Serialize, ToSchema)]
struct CreatedMessage {
    chat_id: String,
    created_new_chat: bool,
    from: String,
    from_selection: FromSelection,
    handles: Vec<HandleBody>,
    is_group: bool,
    service: &'static str,
    message: SentMessageBody,
    previous_chat_id: Option<String>,
}

/// The reason for the choice of a phone number.
#[derive(Serialize, ToSchema)]
struct FromSelection {
    /// `reused_active_chat`, `new_best_number` or `failover_flagged`.
    reason: &'static str,
    reused_existing_chat: bool,
}

/// Sends a message to the most recently active chat of the recipients, or to a new one.
#[utoipa::path(post, path = "/v3/messages", tag = "Messages", request_body = CreateMessage,
    params(("Idempotency-Key" = Option<String>, Header, description = "Instead of idempotency_key in the body")),
    responses((status = 202, body = CreatedMessage), (status = "4XX", body = ErrorBody)))]
async fn create(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    headers: HeaderMap,
    JsonBody(body, _reservation): JsonBody<CreateMessage>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(key_header(&headers)?, body.message.as_ref());
    let draft = |key| body.draft(state.attachments.file_urls(), key);
    send_once(&state, partner, key, draft, |files, sent| {
        render(StatusCode::ACCEPTED, &CreatedMessage::new(files, sent))
    })
    .await
}

/// Returns the value of the `Idempotency-Key` header. Rejects repeated headers, because a proxy and
/// this server could each use a different one.
fn key_header(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all("idempotency-key").iter();
    let key = values
        .next()
        .map(|value| std::str::from_utf8(value.as_bytes()))
        .transpose()
        .map_err(|_| {
            ApiError::InvalidParameter("the Idempotency-Key header is not UTF-8".to_owned())
        })?;
    if values.next().is_some() {
        return Err(ApiError::InvalidParameter(
            "a request has one Idempotency-Key header, not several".to_owned(),
        ));
    }
    Ok(key)
}

impl CreateMessage {
    fn draft(self, files: &FileUrls, key: Option<String>) -> Result<Draft, ApiError> {
        let to = required_recipients(self.to)?;
        let message = required_message(self.message)?;
        let to = recipients(to)?;
        let excluded = self.exclude_from.unwrap_or_default();
        check_length(&excluded, "exclude_from")?;
        let excluded = excluded
            .iter()
            .map(|line| phone_number(line, "exclude_from"))
            .collect::<Result<_, _>>()?;
        message.draft(files, Destination::Anyone { to, excluded }, key)
    }
}

impl CreatedMessage {
    fn new(files: &FileUrls, sent: &SendOutcome) -> Self {
        let reason = match sent.line_selection {
            LineSelection::ReusedActiveChat => "reused_active_chat",
            LineSelection::NewBestNumber => "new_best_number",
            LineSelection::FailoverFlagged => "failover_flagged",
        };
        Self {
            chat_id: sent.chat.id.to_string(),
            created_new_chat: sent.created_chat,
            from: sent.chat.line.to_string(),
            from_selection: FromSelection {
                reason,
                reused_existing_chat: !sent.created_chat,
            },
            handles: HandleBody::of_chat(&sent.chat),
            is_group: sent.chat.is_group(),
            service: CHAT_SERVICE,
            message: SentMessageBody::new(files, &sent.chat, &sent.message),
            previous_chat_id: sent.previous_chat.map(|id| id.to_string()),
        }
    }
}

/// Reads a message.
#[utoipa::path(get, path = "/v3/messages/{message_id}", tag = "Messages", params(("message_id" = String, Path)),
    responses((status = 200, body = MessageBody), (status = "4XX", body = ErrorBody)))]
async fn get(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<MessageId>,
) -> Result<Json<MessageBody>, ApiError> {
    let (chat, message) = state.messages.message(partner, id).await?;
    let files = state.attachments.file_urls();
    Ok(Json(MessageBody::new(files, &chat, &message)))
}

/// Deletes a message from this server. Recipients keep it.
#[utoipa::path(delete, path = "/v3/messages/{message_id}", tag = "Messages", params(("message_id" = String, Path)),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
async fn delete(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<MessageId>,
) -> Result<StatusCode, ApiError> {
    state.messages.delete(partner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the thread of a message: its first message and the replies.
#[utoipa::path(get, path = "/v3/messages/{message_id}/thread", tag = "Messages",
    params(("message_id" = String, Path), ("order" = Option<String>, Query, description = "asc (default) or desc"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 50 by default"), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = MessageList), (status = "4XX", body = ErrorBody)))]
async fn thread(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<MessageId>,
    query: QueryParams,
) -> Result<Json<MessageList>, ApiError> {
    let order = order(&query)?;
    let limit = pagination::limit(&query, 50)?;
    let after = MessageId::from_query(&query)?;
    let (chat, page) = state
        .messages
        .thread(partner, id, order, after, limit)
        .await?;
    let files = state.attachments.file_urls();
    Ok(Json(MessageList::new(files, &chat, &page)))
}

fn order(query: &QueryParams) -> Result<Order, ApiError> {
    match query.get("order") {
        None | Some("asc") => Ok(Order::Ascending),
        Some("desc") => Ok(Order::Descending),
        Some(other) => Err(ApiError::InvalidParameter(format!(
            "order is asc or desc, not {}",
            quoted(other)
        ))),
    }
}
