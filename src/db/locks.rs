//! Locks by name, between servers that share a database. SQLite has one writer and one server, so that a transaction
//! needs none there; what takes longer than a transaction is kept apart within the process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use sha2::{Digest, Sha256};
use sqlx::{Any, AssertSqlSafe, Transaction};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit};
use tokio::time::timeout;

use super::{Connection, Db, Engine, Error, LOCK_PATIENCE};

/// Waits until no other transaction holds any of these names, and holds them until this one ends. All of them are to be
/// asked for at once, or in an order that everybody keeps: two who wait for each other are both given up.
pub async fn hold(db: &mut Connection, names: &[String]) -> Result<(), Error> {
    if Engine::of_connection(db) == Engine::Sqlite || names.is_empty() {
        return Ok(());
    }
    let mut numbers: Vec<i64> = names.iter().map(|name| number(name)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    // Taken from left to right.
    let calls: Vec<String> = (1..=numbers.len()).map(|n| format!("pg_advisory_xact_lock(${n})")).collect();
    // Nothing of a caller's is in the text.
    let statement = AssertSqlSafe(format!("SELECT {}", calls.join(", ")));
    let query = numbers.into_iter().fold(sqlx::query(statement), sqlx::query::Query::bind);
    query.execute(db).await?;
    Ok(())
}

/// PostgreSQL's advisory locks are numbers. Two names of one number wait for each other, which harms nothing.
fn number(name: &str) -> i64 {
    let hash = Sha256::digest(name.as_bytes());
    i64::from_be_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes"))
}

/// Locks of this process, by name; those that nobody holds or waits for are forgotten.
#[derive(Clone, Default)]
pub(super) struct LocalLocks(Arc<std::sync::Mutex<HashMap<String, Weak<Mutex<()>>>>>);

impl LocalLocks {
    /// Names kept before those that nobody uses are looked for.
    const MANY: usize = 64;

    async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().expect("no panic while locked");
            if locks.len() >= Self::MANY {
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

/// A name that nobody else holds, here or on another server, until this is dropped. If the database loses the connection
/// meanwhile it is free again for others: what is done under it must be safe then, if wasteful.
pub struct Exclusive {
    /// Dropping it rolls it back, which ends the lock.
    _transaction: Option<Transaction<'static, Any>>,
    _turn: Option<OwnedSemaphorePermit>,
    _local: OwnedMutexGuard<()>,
}

impl fmt::Debug for Exclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exclusive")
    }
}

impl Db {
    /// Waits until nobody holds `name`, and holds it. For work that takes longer than a transaction. One who holds a name
    /// must not ask for another.
    ///
    /// # Errors
    /// The database fails.
    pub async fn exclusive(&self, name: String) -> Result<Exclusive, Error> {
        let local = self.local_locks.lock(&name).await;
        let (turn, transaction) = match self.engine {
            Engine::Sqlite => (None, None),
            Engine::Postgres => {
                let turn = timeout(LOCK_PATIENCE, Arc::clone(&self.lock_turns).acquire_owned()).await;
                let turn = turn.map_err(|_| sqlx::Error::PoolTimedOut)?.expect("never closed");
                let mut transaction = self.lock_pool.begin().await?;
                hold(&mut transaction, &[name]).await?;
                (Some(turn), Some(transaction))
            }
        };
        Ok(Exclusive { _transaction: transaction, _turn: turn, _local: local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_held_by_one_and_no_name_waits_for_another() {
        let locks = LocalLocks::default();
        let held = locks.lock("a").await;
        for n in 0..LocalLocks::MANY * 2 {
            drop(locks.lock(&n.to_string()).await);
        }
        assert!(locks.0.lock().expect("lock").len() <= LocalLocks::MANY + 1, "names are forgotten");
        let mut second = Box::pin(locks.lock("a"));
        assert!(futures_util::FutureExt::now_or_never(&mut second).is_none());
        drop(held);
        second.await;
    }
}
