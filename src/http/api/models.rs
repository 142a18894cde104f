//! Chats and messages as JSON, and small checks that several bodies share.

use serde::Serialize;
use utoipa::ToSchema;

use super::parts::PartBody;
use crate::attachments::FileUrls;
use crate::domain::chat::{Chat, Participant, Recipients};
use crate::domain::handle::{PhoneNumber, Recipient};
use crate::domain::message::{DeliveryStatus, Message, MessageService};
use crate::http::error::ApiError;

/// A string that must be there.
pub(crate) fn required(value: Option<String>, field: &'static str) -> Result<String, ApiError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or(ApiError::MissingField(field))
}

/// A phone number of the partner's.
pub(crate) fn phone_number(value: &str, field: &'static str) -> Result<PhoneNumber, ApiError> {
    PhoneNumber::parse(value).ok_or_else(|| ApiError::InvalidNumber {
        field,
        value: value.to_owned(),
    })
}

/// Most entries of a list of numbers, duplicates included.
pub(crate) const MAX_LISTED: usize = 1000;

/// Refuses a list of which entries beyond [`MAX_LISTED`] were not kept.
pub(crate) fn check_listed(list: &[String], field: &str) -> Result<(), ApiError> {
    if list.len() > MAX_LISTED {
        return Err(ApiError::InvalidParameter(format!(
            "{field} has more than {MAX_LISTED} entries"
        )));
    }
    Ok(())
}

/// Recipients: phone numbers or e-mail addresses, each counted once.
pub(crate) fn recipients(to: Option<Vec<String>>) -> Result<Recipients, ApiError> {
    let to = to
        .filter(|to| !to.is_empty())
        .ok_or(ApiError::MissingField("to"))?;
    check_listed(&to, "to")?;
    let parse = |value: String| {
        Recipient::parse(&value).ok_or(ApiError::InvalidNumber { field: "to", value })
    };
    let recipients = Recipients::new(to.into_iter().map(parse).collect::<Result<_, _>>()?);
    let most = crate::domain::chat::MAX_RECIPIENTS;
    if recipients.as_slice().len() > most {
        return Err(ApiError::InvalidParameter(format!(
            "to holds more than {most} recipients"
        )));
    }
    Ok(recipients)
}

/// A participant of a chat.
#[derive(Serialize, ToSchema)]
pub(crate) struct HandleBody {
    id: String,
    /// Phone number or e-mail address.
    handle: String,
    service: &'static str,
    is_me: bool,
    /// `active`.
    status: &'static str,
    joined_at: String,
    left_at: Option<String>,
}

/// How a chat fares.
#[derive(Serialize, ToSchema)]
pub(crate) struct HealthBody {
    /// `HEALTHY`.
    status: &'static str,
    doc_url: &'static str,
    updated_at: String,
}

/// A chat.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatBody {
    id: String,
    display_name: String,
    service: &'static str,
    handles: Vec<HandleBody>,
    is_group: bool,
    is_archived: bool,
    group_chat_icon: Option<String>,
    health_status: HealthBody,
    created_at: String,
    updated_at: String,
}

/// The service of a chat. A message can go by another.
pub(crate) const CHAT_SERVICE: &str = MessageService::IMessage.as_str();

pub(crate) fn handle(participant: &Participant) -> HandleBody {
    HandleBody {
        id: participant.id.to_string(),
        handle: participant.handle.clone(),
        service: CHAT_SERVICE,
        is_me: participant.is_me,
        status: "active",
        joined_at: participant.joined_at.to_string(),
        left_at: None,
    }
}

pub(crate) fn handles(chat: &Chat) -> Vec<HandleBody> {
    chat.participants.iter().map(handle).collect()
}

/// Nothing makes a chat unhealthy until messages can come in.
pub(crate) fn health(chat: &Chat) -> HealthBody {
    HealthBody {
        status: "HEALTHY",
        doc_url: "https://docs.linqapp.com/guides/chats/chat-health#healthy",
        updated_at: chat.created_at.to_string(),
    }
}

pub(crate) fn chat(chat: &Chat) -> ChatBody {
    ChatBody {
        id: chat.id.to_string(),
        display_name: chat.display_name(),
        service: CHAT_SERVICE,
        handles: handles(chat),
        is_group: chat.is_group(),
        is_archived: false,
        group_chat_icon: None,
        health_status: health(chat),
        created_at: chat.created_at.to_string(),
        updated_at: chat.updated_at.to_string(),
    }
}

/// An iMessage effect.
#[derive(Serialize, ToSchema)]
pub(crate) struct EffectBody {
    r#type: String,
    name: String,
}

/// What a message answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplyToBody {
    message_id: String,
    part_index: u32,
}

/// A message as the answer to a send.
#[derive(Serialize, ToSchema)]
pub(crate) struct SentMessageBody {
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
pub(crate) struct MessageBody {
    #[serde(flatten)]
    sent: SentMessageBody,
    chat_id: String,
    is_from_me: bool,
    is_delivered: bool,
    read_at: Option<String>,
    updated_at: String,
    /// The sender's number or address.
    from: Option<String>,
}

pub(crate) fn sent_message(files: &FileUrls, chat: &Chat, message: &Message) -> SentMessageBody {
    let sender = chat
        .participants
        .iter()
        .find(|participant| participant.id == message.sender);
    SentMessageBody {
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
        from_handle: sender.map(handle),
        reply_to: message.reply_to.map(|reply| ReplyToBody {
            message_id: reply.message_id.to_string(),
            part_index: reply.part_index,
        }),
        service: message.service.map(MessageService::as_str),
        preferred_service: message.preferred_service.map(MessageService::as_str),
    }
}

pub(crate) fn message(files: &FileUrls, chat: &Chat, message: &Message) -> MessageBody {
    let sent = sent_message(files, chat, message);
    let sender = sent.from_handle.as_ref();
    MessageBody {
        chat_id: chat.id.to_string(),
        is_from_me: sender.is_some_and(|sender| sender.is_me),
        is_delivered: message.status == DeliveryStatus::Delivered,
        read_at: None,
        updated_at: message.updated_at.to_string(),
        from: sender.map(|sender| sender.handle.clone()),
        sent,
    }
}
