//! Defines the interface to carriers. A carrier integration is one file that implements
//! [`Gateway`].

use std::sync::Arc;

use async_trait::async_trait;

use super::receipts::Receipts;
use crate::blob::{self, Blob, BlobKey, BlobStore, ByteStream};
use crate::domain::attachment::{Attachment, ServedFile};
use crate::domain::message::{Effect, MessageService, ReplyTo};
use crate::domain::part::{Part, Text};
use crate::id::MessageId;

/// A message as passed to a carrier.
#[derive(Debug)]
pub struct OutgoingMessage {
    /// Message id, the same on every attempt. It serves as an idempotency key by which the carrier
    /// detects duplicates.
    pub id: MessageId,
    /// Phone number of the sending line.
    pub from: String,
    /// Recipients' phone numbers or e-mail addresses.
    pub to: Vec<String>,
    /// True for a voice memo: its only part is an audio file that plays inside the conversation.
    /// Services without voice memos deliver the file as an ordinary attachment.
    pub voice_memo: bool,
    /// Message parts in display order.
    pub parts: Vec<OutgoingPart>,
    pub effect: Option<Effect>,
    pub reply_to: Option<ReplyTo>,
    /// Service that the caller requested.
    pub preferred_service: Option<MessageService>,
}

/// A message part as passed to a carrier.
#[derive(Debug)]
pub enum OutgoingPart {
    Text(Text),
    Link(String),
    Media(MediaFile),
}

/// A file as passed to a carrier: its metadata, and access to its bytes.
#[derive(Debug)]
pub struct MediaFile {
    pub filename: String,
    pub media_type: String,
    pub size_bytes: u64,
    key: BlobKey,
    blobs: Arc<dyn BlobStore>,
}

impl MediaFile {
    /// Opens the file. Returns `None` if its attachment was deleted meanwhile.
    ///
    /// # Errors
    /// The blob store fails.
    pub async fn open(&self) -> Result<Option<Arc<dyn Blob>>, blob::Error> {
        self.blobs.open(&self.key).await
    }

    /// Streams the whole file. Returns `None` if its attachment was deleted meanwhile.
    ///
    /// # Errors
    /// The blob store fails.
    pub async fn stream(&self) -> Result<Option<ByteStream>, blob::Error> {
        let Some(blob) = self.open().await? else {
            return Ok(None);
        };
        let size = blob.size();
        match blob.read(0..size).await {
            Err(blob::Error::NotFound) => Ok(None),
            read => read.map(Some),
        }
    }

    fn new(attachment: &Attachment, blobs: &Arc<dyn BlobStore>) -> Self {
        let ServedFile {
            filename,
            media_type,
            size_bytes,
        } = attachment.delivered();
        Self {
            filename: filename.to_owned(),
            media_type: media_type.to_owned(),
            size_bytes,
            key: attachment.delivered_key(),
            blobs: Arc::clone(blobs),
        }
    }
}

impl OutgoingPart {
    /// Converts a stored message part to one for the carrier. Returns `None` for a file whose
    /// attachment was deleted.
    pub(super) fn new(part: &Part, blobs: &Arc<dyn BlobStore>) -> Option<Self> {
        Some(match part {
            Part::Text(text) => Self::Text(text.clone()),
            Part::Link(url) => Self::Link(url.clone()),
            Part::Media(attachment) => Self::Media(MediaFile::new(attachment.as_deref()?, blobs)),
        })
    }
}

/// Result of a message hand-off that the carrier accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The carrier accepted the message and confirms delivery later through [`Receipts`].
    Sent(MessageService),
    /// The carrier accepted and already delivered the message.
    Delivered(MessageService),
}

/// Reasons why a message hand-off to the carrier failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GatewayError {
    /// The hand-off may succeed if it is retried.
    #[error("{0}")]
    Retryable(String),
    /// The message cannot be delivered, so it is not retried.
    #[error("{reason} ({code})")]
    Permanent {
        /// Error code that the API reports: 4001, 4002, 4005 ...
        code: u16,
        /// Explanation for developers who use the API.
        reason: String,
    },
}

/// A carrier integration, which sends messages and reports their delivery.
#[async_trait]
pub trait Gateway: std::fmt::Debug + Send + Sync {
    /// Starts the integration. Called once, before the first message. Deliveries that are confirmed
    /// only after [`Gateway::send`] has returned are reported through `receipts`.
    fn start(&self, receipts: Receipts) {
        drop(receipts);
    }

    /// Hands a message to the carrier. Delivery is at-least-once: the same message is passed again
    /// after a [`GatewayError::Retryable`], and after a crash that prevented the result from being
    /// recorded.
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError>;
}
