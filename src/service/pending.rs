//! The cap on attachments that wait for their upload.
//!
//! Counting them in the database for every new one would cost more than making it. So each partner has an estimate
//! that only rises; when it reaches the cap the true number is counted anew. The estimate is never below the truth,
//! so the cap holds. What other servers make is not in the estimate; so where there may be some, it is also counted anew
//! after every sixteenth part of the cap, which is as far as each server can go beyond it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Error, Service};
use crate::clock::Timestamp;
use crate::db::attachments as table;
use crate::id::PartnerId;

/// What a caller at the cap is told to wait. Uploads end at any time, so this is a guess at a useful pace.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Of several servers, each counts anew after this part of the cap.
const SHARED_PART: u64 = 16;

/// Estimates, never below the truth.
#[derive(Debug, Default)]
pub(super) struct PendingCounts(std::sync::Mutex<HashMap<PartnerId, Arc<Mutex<Count>>>>);

#[derive(Debug, Default)]
struct Count {
    estimate: Option<u64>,
    /// How many were reserved since the true number was counted.
    uncounted: u64,
    /// One reference for this, and one for each attachment that is reserved but may not be in the database yet.
    in_flight: Arc<()>,
}

/// A place under the cap. Kept until the attachment is in the database, where it is counted from then on.
#[derive(Debug)]
pub(super) struct Reservation {
    _in_flight: Arc<()>,
}

impl Service {
    /// Takes one place under the partner's cap.
    pub(super) async fn reserve_pending(&self, partner: PartnerId, now: Timestamp) -> Result<Reservation, Error> {
        let limit = self.limits.max_pending_attachments;
        let count = Arc::clone(self.pending.0.lock().expect("no panic while locked").entry(partner).or_default());
        // Held while counting: of many callers of a partner at its cap, one counts.
        let mut count = count.lock().await;
        let is_current = !self.db.is_shared() || count.uncounted < limit / SHARED_PART;
        let pending = if let Some(estimate) = count.estimate.filter(|estimate| *estimate < limit && is_current) {
            estimate
        } else {
            // Read before the database is: one that is written in between is counted twice rather than not at all.
            let in_flight = Arc::strong_count(&count.in_flight) as u64 - 1;
            count.uncounted = 0;
            table::count_pending(&mut *self.db.read(partner).await?, partner, now).await? + in_flight
        };
        if pending >= limit {
            return Err(Error::TooManyPending { limit, retry_after: RETRY_AFTER.as_secs() });
        }
        count.estimate = Some(pending + 1);
        count.uncounted += 1;
        Ok(Reservation { _in_flight: Arc::clone(&count.in_flight) })
    }
}
