//! What a carrier learns of a message after it took it.

use crate::clock::Clock;
use crate::db::{self, Db, messages};
use crate::domain::message::DeliveryStatus;
use crate::id::MessageId;
use crate::metrics::Metrics;

/// Where a gateway reports it.
#[derive(Clone, Debug)]
pub struct Receipts {
    db: Db,
    clock: Clock,
    metrics: Metrics,
}

impl Receipts {
    pub(crate) fn new(db: Db, clock: Clock, metrics: Metrics) -> Self {
        Self { db, clock, metrics }
    }

    /// A message arrived. `false`: it is not one that was sent and has not arrived yet; a receipt that comes before
    /// [`super::Gateway::send`] has returned is too early, one that comes twice changes nothing.
    ///
    /// # Errors
    /// The database fails; report it again.
    pub async fn delivered(&self, id: MessageId) -> Result<bool, db::Error> {
        let now = self.clock.now();
        let changed =
            self.db.write(move |db| Box::pin(async move { messages::mark_delivered(db, id, now).await })).await?;
        if changed {
            self.metrics.message(DeliveryStatus::Delivered.as_str());
        }
        Ok(changed)
    }
}
