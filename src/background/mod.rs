//! The schedule of background tasks, and those that belong to no use case. A task is one file, here
//! or in its use case, and one line in [`TASKS`].
//!
//! Each task has a loop of its own, so a slow one (such as a bucket that does not answer) delays no
//! other. A failed run is logged and repeated after the period. Servers on one database run the
//! same tasks concurrently; leases and conditional updates keep them from doing the same work
//! twice.

mod count_outbox;
mod prune;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use crate::attachments::{Attachments, Error};
use crate::clock::Clock;
use crate::db::admission::Database;
use crate::metrics::Metrics;

pub use prune::Config;

/// Period of most tasks.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// The data that background tasks work on.
#[derive(Debug)]
pub struct Background {
    attachments: Arc<Attachments>,
    db: Database,
    clock: Clock,
    config: Config,
    /// Window of the rate limit of sends; older sends are pruned.
    rate_limit_window: Duration,
    metrics: Metrics,
}

/// A periodic task.
struct Task {
    name: &'static str,
    period: Duration,
    run: for<'a> fn(&'a Background) -> BoxFuture<'a, Result<(), Error>>,
}

/// All tasks, in the order in which [`Background::sweep`] runs them. Pending uploads expire before
/// attachments, so that one sweep deletes an attachment that is both.
#[rustfmt::skip]
const TASKS: [Task; 5] = [
    Task { name: "count_outbox", period: SWEEP_INTERVAL, run: |b| count_outbox::run(b).boxed() },
    Task { name: "expire_pending", period: SWEEP_INTERVAL, run: |b| b.attachments.expire_pending().boxed() },
    Task { name: "delete_expired", period: SWEEP_INTERVAL, run: |b| b.attachments.delete_expired().boxed() },
    Task { name: "prune", period: SWEEP_INTERVAL, run: |b| prune::run(b).boxed() },
    Task { name: "process_deletions", period: SWEEP_INTERVAL, run: |b| b.attachments.process_deletions().boxed() },
];

impl Task {
    async fn run_forever(&self, background: &Background) {
        loop {
            if let Err(error) = (self.run)(background).await {
                tracing::error!(task = self.name, %error, "background task failed; will be retried");
            }
            tokio::time::sleep(self.period).await;
        }
    }
}

impl Background {
    #[must_use]
    pub(crate) fn new(
        attachments: Arc<Attachments>,
        db: Database,
        clock: Clock,
        config: Config,
        rate_limit_window: Duration,
        metrics: Metrics,
    ) -> Self {
        Self {
            attachments,
            db,
            clock,
            config,
            rate_limit_window,
            metrics,
        }
    }

    /// Runs all tasks at their periods; never returns.
    pub async fn run(&self) {
        join_all(TASKS.iter().map(|task| task.run_forever(self))).await;
    }

    /// Runs every task once. A failure in one task does not prevent the others.
    ///
    /// # Errors
    /// The first failure; completed tasks are not undone.
    pub async fn sweep(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for task in &TASKS {
            outcome = outcome.and((task.run)(self).await);
        }
        outcome
    }

    /// Deletes expired attachments. The background task retries after a failure.
    pub async fn expire_overdue(&self) {
        if let Err(error) = self.attachments.delete_expired().await {
            tracing::error!(%error, "cannot delete expired attachments; will be retried");
        }
    }
}
