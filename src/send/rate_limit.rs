//! The rate limit of sends: so many messages from one line to one recipient in any such window. Counted in the
//! transaction of the send, so a send that fails counts for nothing, and by one send at a time, so none is overlooked.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Limits;
use crate::db::{Connection, locks, recent_sends};
use crate::domain::chat::Chat;
use crate::service::Error;

/// Refuses a send to `chat` when any of its recipients has had enough.
pub(crate) async fn check(
    db: &mut Connection,
    limits: &Limits,
    chat: &Chat,
    now: Timestamp,
) -> Result<(), Error> {
    let window = Duration::from_secs(limits.rate_limit_window_seconds);
    let names: Vec<String> = chat
        .others()
        .map(|other| format!("rate {} {}", chat.line, other.handle))
        .collect();
    locks::lock_names(db, &names).await?;
    let nth = u32::try_from(limits.rate_limit_messages).unwrap_or(u32::MAX);
    let exhausted =
        recent_sends::exhausted(db, chat.line.as_str(), &recipients(chat), now - window, nth)
            .await?;
    if let Some(recipient) = exhausted {
        let oldest =
            recent_sends::nth_newest(db, chat.line.as_str(), &recipient, now - window, nth).await?;
        if let Some(oldest) = oldest {
            let wait = (oldest + window).as_millis() - now.as_millis();
            return Err(Error::RateLimited {
                line: chat.line.to_string(),
                recipient,
                limit: limits.rate_limit_messages,
                window: limits.rate_limit_window_seconds,
                retry_after: u64::try_from(wait).unwrap_or(0).div_ceil(1000).max(1),
            });
        }
    }
    Ok(())
}

/// Counts a send to every recipient of `chat`.
pub(crate) async fn record(db: &mut Connection, chat: &Chat, now: Timestamp) -> Result<(), Error> {
    Ok(recent_sends::record(db, chat.line.as_str(), &recipients(chat), now).await?)
}

fn recipients(chat: &Chat) -> Vec<String> {
    chat.others().map(|other| other.handle.clone()).collect()
}
