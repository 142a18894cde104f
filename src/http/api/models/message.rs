//! Defines the JSON models of messages.

use serde::Serialize;
use utoipa::ToSchema;

use super::chat::HandleBody;
use super::part::PartBody;
use crate::attachments::FileUrls;
use crate::domain::chat::Chat;
use crate::domain::message::{DeliveryStatus, Message, MessageService};
use crate::http::api::pagination::Cursor;
use crate::id::MessageId;
use crate::messages::list::Page;

/// An iMessage effect.
#[derive(Serialize, ToSchema)]
struct EffectBody {
    r#type: String,
    name: String,
}

/// The message part that a message replies to.
#[derive(Serialize, ToSchema)]
struct ReplyToBody {
    message_id: String,
    part_index: u32,
}

/// A message in the response to a send.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct SentMessageBody {
    id: String,
    parts: Vec<PartBody>,
    /// `pending`, `queued`, `sent`, `delivered` or `failed`.
    delivery_status: &'static str,
    is_read: bool,
    created_at: String,
    sent_at: Option<String>,
    delivered_at: Option<String>,
    effect: Option<EffectBody>,
    from_handle: Option<HandleBody>,
    reply_to: Option<ReplyToBody>,
    service: Option<&'static str>,
    preferred_service: Option<&'static str>,
}

/// A message.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct MessageBody {
    #[serde(flatten)]
    sent: SentMessageBody,
    chat_id: String,
    is_from_me: bool,
    is_delivered: bool,
    read_at: Option<String>,
    updated_at: String,
    /// Phone number or e-mail address of the sender.
    from: Option<String>,
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct MessageList {
    messages: Vec<MessageBody>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

impl SentMessageBody {
    pub(in crate::http::api) fn new(files: &FileUrls, chat: &Chat, message: &Message) -> Self {
        let sender = chat
            .participants
            .iter()
            .find(|participant| participant.id == message.sender);
        Self {
            id: message.id.to_string(),
            parts: message
                .parts
                .iter()
                .map(|part| PartBody::new(files, chat, part))
                .collect(),
            delivery_status: message.status.as_str(),
            is_read: false,
            created_at: message.created_at.to_string(),
            sent_at: message.sent_at.map(|at| at.to_string()),
            delivered_at: message.delivered_at.map(|at| at.to_string()),
            effect: message.effect.clone().map(|effect| EffectBody {
                r#type: effect.kind,
                name: effect.name,
            }),
            from_handle: sender.map(HandleBody::from),
            reply_to: message.reply_to.map(|reply| ReplyToBody {
                message_id: reply.message_id.to_string(),
                part_index: reply.part_index,
            }),
            service: message.service.map(MessageService::as_str),
            preferred_service: message.preferred_service.map(MessageService::as_str),
        }
    }
}

impl MessageBody {
    pub(in crate::http::api) fn new(files: &FileUrls, chat: &Chat, message: &Message) -> Self {
        let sent = SentMessageBody::new(files, chat, message);
        let sender = sent.from_handle.as_ref();
        Self {
            chat_id: chat.id.to_string(),
            is_from_me: sender.is_some_and(|sender| sender.is_me),
            is_delivered: message.status == DeliveryStatus::Delivered,
            read_at: None,
            updated_at: message.updated_at.to_string(),
            from: sender.map(|sender| sender.handle.clone()),
            sent,
        }
    }
}

impl MessageList {
    /// Creates the response for one page of a chat's messages.
    pub(in crate::http::api) fn new(
        files: &FileUrls,
        chat: &Chat,
        page: &Page<Message, MessageId>,
    ) -> Self {
        let messages = page.items.iter();
        Self {
            messages: messages
                .map(|message| MessageBody::new(files, chat, message))
                .collect(),
            next_cursor: page.next.map(|next| next.encode()),
        }
    }
}
