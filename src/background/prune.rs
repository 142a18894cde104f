//! Prunes rows past their retention.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Background;
use crate::attachments::Error;
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::{
    self, Connection, attachments, audit_records, fetched_urls, idempotency, recent_sends,
};

/// Maximum number of rows deleted per transaction: bounds how long other writes wait.
const BATCH: u32 = 500;

/// How long rows are kept, named like the settings.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub failed_attachments: Duration,
    pub rate_limit_window: Duration,
    pub fetch_revalidate: Duration,
    /// `None` keeps audit records forever.
    pub audit_records: Option<Duration>,
    /// `None` keeps responses to sends forever.
    pub idempotency: Option<Duration>,
}

/// Deletes one batch of the rows written before a time, and returns their number.
type DeleteBatch =
    for<'c> fn(&'c mut Connection, before: Timestamp) -> BoxFuture<'c, Result<u64, db::Error>>;

/// Prunes all tables. A failure in one table does not prevent the others from being pruned.
pub(super) async fn run(background: &Background) -> Result<(), Error> {
    let retention = &background.retention;
    let tables: [(Option<Duration>, DeleteBatch); 5] = [
        (Some(retention.failed_attachments), |db, before| {
            Box::pin(attachments::delete_failed(db, before, BATCH))
        }),
        (Some(retention.rate_limit_window), |db, before| {
            Box::pin(recent_sends::delete_before(db, before, BATCH))
        }),
        (Some(retention.fetch_revalidate), |db, before| {
            Box::pin(fetched_urls::delete_before(db, before, BATCH))
        }),
        (retention.audit_records, |db, before| {
            Box::pin(audit_records::delete_before(db, before, BATCH))
        }),
        (retention.idempotency, |db, before| {
            Box::pin(idempotency::delete_before(db, before, BATCH))
        }),
    ];
    let now = background.clock.now();
    let mut outcome = Ok(());
    for (retention, delete_batch) in tables {
        if let Some(retention) = retention {
            let pruned = prune(background, now - retention, delete_batch).await;
            outcome = outcome.and(pruned);
        }
    }
    outcome
}

async fn prune(
    background: &Background,
    before: Timestamp,
    delete_batch: DeleteBatch,
) -> Result<(), Error> {
    let full = u64::from(BATCH);
    while background
        .db
        .transaction(Holder::Background, async move |db: &mut Connection| {
            delete_batch(db, before).await
        })
        .await?
        >= full
    {}
    Ok(())
}
