//! Prunes database rows whose retention time has passed.

use std::time::Duration;

use clap::Args;
use futures_util::future::BoxFuture;

use super::Background;
use crate::attachments::Error;
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::{
    self, Connection, attachments, audit_records, fetched_urls, idempotency, recent_sends,
};
use crate::setting::{Retention, retention_days, seconds};

/// Maximum number of rows deleted per transaction, which limits how long other writes wait.
const BATCH: u32 = 500;

/// Settings for how long records are kept.
#[derive(Args, Clone, Copy, Debug)]
#[group(skip)]
#[command(next_help_heading = "Retention")]
pub struct Config {
    /// Time a failed attachment, rejected or never uploaded, stays visible
    #[arg(
        id = "failed-attachment-retention-seconds", long, default_value = "86400",
        value_parser = seconds(0)
    )]
    pub failed_attachments: Duration,
    /// Time the response to a send is kept under its idempotency key, in days; 0 keeps it forever
    #[arg(
        id = "idempotency-retention-days", long, default_value = "30", value_parser = retention_days
    )]
    pub idempotency: Retention,
    /// Time the audit record of a deletion is kept, in days; 0 keeps it forever
    #[arg(id = "audit-retention-days", long, default_value = "400", value_parser = retention_days)]
    pub audit_records: Retention,
    /// Time the validators of a fetched file are kept, so that its origin can answer 304 instead of
    /// the file
    #[arg(
        id = "fetch-revalidate-seconds", long, default_value = "2592000", value_parser = seconds(0),
        help_heading = "Media URLs"
    )]
    pub fetch_revalidate: Duration,
}

/// Function that deletes one batch of the rows written before a time and returns their number.
type DeleteBatch =
    for<'c> fn(&'c mut Connection, before: Timestamp) -> BoxFuture<'c, Result<u64, db::Error>>;

/// Prunes all tables. A failure in one table does not prevent the others from being pruned.
pub(super) async fn run(background: &Background) -> Result<(), Error> {
    let config = &background.config;
    let tables: [(Option<Duration>, DeleteBatch); 5] = [
        (Some(config.failed_attachments), |db, before| {
            Box::pin(attachments::delete_failed(db, before, BATCH))
        }),
        (Some(background.rate_limit_window), |db, before| {
            Box::pin(recent_sends::delete_before(db, before, BATCH))
        }),
        (Some(config.fetch_revalidate), |db, before| {
            Box::pin(fetched_urls::delete_before(db, before, BATCH))
        }),
        (config.audit_records.0, |db, before| {
            Box::pin(audit_records::delete_before(db, before, BATCH))
        }),
        (config.idempotency.0, |db, before| {
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
