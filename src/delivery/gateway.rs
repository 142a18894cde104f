//! The seam to carriers. A carrier is one file that implements [`Gateway`].

use std::sync::Arc;

use async_trait::async_trait;

use super::receipts::Receipts;
use crate::blob::{self, Blob, BlobKey, BlobStore, ByteStream};
use crate::domain::attachment::{Attachment, Delivered};
use crate::domain::message::{Effect, ReplyTo, Service};
use crate::domain::part::{Part, Text};
use crate::id::MessageId;

/// A message on its way to a carrier.
#[derive(Debug)]
pub struct OutgoingMessage {
    /// Its id: the same on every attempt, so a carrier that knows it need not send twice.
    pub id: MessageId,
    /// The line it is sent from.
    pub from: String,
    /// Everyone it is sent to.
    pub to: Vec<String>,
    /// Whether it is a voice memo: its one part is a file that is to play in the conversation. Where a service has no
    /// such thing, the file is an attachment like any other.
    pub voice_memo: bool,
    /// Its parts, in order.
    pub parts: Vec<OutgoingPart>,
    /// Its effect.
    pub effect: Option<Effect>,
    /// What it answers.
    pub reply_to: Option<ReplyTo>,
    /// The service the caller asked for.
    pub preferred_service: Option<Service>,
}

/// A part on its way to a carrier.
#[derive(Debug)]
pub enum OutgoingPart {
    /// Words.
    Text(Text),
    /// A link.
    Link(String),
    /// A file.
    Media(PartContent),
}

/// A file on its way to a carrier.
#[derive(Debug)]
pub struct PartContent {
    /// Its name.
    pub filename: String,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    key: BlobKey,
    blobs: Arc<dyn BlobStore>,
}

impl PartContent {
    /// Opens the file; `None` if its attachment was deleted meanwhile.
    ///
    /// # Errors
    /// The blob store fails.
    pub async fn open(&self) -> Result<Option<Arc<dyn Blob>>, blob::Error> {
        self.blobs.open(&self.key).await
    }

    /// Streams the whole file; `None` if its attachment was deleted meanwhile.
    ///
    /// # Errors
    /// The blob store fails.
    pub async fn stream(&self) -> Result<Option<ByteStream>, blob::Error> {
        let Some(blob) = self.open().await? else { return Ok(None) };
        let size = blob.size();
        match blob.read(0..size).await {
            Err(blob::Error::Gone) => Ok(None),
            read => read.map(Some),
        }
    }

    fn new(attachment: &Attachment, blobs: &Arc<dyn BlobStore>) -> Self {
        let Delivered { filename, media_type, size_bytes } = attachment.delivered();
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
    /// A part as carriers get it; `None` for a file whose attachment was deleted.
    pub(super) fn new(part: &Part, blobs: &Arc<dyn BlobStore>) -> Option<Self> {
        Some(match part {
            Part::Text(text) => Self::Text(text.clone()),
            Part::Link(url) => Self::Link(url.clone()),
            Part::Media(attachment) => Self::Media(PartContent::new(attachment.as_deref()?, blobs)),
        })
    }
}

/// What a carrier made of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took it, and does not know yet whether it arrived: that comes through [`Receipts`].
    Sent(Service),
    /// It took it, and it arrived.
    Delivered(Service),
}

/// Why a carrier did not take a message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// It may take it later.
    #[error("{0}")]
    Temporary(String),
    /// It never will.
    #[error("{reason} ({code})")]
    Permanent {
        /// The API's code of the failure: 4001, 4002, 4005 ...
        code: u16,
        /// Why, for the developer.
        reason: String,
    },
}

/// A carrier.
#[async_trait]
pub trait Gateway: std::fmt::Debug + Send + Sync {
    /// Called once, before the first message, with where to report what arrives later than [`Gateway::send`] returns.
    fn start(&self, receipts: Receipts) {
        drop(receipts);
    }

    /// Hands a message over. It is called again with the same message after a [`Failure::Temporary`], and after a
    /// crash between its return and the recording of the outcome.
    async fn send(&self, message: &OutgoingMessage) -> Result<Outcome, Failure>;
}
