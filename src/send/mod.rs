//! Sends: everything between a validated request and a message in the outbox.
//!
//! A send has five phases: replay, validate, fetch, publish, commit. The first three change
//! nothing, the fourth only publishes blobs whose deletion is queued, and the fifth is one
//! transaction, which creates the chat, the message, its attachments, its outbox entry and the
//! response stored under its idempotency key. So a send that fails leaves nothing behind, whenever
//! it fails.

mod chats;
mod commit;
mod draft;
mod error;
mod fetch;
mod local_media;
mod publish;
mod rate_limit;
mod replay;
mod validate;
mod voice_memo;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper::header::HeaderMap;
use tokio::sync::Notify;
use tracing::Instrument;

use crate::attachments::{Attachments, FileUrls};
use crate::blob;
use crate::clock::Clock;
use crate::db::admission::Database;
use crate::fetch::Fetcher;
use crate::id::PartnerId;
use crate::metrics::Metrics;
use crate::setting::{number, seconds};

pub use draft::{Destination, Draft, LineSelection, SendOutcome, StoredResponse};
pub use error::Error;

/// Settings of sends.
#[derive(Args, Clone, Copy, Debug)]
#[group(skip)]
#[command(next_help_heading = "Sending")]
pub struct Config {
    /// Maximum number of messages from one line to one recipient within the window; further ones
    /// get 429
    #[arg(long, default_value_t = 30, value_parser = number::<u64>(1..))]
    pub rate_limit_messages: u64,
    /// Length of that window; 0 disables the rate limit
    #[arg(id = "rate-limit-window-seconds", long, default_value = "60", value_parser = seconds(0))]
    pub rate_limit_window: Duration,
}

/// The use cases of sending.
#[derive(Debug)]
pub struct Sends {
    attachments: Arc<Attachments>,
    db: Database,
    clock: Clock,
    fetcher: Fetcher,
    /// Notified after a message was added to the outbox.
    outbox: Arc<Notify>,
    config: Config,
    metrics: Metrics,
}

impl Sends {
    #[must_use]
    pub(crate) fn new(
        attachments: Arc<Attachments>,
        db: Database,
        clock: Clock,
        fetcher: Fetcher,
        outbox: Arc<Notify>,
        config: Config,
        metrics: Metrics,
    ) -> Self {
        Self {
            attachments,
            db,
            clock,
            fetcher,
            outbox,
            config,
            metrics,
        }
    }

    /// Returns true if a request with these headers was sent by this server's own fetch of a media
    /// URL.
    #[must_use]
    pub fn is_own_fetch(&self, headers: &HeaderMap) -> bool {
        self.fetcher.own().has_sent(headers)
    }

    /// Sends a message.
    ///
    /// `render` renders the response of the API. It runs within the transaction, since the response
    /// is stored under the idempotency key with the message that it describes: a repeated call gets
    /// exactly this response, or sends the message because none was stored.
    ///
    /// # Errors
    /// The draft is invalid, a file cannot be fetched, a budget is used up, or database or
    /// store fail.
    pub async fn send(
        self: &Arc<Self>,
        partner: PartnerId,
        mut draft: Draft,
        render: impl FnOnce(&FileUrls, &SendOutcome) -> StoredResponse + Send + 'static,
    ) -> Result<StoredResponse, Error> {
        let mut checks = self.attachments.direct_upload_checks();
        let mut validated = match self.validate(partner, &draft, &mut checks).await? {
            ControlFlow::Continue(validated) => validated,
            ControlFlow::Break(stored) => return Ok(stored),
        };
        let remote_files = draft.remote_files();
        let media = self.fetch(partner, &mut draft, &validated).await?;
        // A redirect to a file of this server has turned a remote file into a local one, which is
        // to be validated.
        if draft.remote_files() < remote_files {
            validated = match self.validate(partner, &draft, &mut checks).await? {
                ControlFlow::Continue(validated) => validated,
                ControlFlow::Break(stored) => return Ok(stored),
            };
        }
        let sends = Arc::clone(self);
        let publish_and_commit = async move {
            let published = sends.publish(partner, media).await?;
            sends
                .commit(partner, draft, validated, published, render)
                .await
        };
        // Detached: a client that disconnects now must leave neither blobs that nothing references
        // nor a message that the outbox is not notified of.
        tokio::spawn(publish_and_commit.in_current_span())
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }
}
