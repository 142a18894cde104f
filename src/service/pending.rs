//! The cap on attachments that wait for their upload.
//!
//! Counting them in the database for every new one would cost more than making it. So each partner has an estimate
//! that only rises; when it reaches the cap the true number is counted anew. The estimate is never below the truth,
//! so the cap holds.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Error, Service};
use crate::clock::Timestamp;
use crate::db::attachments as table;
use crate::id::PartnerId;

/// What a caller at the cap is told to wait. Uploads end at any time, so this is a guess at a useful pace.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Estimates, never below the truth.
#[derive(Debug, Default)]
pub(super) struct PendingCounts(Mutex<HashMap<PartnerId, u64>>);

impl Service {
    /// Takes one place under the partner's cap.
    pub(super) async fn reserve_pending(&self, partner: PartnerId, now: Timestamp) -> Result<(), Error> {
        let limit = self.limits.max_pending_attachments;
        // Held while counting: of many callers at the cap, one counts.
        let mut counts = self.pending.0.lock().await;
        let estimate = counts.get(&partner).copied().filter(|estimate| *estimate < limit);
        let pending = match estimate {
            Some(estimate) => estimate,
            None => table::count_pending(&mut *self.db.read().await?, partner, now).await?,
        };
        if pending >= limit {
            return Err(Error::TooManyPending { limit, retry_after: RETRY_AFTER.as_secs() });
        }
        counts.insert(partner, pending + 1);
        Ok(())
    }
}
