//! Delivery receipts that arrive after the carrier accepted a message.

use crate::clock::Clock;
use crate::db::{self, Connection, Db, messages};
use crate::domain::message::DeliveryStatus;
use crate::id::MessageId;
use crate::metrics::Metrics;

/// Passed to the gateway to report receipts.
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

    /// Marks a message as delivered. Returns false if the message is not in state "sent": a receipt
    /// that arrives before [`super::Gateway::send`] has returned is too early, and a duplicate has
    /// no effect.
    ///
    /// # Errors
    /// The database fails; report the receipt again.
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
