//! The interface to carriers. A carrier integration is one file that implements [`Gateway`].

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
    /// Identical on every attempt: an idempotency key that lets the carrier suppress duplicates.
    pub id: MessageId,
    /// Phone number of the sending line.
    pub from: String,
    /// Recipients: phone numbers or e-mail addresses.
    pub to: Vec<String>,
    /// True for a voice memo: its single part is an audio file that plays inside the conversation.
    /// Services without voice memos deliver it as an ordinary attachment.
    pub voice_memo: bool,
    /// In display order.
    pub parts: Vec<OutgoingPart>,
    pub effect: Option<Effect>,
    pub reply_to: Option<ReplyTo>,
    /// The service requested by the caller.
    pub preferred_service: Option<MessageService>,
}

/// A message part as passed to a carrier.
#[derive(Debug)]
pub enum OutgoingPart {
    Text(Text),
    Link(String),
    Media(MediaFile),
}

/// A file as passed to a carrier: metadata, with the bytes read on demand.
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
    /// Converts a stored part. Returns `None` for a file whose attachment was deleted.
    pub(super) fn new(part: &Part, blobs: &Arc<dyn BlobStore>) -> Option<Self> {
        Some(match part {
            Part::Text(text) => Self::Text(text.clone()),
            Part::Link(url) => Self::Link(url.clone()),
            Part::Media(attachment) => Self::Media(MediaFile::new(attachment.as_deref()?, blobs)),
        })
    }
}

/// Success of a hand-over to the carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Accepted; the carrier confirms delivery later through [`Receipts`].
    Sent(MessageService),
    /// Accepted and already delivered.
    Delivered(MessageService),
}

/// Failure of a hand-over to the carrier.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GatewayError {
    /// Retryable.
    #[error("{0}")]
    Retryable(String),
    /// Not retryable.
    #[error("{reason} ({code})")]
    Permanent {
        /// Error code of the API: 4001, 4002, 4005 ...
        code: u16,
        /// Explanation for developers.
        reason: String,
    },
}

/// A carrier integration.
#[async_trait]
pub trait Gateway: std::fmt::Debug + Send + Sync {
    /// Called once, before the first message. `receipts` reports deliveries confirmed after
    /// [`Gateway::send`] has returned.
    fn start(&self, receipts: Receipts) {
        drop(receipts);
    }

    /// Hands a message to the carrier. Called again with the same message after a
    /// [`GatewayError::Retryable`], and after a crash between its return and the commit of the
    /// outcome (at-least-once delivery).
    async fn send(&self, message: &OutgoingMessage) -> Result<Accepted, GatewayError>;
}
