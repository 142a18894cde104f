//! Handles `/v3/chats`: creates and lists chats, and sends messages to them.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{PathId, QueryParams};
use super::fields::{Ignored, bounded_list, ignored};
use super::idempotency::{render, send_once};
use super::json_body::JsonBody;
use super::message_request::{MessageContent, idempotency_key, required_message};
use super::models::{CHAT_SERVICE, ChatBody, HandleBody, HealthBody, MessageList, SentMessageBody};
use super::pagination::{self, Cursor};
use super::validate::{
    MAX_LISTED, participant, phone_number, recipients, required, required_recipients, with_plus,
};
use crate::attachments::FileUrls;
use crate::domain::page::{ChatCursor, ChatFilter};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::id::{ChatId, MessageId};
use crate::send::{Destination, Draft, SendOutcome};

pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get))
        .routes(routes!(send, messages))
        .routes(routes!(read))
        .routes(routes!(start_typing, stop_typing))
}

/// A chat and its first message.
#[derive(Deserialize, ToSchema)]
struct CreateChat {
    /// One of your phone numbers.
    from: Option<String>,
    /// 1 to 31 phone numbers or e-mail addresses.
    #[serde(default, deserialize_with = "bounded_list::<_, _, MAX_LISTED>")]
    #[schema(value_type = Option<Vec<String>>)]
    to: Option<Vec<String>>,
    message: Option<MessageContent>,
    /// Accepted and ignored: without incoming messages, recipients cannot opt out.
    #[serde(default, deserialize_with = "ignored")]
    #[schema(value_type = Option<bool>)]
    override_optout: Ignored<bool>,
}

/// The chat that a message was sent to.
#[derive(Serialize, ToSchema)]
struct CreatedChat {
    chat: ChatWithMessage,
}

/// A chat and the message sent to it.
#[derive(Serialize, ToSchema)]
struct ChatWithMessage {
    id: String,
    display_name: String,
    service: &'static str,
    is_group: bool,
    handles: Vec<HandleBody>,
    health_status: HealthBody,
    message: SentMessageBody,
}

/// A page of chats.
#[derive(Serialize, ToSchema)]
struct ChatList {
    chats: Vec<ChatBody>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// A message for a chat.
#[derive(Deserialize, ToSchema)]
struct SendMessage {
    message: Option<MessageContent>,
    /// Accepted and ignored: without incoming messages, recipients cannot opt out.
    #[serde(default, deserialize_with = "ignored")]
    #[schema(value_type = Option<bool>)]
    override_optout: Ignored<bool>,
}

/// The message sent.
#[derive(Serialize, ToSchema)]
struct SentIntoChat {
    chat_id: String,
    message: SentMessageBody,
}

/// Sends a message to the chat of these numbers. Creates the chat if it does not exist.
#[utoipa::path(post, path = "/v3/chats", tag = "Chats", request_body = CreateChat,
    responses((status = 201, body = CreatedChat), (status = "4XX", body = ErrorBody)))]
async fn create(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    JsonBody(body, _reservation): JsonBody<CreateChat>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(None, body.message.as_ref());
    let draft = |key| body.draft(state.attachments.file_urls(), key);
    send_once(&state, partner, key, draft, |files, sent| {
        render(StatusCode::CREATED, &CreatedChat::new(files, sent))
    })
    .await
}

impl CreateChat {
    fn draft(self, files: &FileUrls, key: Option<String>) -> Result<Draft, ApiError> {
        let from = required(self.from, "from")?;
        let message = required_message(self.message)?;
        let to = required_recipients(self.to)?;
        let from = phone_number(&from, "from")?;
        let to = recipients(to)?;
        if to.as_slice().iter().any(|to| to.as_str() == from.as_str()) {
            return Err(ApiError::InvalidParameter(
                "to holds the from number itself".to_owned(),
            ));
        }
        message.draft(files, Destination::Line { from, to }, key)
    }
}

impl CreatedChat {
    fn new(files: &FileUrls, sent: &SendOutcome) -> Self {
        let chat = &sent.chat;
        Self {
            chat: ChatWithMessage {
                id: chat.id.to_string(),
                display_name: chat.display_name(),
                service: CHAT_SERVICE,
                is_group: chat.is_group(),
                handles: HandleBody::of_chat(chat),
                health_status: HealthBody::from(chat),
                message: SentMessageBody::new(files, chat, &sent.message),
            },
        }
    }
}

