//! How many fetches run at a time: in all, and of one tenant, so that one whose origins stall leaves room for the
//! others. Owns the waiting line, which is bounded in length and time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{Error, Limits};

/// What a caller whose turn did not come is told to wait. Fetches end at any time, so this is a guess at a useful pace.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Hands out permits.
#[derive(Debug)]
pub(super) struct Permits {
    total: Arc<Semaphore>,
    share: usize,
    most_waiting: usize,
    patience: Duration,
    tenants: std::sync::Mutex<HashMap<String, Arc<Tenant>>>,
}

#[derive(Debug)]
struct Tenant {
    share: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// One fetch may run while this lives.
#[derive(Debug)]
pub(super) struct Permit {
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

impl Permits {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            total: Arc::new(Semaphore::new(limits.max_concurrent)),
            share: limits.max_concurrent_per_tenant,
            most_waiting: limits.max_waiting_per_tenant,
            patience: limits.queue_timeout,
            tenants: std::sync::Mutex::default(),
        }
    }

    /// Waits for a permit. The tenant's own share comes first, so that those who wait for it hold nothing of the others.
    pub(super) async fn acquire(&self, tenant: &str) -> Result<Permit, Error> {
        let tenant = self.tenant(tenant);
        let busy = || Error::Busy { retry_after: RETRY_AFTER.as_secs() };
        let ahead = tenant.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&tenant.waiting);
        if ahead >= self.most_waiting {
            return Err(busy());
        }
        let permit = async {
            let of_tenant = Arc::clone(&tenant.share).acquire_owned().await.expect("never closed");
            let of_all = Arc::clone(&self.total).acquire_owned().await.expect("never closed");
            Permit { _of_tenant: of_tenant, _of_all: of_all }
        };
        timeout(self.patience, permit).await.map_err(|_| busy())
    }

    /// There are as many as partners, which an operator makes by hand; so they are kept for ever.
    fn tenant(&self, name: &str) -> Arc<Tenant> {
        let mut tenants = self.tenants.lock().expect("no panic while locked");
        let new = || Arc::new(Tenant { share: Arc::new(Semaphore::new(self.share)), waiting: AtomicUsize::new(0) });
        Arc::clone(tenants.entry(name.to_owned()).or_insert_with(new))
    }
}
