//! Limits the number of pending attachments per partner.
//!
//! Counting a partner's pending attachments in the database on every creation would cost more than
//! the creation itself. So the server keeps an estimate per partner, which only rises, and counts
//! the exact number only when the estimate reaches the quota. The estimate is never below the exact
//! number, so the quota holds. It does not include attachments created by other servers: on a
//! shared database, each server therefore also counts after every sixteenth of the quota, and can
//! exceed the quota by at most that much.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Attachments, Error};
use crate::clock::Timestamp;
use crate::db::attachments as table;
use crate::id::PartnerId;

/// `Retry-After` sent to a caller that has reached the quota. Uploads can end at any time, so the
/// value is a guess.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// On a shared database, each server counts the exact number whenever it has created this fraction
/// of the quota (one sixteenth).
const SHARED_PART: u64 = 16;

/// Estimated number of each partner's pending attachments, never below the exact number.
#[derive(Debug, Default)]
pub(crate) struct PendingCounts(std::sync::Mutex<HashMap<PartnerId, Arc<Mutex<Count>>>>);

#[derive(Debug, Default)]
struct Count {
    estimate: Option<u64>,
    /// Number of reservations since the last exact count.
    uncounted: u64,
    /// Counter of reservations whose attachment may not be in the database yet. The reference count
    /// is one higher, for this field.
    in_flight: Arc<()>,
}

/// Reservation within the quota. It is held until the attachment is in the database and so included
/// in the exact count.
#[derive(Debug)]
pub(crate) struct Reservation {
    _in_flight: Arc<()>,
}

impl Attachments {
    /// Reserves one pending attachment within the partner's quota.
    pub(crate) async fn reserve_pending(
        &self,
        partner: PartnerId,
        now: Timestamp,
    ) -> Result<Reservation, Error> {
        let limit = self.config.max_pending_attachments;
        let count = Arc::clone(
            self.pending_counts
                .0
                .lock()
                .expect("no panic while locked")
                .entry(partner)
                .or_default(),
        );
        // The lock is held while counting: when several callers of one partner reach the quota at
        // once, only one queries the database.
        let mut count = count.lock().await;
        let is_current = !self.db.is_shared() || count.uncounted < limit / SHARED_PART;
        let pending = if let Some(estimate) = count
            .estimate
            .filter(|estimate| *estimate < limit && is_current)
        {
            estimate
        } else {
            // Read before the query: an attachment inserted in between is then counted twice, not
            // omitted.
            let in_flight = Arc::strong_count(&count.in_flight) as u64 - 1;
            count.uncounted = 0;
            table::count_pending(&mut *self.db.read(partner).await?, partner, now).await?
                + in_flight
        };
        if pending >= limit {
            return Err(Error::TooManyPending {
                limit,
                retry_after: RETRY_AFTER.as_secs(),
            });
        }
        count.estimate = Some(pending + 1);
        count.uncounted += 1;
        Ok(Reservation {
            _in_flight: Arc::clone(&count.in_flight),
        })
    }
}
