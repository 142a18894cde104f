//! Limits the number of messages from one line to one recipient within a sliding window.
//!
//! Sends are counted within their transaction, so a failed send does not count. A lock on line and
//! recipient keeps concurrent sends from exceeding the limit.

use super::{Config, Error};
use crate::clock::Timestamp;
use crate::db::{Connection, locks, recent_sends};
use crate::domain::chat::Chat;

/// Fails if a message to `chat` would exceed the limit for any of its recipients.
pub(super) async fn check(
    db: &mut Connection,
    config: Config,
    chat: &Chat,
    now: Timestamp,
) -> Result<(), Error> {
    let names: Vec<String> = chat
        .others()
        .map(|other| format!("rate {} {}", chat.line, other.handle))
        .collect();
    locks::lock_names(db, &names).await?;
    let (line, since) = (chat.line.as_str(), now - config.rate_limit_window);
    let limit = u32::try_from(config.rate_limit_messages).unwrap_or(u32::MAX);
    let exhausted = recent_sends::exhausted(db, line, &recipients(chat), since, limit).await?;
    let Some(recipient) = exhausted else {
        return Ok(());
    };
    let Some(oldest) = recent_sends::nth_newest(db, line, &recipient, since, limit).await? else {
        return Ok(());
    };
    let wait = (oldest + config.rate_limit_window).as_millis() - now.as_millis();
    Err(Error::RateLimited {
        line: chat.line.clone(),
        recipient,
        limit: config.rate_limit_messages,
        window: config.rate_limit_window.as_secs(),
        retry_after: u64::try_from(wait).unwrap_or(0).div_ceil(1000).max(1),
    })
}

/// Counts a message to every recipient of `chat`.
pub(super) async fn record(db: &mut Connection, chat: &Chat, now: Timestamp) -> Result<(), Error> {
    Ok(recent_sends::record(db, chat.line.as_str(), &recipients(chat), now).await?)
}

fn recipients(chat: &Chat) -> Vec<String> {
    chat.others().map(|other| other.handle.clone()).collect()
}
