//! Turns at something that few may do at a time: in all, and of one tenant, so that one who is slow leaves room for the
//! others. Owns the waiting line, which is bounded in length and time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What a caller whose turn did not come is told to wait. Turns end at any time, so this is a guess at a useful pace.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How many may have a turn, and how many may wait for one.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most turns at a time.
    pub at_once: usize,
    /// Most of them for one tenant.
    pub per_tenant: usize,
    /// Most that may wait for one tenant.
    pub waiting_per_tenant: usize,
    /// How long they may wait.
    pub patience: Duration,
}

/// No turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much of this is going on at the moment; try again in {retry_after} s")]
pub struct Busy {
    /// Seconds until it is worth trying again.
    pub retry_after: u64,
}

impl Busy {
    /// With the usual time to wait.
    #[must_use]
    pub fn new() -> Self {
        Self { retry_after: RETRY_AFTER.as_secs() }
    }
}

impl Default for Busy {
    fn default() -> Self {
        Self::new()
    }
}

/// Hands out turns.
#[derive(Debug)]
pub struct Turns {
    total: Arc<Semaphore>,
    limits: Limits,
    tenants: std::sync::Mutex<HashMap<String, Arc<Tenant>>>,
}

#[derive(Debug)]
struct Tenant {
    share: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A turn: another may have it once this is dropped.
#[derive(Debug)]
pub struct Turn {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Counts one that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    /// Within these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let total = Arc::new(Semaphore::new(limits.at_once));
        Self { total, limits, tenants: std::sync::Mutex::default() }
    }

    /// Waits for a turn. The tenant's own share comes first, so that those who wait for it hold nothing of the others.
    ///
    /// # Errors
    /// None came.
    pub async fn wait(&self, tenant: &str) -> Result<Turn, Busy> {
        let tenant = self.tenant(tenant);
        let ahead = tenant.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&tenant.waiting);
        if ahead >= self.limits.waiting_per_tenant {
            return Err(Busy::new());
        }
        let turn = async {
            let of_tenant = Arc::clone(&tenant.share).acquire_owned().await.expect("never closed");
            let of_all = Arc::clone(&self.total).acquire_owned().await.expect("never closed");
            Turn { _of_tenant: of_tenant, _of_all: of_all }
        };
        timeout(self.limits.patience, turn).await.map_err(|_| Busy::new())
    }

    /// There are as many as partners, which an operator makes by hand; so they are kept for ever.
    fn tenant(&self, name: &str) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock().expect("no panic while locked");
        let share = self.limits.per_tenant;
        let new = || Arc::new(Tenant { share: Arc::new(Semaphore::new(share)), waiting: AtomicUsize::new(0) });
        Arc::clone(tenants.entry(name.to_owned()).or_insert_with(new))
    }
}
