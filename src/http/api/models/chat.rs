//! Defines the JSON models of chats and their participants.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::chat::{Chat, Participant};
use crate::domain::message::MessageService;

/// The service reported for every chat. Individual messages may use a different one.
pub(in crate::http::api) const CHAT_SERVICE: &str = MessageService::IMessage.as_str();

/// A participant of a chat.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct HandleBody {
    id: String,
    /// Phone number or e-mail address.
    pub(super) handle: String,
    service: &'static str,
    pub(super) is_me: bool,
    /// `active`.
    status: &'static str,
    joined_at: String,
    left_at: Option<String>,
}

/// The health of a chat.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct HealthBody {
    /// `HEALTHY`.
    status: &'static str,
    doc_url: &'static str,
    updated_at: String,
}

/// A chat.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct ChatBody {
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

impl From<&Participant> for HandleBody {
    fn from(participant: &Participant) -> Self {
        Self {
            id: participant.id.to_string(),
            handle: participant.handle.clone(),
            service: CHAT_SERVICE,
            is_me: participant.is_me,
            status: "active",
            joined_at: participant.joined_at.to_string(),
            left_at: None,
        }
    }
}

impl HandleBody {
    /// Converts the participants of a chat into their JSON models.
    pub(in crate::http::api) fn of_chat(chat: &Chat) -> Vec<Self> {
        chat.participants.iter().map(Self::from).collect()
    }
}

impl From<&Chat> for HealthBody {
    /// Reports every chat as healthy: health depends on incoming messages, which this server does
    /// not receive yet.
    fn from(chat: &Chat) -> Self {
        Self {
            status: "HEALTHY",
            doc_url: "https://docs.linqapp.com/guides/chats/chat-health#healthy",
            updated_at: chat.created_at.to_string(),
        }
    }
}

impl From<&Chat> for ChatBody {
    fn from(chat: &Chat) -> Self {
        Self {
            id: chat.id.to_string(),
            display_name: chat.display_name(),
            service: CHAT_SERVICE,
            handles: HandleBody::of_chat(chat),
            is_group: chat.is_group(),
            is_archived: false,
            group_chat_icon: None,
            health_status: HealthBody::from(chat),
            created_at: chat.created_at.to_string(),
            updated_at: chat.updated_at.to_string(),
        }
    }
}
