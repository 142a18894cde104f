//! `/v3/messages`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::chats::MessageList;
use super::extract::{JsonBody, PathId, QueryParams, at_most};
use super::idempotency::{answer, respond};
use super::message_request::{MessageContent, idempotency_key, required_message};
use super::models::{
    self, HandleBody, MAX_LISTED, MessageBody, SentMessageBody, check_listed, phone_number,
    recipients,
};
use super::pagination::{self, Cursor};
use crate::attachments::FileUrls;
use crate::domain::page::Order;
use crate::http::error::{ApiError, ErrorBody};
use crate::http::middleware::auth::Caller;
use crate::http::state::HttpState;
use crate::id::MessageId;
use crate::quote::quoted;
use crate::send::{Destination, LineSelection, SendOutcome};

pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(get, delete))
        .routes(routes!(thread))
}

/// A message from whichever of your numbers is best.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CreateMessage {
    /// 1 to 31 phone numbers or e-mail addresses.
    #[serde(default, deserialize_with = "at_most::<_, _, MAX_LISTED>")]
    #[schema(value_type = Option<Vec<String>>)]
    to: Option<Vec<String>>,
    message: Option<MessageContent>,
    /// Phone numbers of yours not to use.
    #[serde(default, deserialize_with = "at_most::<_, _, MAX_LISTED>")]
    #[schema(value_type = Option<Vec<String>>)]
    exclude_from: Option<Vec<String>>,
    /// Accepted; nobody can opt out while nothing comes in.
    #[expect(dead_code, reason = "checked to be a boolean")]
    override_optout: Option<bool>,
    /// Accepted and ignored: no line is ever flagged here.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "documented")]
    continuation_message: Option<IgnoredAny>,
}

/// Where the message went and why.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedMessage {
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

/// Why this number was chosen.
#[derive(Serialize, ToSchema)]
pub(crate) struct FromSelection {
    /// `reused_active_chat`, `new_best_number` or `failover_flagged`.
    reason: &'static str,
    reused_existing_chat: bool,
}

/// Sends a message to these recipients: into their most recently active chat, or a new one.
#[utoipa::path(post, path = "/v3/messages", tag = "Messages", request_body = CreateMessage,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same as idempotency_key in the body")),
    responses((status = 202, body = CreatedMessage), (status = "4XX", body = ErrorBody)))]
async fn create(
    State(state): State<HttpState>,
    Caller(partner): Caller,
    headers: HeaderMap,
    JsonBody(body, _held): JsonBody<CreateMessage>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(key_header(&headers)?, body.message.as_ref());
    if let Some(kept) = state.replay(partner, key.as_deref()).await? {
        return Ok(respond(kept));
    }
    if body.to.as_ref().is_none_or(Vec::is_empty) {
        return Err(ApiError::MissingField("to"));
    }
    let message = required_message(body.message)?;
    let to = recipients(body.to)?;
    let excluded = body.exclude_from.unwrap_or_default();
    check_listed(&excluded, "exclude_from")?;
    let excluded = excluded
        .iter()
        .map(|line| phone_number(line, "exclude_from"))
        .collect::<Result<_, _>>()?;
    let draft = message.draft(
        state.attachments.file_urls(),
        Destination::Anyone { to, excluded },
        key,
    )?;
    Ok(respond(
        state
            .sends
            .send(partner, draft, |files, sent| {
                answer(StatusCode::ACCEPTED, &created(files, sent))
            })
            .await?,
    ))
}

/// The `Idempotency-Key` header. Of several none is the right one.
fn key_header(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut all = headers.get_all("idempotency-key").iter();
    let key = all
        .next()
        .map(|value| std::str::from_utf8(value.as_bytes()))
        .transpose();
    let key = key.map_err(|_| {
        ApiError::InvalidParameter("the Idempotency-Key header is not UTF-8".to_owned())
    })?;
    if all.next().is_some() {
        return Err(ApiError::InvalidParameter(
            "a request has one Idempotency-Key header, not several".to_owned(),
        ));
    }
    Ok(key)
}

fn created(files: &FileUrls, sent: &SendOutcome) -> CreatedMessage {
    let reason = match sent.line_selection {
        LineSelection::ReusedActiveChat => "reused_active_chat",
        LineSelection::NewBestNumber => "new_best_number",
        LineSelection::FailoverFlagged => "failover_flagged",
    };
    CreatedMessage {
        chat_id: sent.chat.id.to_string(),
        created_new_chat: sent.created_chat,
        from: sent.chat.line.to_string(),
        from_selection: FromSelection {
            reason,
            reused_existing_chat: !sent.created_chat,
        },
        handles: models::handles(&sent.chat),
        is_group: sent.chat.is_group(),
        service: models::CHAT_SERVICE,
        message: models::sent_message(files, &sent.chat, &sent.message),
        previous_chat_id: sent.previous_chat.map(|id| id.to_string()),
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
    Ok(Json(models::message(
        state.attachments.file_urls(),
        &chat,
        &message,
    )))
}

/// Deletes a message from our side; recipients keep it.
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

/// Lists the thread a message is in: its first message and the replies.
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
    let order = match query.get("order") {
        None | Some("asc") => Order::Ascending,
        Some("desc") => Order::Descending,
        Some(other) => {
            return Err(ApiError::InvalidParameter(format!(
                "order is asc or desc, not {}",
                quoted(other)
            )));
        }
    };
    let (limit, after) = (pagination::limit(&query, 50)?, MessageId::of(&query)?);
    let (chat, page) = state
        .messages
        .thread(partner, id, order, after, limit)
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
