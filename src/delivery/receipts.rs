//! Records delivery receipts that arrive after the carrier has accepted a message.

use crate::clock::Clock;
use crate::db::{self, Connection, Db, messages};
use crate::domain::message::DeliveryStatus;
use crate::id::MessageId;
use crate::metrics::Metrics;

/// Handle through which a gateway reports delivery receipts.
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

    /// Marks a message as delivered. Returns false if the message is not in state "sent": either
    /// the receipt is too early, as it arrived before [`super::Gateway::send`] returned, or it is a
    /// duplicate and has no effect.
    ///
    /// # Errors
    /// The database fails; the gateway should report the receipt again.
    pub async fn delivered(&self, id: MessageId) -> Result<bool, db::Error> {
        let now = self.clock.now();
        let changed = self
            .db
            .transaction(async move |db: &mut Connection| {
                messages::mark_delivered(db, id, now).await
            })
            .await?;
        if changed {
            self.metrics.message(DeliveryStatus::Delivered.as_str());
        }
        Ok(changed)
    }
}
