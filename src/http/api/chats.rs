//! `/v3/chats`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{JsonBody, PathId, QueryParams, at_most};
use super::idempotency::{answer, respond};
use super::message_request::{MessageContent, idempotency_key, required_message};
use super::models::{
    self, ChatBody, HandleBody, HealthBody, MAX_LISTED, MessageBody, SentMessageBody, phone_number,
    recipients, required,
};
use super::pagination::{self, Cursor};
use crate::domain::handle::Recipient;
use crate::domain::page::{ChatCursor, ChatFilter};
use crate::http::error::{ApiError, ErrorBody};
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::id::{ChatId, MessageId};
use crate::send::{Destination, SendOutcome};

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
pub(crate) struct CreateChat {
    /// One of your phone numbers.
    from: Option<String>,
    /// 1 to 31 phone numbers or e-mail addresses.
    #[serde(default, deserialize_with = "at_most::<_, _, MAX_LISTED>")]
    #[schema(value_type = Option<Vec<String>>)]
    to: Option<Vec<String>>,
    message: Option<MessageContent>,
    /// Accepted; nobody can opt out while nothing comes in.
    #[expect(dead_code, reason = "checked to be a boolean")]
    override_optout: Option<bool>,
}

/// The chat a message was sent into.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedChat {
    chat: ChatWithMessage,
}

/// A chat and the message sent into it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatWithMessage {
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
pub(crate) struct ChatList {
    chats: Vec<ChatBody>,
    /// The `cursor` of the next page; null at the end.
    next_cursor: Option<String>,
}

/// A message for a chat.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SendMessage {
    message: Option<MessageContent>,
    /// Accepted; nobody can opt out while nothing comes in.
    #[expect(dead_code, reason = "checked to be a boolean")]
    override_optout: Option<bool>,
}

/// The message sent.
#[derive(Serialize, ToSchema)]
pub(crate) struct SentIntoChat {
    chat_id: String,
    message: SentMessageBody,
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
pub(crate) struct MessageList {
    pub(super) messages: Vec<MessageBody>,
    /// The `cursor` of the next page; null at the end.
    pub(super) next_cursor: Option<String>,
}

/// Sends a message into the chat of these numbers, making it if there is none.
#[utoipa::path(post, path = "/v3/chats", tag = "Chats", request_body = CreateChat,
    responses((status = 201, body = CreatedChat), (status = "4XX", body = ErrorBody)))]
async fn create(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    JsonBody(body, _held): JsonBody<CreateChat>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(None, body.message.as_ref());
    if let Some(kept) = state.replay(partner, key.as_deref()).await? {
        return Ok(respond(kept));
    }
    let from = required(body.from, "from")?;
    let (to, message) = (body.to, required_message(body.message)?);
    if to.as_ref().is_none_or(Vec::is_empty) {
        return Err(ApiError::MissingField("to"));
    }
    let from = phone_number(&from, "from")?;
    let to = recipients(to)?;
    if to
        .as_slice()
        .iter()
        .any(|recipient| recipient.as_str() == from.as_str())
    {
        return Err(ApiError::InvalidParameter(
            "to holds the from number itself".to_owned(),
        ));
    }
    let draft = message.draft(
        state.attachments.file_urls(),
        Destination::Line { from, to },
        key,
    )?;
    let render = |files: &_, sent: &SendOutcome| {
        let message = models::sent_message(files, &sent.chat, &sent.message);
        let chat = &sent.chat;
        let chat = ChatWithMessage {
            id: chat.id.to_string(),
            display_name: chat.display_name(),
            service: models::CHAT_SERVICE,
            is_group: chat.is_group(),
            handles: models::handles(chat),
            health_status: models::health(chat),
            message,
        };
        answer(StatusCode::CREATED, &CreatedChat { chat })
    };
    Ok(respond(state.sends.send(partner, draft, render).await?))
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
    let (limit, cursor) = (pagination::limit(&query, 20)?, ChatCursor::of(&query)?);
    let page = state.messages.chats(partner, filter, cursor, limit).await?;
    Ok(Json(ChatList {
        chats: page.items.iter().map(models::chat).collect(),
        next_cursor: page.next.map(|next| next.encode()),
    }))
}

/// In a query a `+` may arrive as a space, or have been left out.
fn with_plus(number: &str) -> String {
    let digits = number.trim();
    if digits.starts_with(|first: char| first.is_ascii_digit()) {
        format!("+{digits}")
    } else {
        digits.to_owned()
    }
}

fn participant(value: &str) -> Result<String, ApiError> {
    let value = if value.contains('@') {
        value.replace(' ', "+")
    } else {
        with_plus(value)
    };
    Recipient::parse(&value)
        .map(|recipient| recipient.to_string())
        .ok_or(ApiError::InvalidNumber { field: "to", value })
}

/// Reads a chat.
#[utoipa::path(get, path = "/v3/chats/{chat_id}", tag = "Chats", params(("chat_id" = String, Path)),
    responses((status = 200, body = ChatBody), (status = "4XX", body = ErrorBody)))]
async fn get(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    PathId(id): PathId<ChatId>,
) -> Result<Json<ChatBody>, ApiError> {
    Ok(Json(models::chat(&state.messages.chat(partner, id).await?)))
}

/// Sends a message into a chat.
#[utoipa::path(post, path = "/v3/chats/{chat_id}/messages", tag = "Messages", params(("chat_id" = String, Path)),
    request_body = SendMessage,
    responses((status = 202, body = SentIntoChat), (status = "4XX", body = ErrorBody)))]
async fn send(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    id: Result<PathId<ChatId>, ApiError>,
    JsonBody(body, _held): JsonBody<SendMessage>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(None, body.message.as_ref());
    if let Some(kept) = state.replay(partner, key.as_deref()).await? {
        return Ok(respond(kept));
    }
    let message = required_message(body.message)?;
    let PathId(id) = id?;
    let draft = message.draft(state.attachments.file_urls(), Destination::Chat(id), key)?;
    let render = |files: &_, sent: &SendOutcome| {
        let message = models::sent_message(files, &sent.chat, &sent.message);
        answer(
            StatusCode::ACCEPTED,
            &SentIntoChat {
                chat_id: sent.chat.id.to_string(),
                message,
            },
        )
    };
    Ok(respond(state.sends.send(partner, draft, render).await?))
}

/// Lists a chat's messages, newest first.
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
    let (limit, before) = (pagination::limit(&query, 50)?, MessageId::of(&query)?);
    let (chat, page) = state
        .messages
        .chat_messages(partner, id, before, limit)
        .await?;
    let files = state.attachments.file_urls();
    Ok(Json(MessageList {
        messages: page
            .items
            .iter()
            .map(|message| models::message(files, &chat, message))
            .collect(),
        next_cursor: page.next.map(|next| next.encode()),
    }))
}

/// Marks a chat as read. Nothing arrives here yet, so there is nothing to mark.
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

/// Shows the typing indicator. The loopback gateway has nobody to show it to.
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
