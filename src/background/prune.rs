//! Prunes rows past their retention.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::BATCH;
use crate::clock::Timestamp;
use crate::db::{
    self, Connection, attachments, audit_records, fetched_urls, idempotency, recent_sends,
};
use crate::service::database::Holder;
use crate::service::{Error, Service};

/// Deletes one batch of the rows written before a time, and returns their number.
type DeleteBatch =
    for<'c> fn(&'c mut Connection, before: Timestamp) -> BoxFuture<'c, Result<u64, db::Error>>;

/// Prunes all tables. A failure in one table does not prevent the others from being pruned.
pub(super) async fn run(service: Arc<Service>) -> Result<(), Error> {
    let limits = &service.limits;
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let tables: [(Option<Duration>, DeleteBatch); 5] = [
        (seconds(limits.abandoned_retention_seconds), |db, before| {
            Box::pin(attachments::delete_failed(db, before, BATCH))
        }),
        (seconds(limits.rate_limit_window_seconds), |db, before| {
            Box::pin(recent_sends::delete_before(db, before, BATCH))
        }),
        (seconds(limits.fetch_revalidate_seconds), |db, before| {
            Box::pin(fetched_urls::delete_before(db, before, BATCH))
        }),
        (limits.audit_retention(), |db, before| {
            Box::pin(audit_records::delete_before(db, before, BATCH))
        }),
        (limits.idempotency_retention(), |db, before| {
            Box::pin(idempotency::delete_before(db, before, BATCH))
        }),
    ];
    let now = service.clock.now();
    let mut outcome = Ok(());
    for (retention, delete_batch) in tables {
        // `None` keeps the rows forever.
        if let Some(retention) = retention {
            outcome = outcome.and(prune(&service, now - retention, delete_batch).await);
        }
    }
    outcome
}

async fn prune(
    service: &Service,
    before: Timestamp,
    delete_batch: DeleteBatch,
) -> Result<(), Error> {
    while service
        .db
        .write(Holder::Background, move |db| delete_batch(db, before))
        .await?
        >= u64::from(BATCH)
    {}
    Ok(())
}
