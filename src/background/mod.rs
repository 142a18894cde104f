//! Background tasks: one file per task, with its period and a function that runs it once.
//!
//! Each task has a loop of its own, so a slow one (such as a bucket that does not answer) delays no
//! other. A failed run is logged and repeated after the period. Servers on one database run the
//! same tasks concurrently; leases and conditional updates keep them from doing the same work
//! twice.

mod count_outbox;
mod delete_blobs;
mod expire_attachments;
mod expire_pending;
mod prune;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use crate::service::{Error, Service};

/// Period of most tasks.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of rows changed per transaction: bounds how long other writes wait.
pub(crate) const BATCH: u32 = 500;
/// Number of blobs deleted concurrently: round trips to a remote store may be slow.
const DELETE_CONCURRENCY: usize = 8;

/// A periodic task.
struct Task {
    name: &'static str,
    period: Duration,
    run: fn(Arc<Service>) -> BoxFuture<'static, Result<(), Error>>,
}

/// All tasks, in the order in which [`Service::sweep`] runs them. Pending uploads expire before
/// attachments, so that one sweep deletes an attachment that is both.
#[rustfmt::skip]
const TASKS: [Task; 5] = [
    Task { name: "count_outbox", period: SWEEP_INTERVAL, run: |s| count_outbox::run(s).boxed() },
    Task { name: "expire_pending", period: SWEEP_INTERVAL, run: |s| expire_pending::run(s).boxed() },
    Task { name: "expire_attachments", period: SWEEP_INTERVAL, run: |s| expire_attachments::run(s).boxed() },
    Task { name: "prune", period: SWEEP_INTERVAL, run: |s| prune::run(s).boxed() },
    Task { name: "delete_blobs", period: SWEEP_INTERVAL, run: |s| delete_blobs::run(s).boxed() },
];

impl Task {
    async fn run_forever(&self, service: Arc<Service>) {
        loop {
            if let Err(error) = (self.run)(Arc::clone(&service)).await {
                tracing::error!(task = self.name, %error, "background task failed; will be retried");
            }
            tokio::time::sleep(self.period).await;
        }
    }
}

impl Service {
    /// Runs all background tasks at their periods; never returns.
    pub async fn run_background_tasks(self: Arc<Self>) {
        join_all(TASKS.iter().map(|task| task.run_forever(Arc::clone(&self)))).await;
    }

    /// Runs every background task once. A failure in one task does not prevent the others.
    ///
    /// # Errors
    /// The first failure; completed tasks are not undone.
    pub async fn sweep(self: &Arc<Self>) -> Result<(), Error> {
        let mut outcome = Ok(());
        for task in &TASKS {
            outcome = outcome.and((task.run)(Arc::clone(self)).await);
        }
        outcome
    }

    /// Deletes expired attachments. The background task retries after a failure.
    pub async fn expire_overdue(self: &Arc<Self>) {
        if let Err(error) = expire_attachments::run(Arc::clone(self)).await {
            tracing::error!(%error, "cannot delete expired attachments; will be retried");
        }
    }
}
