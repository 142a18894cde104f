//! Implements a gateway for servers without a carrier: it accepts every message and reports it as
//! delivered.

use async_trait::async_trait;

use super::gateway::{Accepted, Gateway, GatewayError, OutgoingMessage, OutgoingPart};
use crate::domain::message::MessageService;
use crate::quote::quoted;

#[derive(Clone, Copy, Debug, Default)]
pub struct Loopback;

#[async_trait]
impl Gateway for Loopback {
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError> {
        for part in &message.parts {
            // Fails like a real carrier if a file cannot be opened.
            if let OutgoingPart::Media(content) = part {
                let opened = content
                    .open()
                    .await
                    .map_err(|error| GatewayError::Retryable(error.to_string()))?;
                opened.ok_or_else(|| GatewayError::Permanent {
                    code: 4001,
                    reason: format!(
                        "the file {} is not there any more",
                        quoted(&content.filename)
                    ),
                })?;
            }
        }
        let service = message
            .preferred_service
            .unwrap_or(MessageService::IMessage);
        // Only iMessage supports voice memos; other services deliver a file.
        let form = match (message.voice_memo, service) {
            (true, MessageService::IMessage) => "voice memo",
            (true, MessageService::Rcs | MessageService::Sms) => "voice memo as a file",
            (false, _) => "message",
        };
        tracing::info!(message_id = %message.id, parts = message.parts.len(), form, "delivered");
        Ok(Accepted::Delivered(service))
    }
}
