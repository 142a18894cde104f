//! Schedules background tasks. Each task is one file, in this folder or beside the code that it
//! calls, and one line in `TASKS`.
//!
//! Each task has its own loop, so a slow one (for example, while a bucket does not respond) does
//! not delay the others. A run that fails is logged and repeated after the task's period. Servers
//! that share a database run the same tasks concurrently; leases and conditional updates keep them
//! from doing the same work twice.

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

/// Time between two runs of most tasks.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// Data that background tasks work on.
#[derive(Debug)]
pub struct Background {
    attachments: Arc<Attachments>,
    db: Database,
    clock: Clock,
    config: Config,
    /// Rate limit window for sends; records of older sends are pruned.
    rate_limit_window: Duration,
    metrics: Metrics,
}

/// A task that runs periodically.
struct Task {
    name: &'static str,
    period: Duration,
    run: for<'a> fn(&'a Background) -> BoxFuture<'a, Result<(), Error>>,
}

/// All tasks, in the order in which [`Background::sweep`] runs them. Pending uploads expire first,
/// so that the same sweep can then delete their attachments if those have expired as well.
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

    /// Runs every task periodically. Never returns.
    pub async fn run(&self) {
        join_all(TASKS.iter().map(|task| task.run_forever(self))).await;
    }

    /// Runs every task once. A failure in one task does not prevent the others.
    ///
    /// # Errors
    /// The first failure. Tasks that succeeded are not undone.
    pub async fn sweep(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for task in &TASKS {
            outcome = outcome.and((task.run)(self).await);
        }
        outcome
    }

    /// Deletes expired attachments. If this fails, the background task retries it.
    pub async fn expire_overdue(&self) {
        if let Err(error) = self.attachments.delete_expired().await {
            tracing::error!(%error, "cannot delete expired attachments; will be retried");
        }
    }
}