/// Lists chats, most recently active first.
#[utoipa::path(get, path = "/v3/chats", tag = "Chats",
    params(("from" = Option<String>, Query, description = "Only chats of this phone number of yours"),
        ("to" = Option<String>, Query, description = "Only chats with this participant"),
        ("limit" = Option<u32>, Query, description = "1 to 100, 20 by default"),
        ("cursor" = Option<String>, Query)),
    responses((status = 200, body = ChatList), (status = "4XX", body = ErrorBody)))]
async fn list(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    query: QueryParams,
) -> Result<Json<ChatList>, ApiError> {
    let filter = ChatFilter {
        line: query
            .get("from")
            .map(|from| phone_number(&with_plus(from), "from"))
            .transpose()?,
        participant: query.get("to").map(participant).transpose()?,
    };
    let limit = pagination::limit(&query, 20)?;
    let cursor = ChatCursor::from_query(&query)?;
    let page = state.messages.chats(partner, filter, cursor, limit).await?;
    Ok(Json(ChatList {
        chats: page.items.iter().map(ChatBody::from).collect(),
        next_cursor: page.next.map(|next| next.encode()),
    }))
}

/// Reads a chat.
#[utoipa::path(get, path = "/v3/chats/{chat_id}", tag = "Chats", params(("chat_id" = String, Path)),
    responses((status = 200, body = ChatBody), (status = "4XX", body = ErrorBody)))]
async fn get(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<ChatId>,
) -> Result<Json<ChatBody>, ApiError> {
    let chat = state.messages.chat(partner, id).await?;
    Ok(Json(ChatBody::from(&chat)))
}

/// Sends a message to a chat.
#[utoipa::path(post, path = "/v3/chats/{chat_id}/messages", tag = "Messages", params(("chat_id" = String, Path)),
    request_body = SendMessage,
    responses((status = 202, body = SentIntoChat), (status = "4XX", body = ErrorBody)))]
async fn send(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    id: Result<PathId<ChatId>, ApiError>,
    JsonBody(body, _reservation): JsonBody<SendMessage>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(None, body.message.as_ref());
    let draft = |key| {
        let message = required_message(body.message)?;
        let PathId(id) = id?;
        message.draft(state.attachments.file_urls(), Destination::Chat(id), key)
    };
    send_once(&state, partner, key, draft, |files, sent| {
        let sent = SentIntoChat {
            chat_id: sent.chat.id.to_string(),
            message: SentMessageBody::new(files, &sent.chat, &sent.message),
        };
        render(StatusCode::ACCEPTED, &sent)
    })
    .await
}

/// Lists the messages of a chat, newest first.
#[utoipa::path(get, path = "/v3/chats/{chat_id}/messages", tag = "Messages",
    params(("chat_id" = String, Path), ("limit" = Option<u32>, Query, description = "1 to 100, 50 by default"),
        ("cursor" = Option<String>, Query)),
    responses((status = 200, body = MessageList), (status = "4XX", body = ErrorBody)))]
async fn messages(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<ChatId>,
    query: QueryParams,
) -> Result<Json<MessageList>, ApiError> {
    let limit = pagination::limit(&query, 50)?;
    let before = MessageId::from_query(&query)?;
    let (chat, page) = state
        .messages
        .chat_messages(partner, id, before, limit)
        .await?;
    let files = state.attachments.file_urls();
    Ok(Json(MessageList::new(files, &chat, &page)))
}

/// Marks a chat as read. Has no effect: this server does not receive messages yet.
#[utoipa::path(post, path = "/v3/chats/{chat_id}/read", tag = "Chats", params(("chat_id" = String, Path)),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
async fn read(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<ChatId>,
) -> Result<StatusCode, ApiError> {
    state.messages.chat(partner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Shows the typing indicator. Has no effect with the loopback gateway.
#[utoipa::path(post, path = "/v3/chats/{chat_id}/typing", tag = "Chats", params(("chat_id" = String, Path)),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
async fn start_typing(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<ChatId>,
) -> Result<StatusCode, ApiError> {
    state.messages.chat(partner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Hides the typing indicator.
#[utoipa::path(delete, path = "/v3/chats/{chat_id}/typing", tag = "Chats", params(("chat_id" = String, Path)),
    responses((status = 204), (status = "4XX", body = ErrorBody)))]
async fn stop_typing(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<ChatId>,
) -> Result<StatusCode, ApiError> {
    state.messages.chat(partner, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
