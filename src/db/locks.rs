//! Provides named locks for servers that share a database, as PostgreSQL advisory locks. SQLite has
//! a single writer and a single server, so transactions need no lock there; longer operations use
//! process-local locks.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::{Any, AssertSqlSafe, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit};
use tokio::time::timeout;

use super::{Connection, Db, Engine, Error, placeholders};

/// Maximum wait for a connection from the lock pool. It is long because locks are held while files
/// are inspected and copied.
const LOCK_TIMEOUT: Duration = Duration::from_mins(1);

/// Acquires advisory locks on `names`, held until the transaction ends. All names must be passed in
/// one call, or in a globally consistent order: in a deadlock PostgreSQL aborts one of the
/// transactions.
pub async fn lock_names(db: &mut Connection, names: &[String]) -> Result<(), Error> {
    if Engine::of_connection(db) == Engine::Sqlite || names.is_empty() {
        return Ok(());
    }
    let mut numbers: Vec<i64> = names.iter().map(|name| number(name)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    // PostgreSQL evaluates the calls from left to right, so the locks are acquired in sorted order.
    let calls = placeholders::calls("pg_advisory_xact_lock", numbers.len());
    // Safe from SQL injection: the statement contains only placeholders.
    let statement = AssertSqlSafe(format!("SELECT {calls}"));
    let query = numbers
        .into_iter()
        .fold(sqlx::query(statement), sqlx::query::Query::bind);
    query.execute(db).await?;
    Ok(())
}

/// Maps a name to the number of its advisory lock. Names that collide block each other, which is
/// harmless.
fn number(name: &str) -> i64 {
    let hash = Sha256::digest(name.as_bytes());
    i64::from_be_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

/// Process-local locks, by name; unused locks are pruned.
#[derive(Clone, Default)]
pub(super) struct ProcessLocks(Arc<std::sync::Mutex<HashMap<String, Weak<Mutex<()>>>>>);

impl ProcessLocks {
    /// Number of locks at which unused ones are pruned.
    const PRUNE_THRESHOLD: usize = 64;

    async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().expect("no panic while locked");
            if locks.len() >= Self::PRUNE_THRESHOLD {
                locks.retain(|_, lock| lock.strong_count() > 0);
            }
            let known = locks.get(name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::default();
                locks.insert(name.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// An exclusive lock on a name, across all servers, released on drop. The lock is also lost with
/// its database connection, so a second holder can exist; its work must then be harmless, at worst
/// wasteful.
pub struct NamedLock {
    /// Rolled back on drop, which releases the advisory lock.
    _transaction: Option<Transaction<'static, Any>>,
    _permit: Option<OwnedSemaphorePermit>,
    _local: OwnedMutexGuard<()>,
}

impl fmt::Debug for NamedLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NamedLock")
    }
}

impl Db {
    /// Acquires an exclusive lock on `name`, for operations that take longer than a transaction. A
    /// holder must not acquire a second lock, which can cause a deadlock.
    ///
    /// # Errors
    /// The database fails, or the lock is not acquired in time.
    pub async fn lock(&self, name: String) -> Result<NamedLock, Error> {
        let local = self.local_locks.lock(&name).await;
        let (permit, transaction) = match self.engine {
            Engine::Sqlite => (None, None),
            Engine::Postgres => {
                let permit =
                    timeout(LOCK_TIMEOUT, Arc::clone(&self.lock_permits).acquire_owned()).await;
                let permit = permit
                    .map_err(|_| Error::LockTimeout(LOCK_TIMEOUT))?
                    .expect("never closed");
                let mut transaction = self.lock_pool.begin().await?;
                lock_names(&mut transaction, &[name]).await?;
                (Some(permit), Some(transaction))
            }
        };
        Ok(NamedLock {
            _transaction: transaction,
            _permit: permit,
            _local: local,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lock_excludes_same_name_only_and_unused_names_are_pruned() {
        let locks = ProcessLocks::default();
        let held = locks.lock("a").await;
        for n in 0..ProcessLocks::PRUNE_THRESHOLD * 2 {
            drop(locks.lock(&n.to_string()).await);
        }
        assert!(
            locks.0.lock().expect("lock").len() <= ProcessLocks::PRUNE_THRESHOLD + 1,
            "unused names are pruned"
        );
        let mut second = Box::pin(locks.lock("a"));
        assert!(futures_util::FutureExt::now_or_never(&mut second).is_none());
        drop(held);
        second.await;
    }
}
