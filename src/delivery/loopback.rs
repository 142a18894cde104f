//! The gateway of a server that has no carrier: it takes every message and says that it arrived.

use async_trait::async_trait;

use super::gateway::{Failure, Gateway, Outcome, OutgoingMessage, OutgoingPart};
use crate::domain::message::Service;
use crate::quote::quoted;

/// The gateway.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loopback;

#[async_trait]
impl Gateway for Loopback {
    async fn send(&self, message: &OutgoingMessage) -> Result<Outcome, Failure> {
        for part in &message.parts {
            // As a carrier would: a file that cannot be opened is a failure here too.
            if let OutgoingPart::Media(content) = part {
                let opened = content.open().await.map_err(|error| Failure::Temporary(error.to_string()))?;
                opened.ok_or_else(|| Failure::Permanent {
                    code: 4001,
                    reason: format!("the file {} is not there any more", quoted(&content.filename)),
                })?;
            }
        }
        let service = message.preferred_service.unwrap_or(Service::IMessage);
        // Only iMessage has voice memos; elsewhere one arrives as a file.
        let form = match (message.voice_memo, service) {
            (true, Service::IMessage) => "voice memo",
            (true, Service::Rcs | Service::Sms) => "voice memo as a file",
            (false, _) => "message",
        };
        tracing::info!(message_id = %message.id, parts = message.parts.len(), form, "delivered");
        Ok(Outcome::Delivered(service))
    }
}
