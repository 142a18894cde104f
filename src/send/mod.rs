//! Sends messages: turns a validated request into a message in the outbox.
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

/// Settings for sending messages: the rate limit.
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

/// Operations that send messages.
#[derive(Debug)]
pub struct Sends {
    attachments: Arc<Attachments>,
    db: Database,
    clock: Clock,
    fetcher: Fetcher,
    /// Notification to the outbox worker that a message was added.
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

    /// Sends a message and returns the API response.
    ///
    /// `render` creates the API response. It runs within the transaction that stores the message
    /// and, under the idempotency key, the response. So a repeated call either gets exactly this
    /// response, or sends the message if nothing was committed.
    ///
    /// # Errors
    /// The draft is invalid, a file cannot be fetched, a budget is used up, or the database or the
    /// store fails.
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
        // A media URL redirected to a file of this server, so the draft now references an
        // attachment that must be validated.
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
        // Runs as a detached task: if the client disconnects now, no unreferenced blob may remain,
        // and the outbox must be notified of a committed message.
        tokio::spawn(publish_and_commit.in_current_span())
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }
}
