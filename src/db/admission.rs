//! Shares the database fairly between partners. Budgets limit the use of SQLite's readers, SQLite's
//! writer and PostgreSQL's connections, so that a partner with many concurrent calls waits behind
//! its own calls and does not delay other partners.
//!
//! Every use of the database names its [`Holder`]. Background tasks are not counted; the budgets
//! leave connections for them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::locks::NamedLock;
use super::{Config, Connection, Db, Error, PooledConnection, TransactionBody};
use crate::budget::{Budget, Reservation};
use crate::id::PartnerId;
use crate::metrics::Metrics;

/// Bytes of a write that count as one more unit of the writer: writing them takes about as long as
/// a small write.
const BYTES_PER_UNIT: usize = 16 * 1024;

/// The holder that a use of the database is counted for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holder {
    /// A partner, identified by its API key or by the attachment it owns.
    Partner(PartnerId),
    /// Callers whose API key is not cached.
    UnknownKeys,
    /// Clients of upload URLs.
    Uploads,
    /// Clients of upload URLs with an invalid signature.
    UnsignedUploads,
    /// Clients of file URLs.
    Downloads,
    /// Requests to `/readyz`.
    Readiness,
    /// Background tasks, which clients can neither delay nor multiply.
    Background,
}

impl From<PartnerId> for Holder {
    fn from(partner: PartnerId) -> Self {
        Self::Partner(partner)
    }
}

impl Holder {
    fn name(self) -> Arc<str> {
        match self {
            Self::Partner(partner) => partner.to_string().into(),
            Self::UnknownKeys => "unknown keys".into(),
            Self::Uploads => "uploads".into(),
            Self::UnsignedUploads => "unsigned uploads".into(),
            Self::Downloads => "downloads".into(),
            Self::Readiness => "readiness".into(),
            Self::Background => "background".into(),
        }
    }

    async fn reserve(self, budget: &Budget, amount: u64) -> Result<Option<Reservation>, Error> {
        match self {
            Self::Background => Ok(None),
            holder => Ok(Some(budget.reserve(&holder.name(), amount).await?)),
        }
    }
}

/// A database whose use is limited by budgets. Clones share the budgets.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    db: Db,
    /// Readers of SQLite, or all connections to PostgreSQL.
    reads: Budget,
    /// Writes of SQLite; `None` on PostgreSQL, where a write is a connection.
    writes: Option<Budget>,
    /// Named locks of PostgreSQL; `None` on SQLite, where they take no connection.
    locks: Option<Budget>,
    /// Maximum number of units of `writes` for one write: the share of one holder.
    max_weight: u64,
}

/// A connection for reading, counted in the budget until it is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: PooledConnection,
    _reservation: Option<Reservation>,
}

impl Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Reader {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// A named lock, counted in the budget until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldLock {
    _lock: NamedLock,
    _reservation: Option<Reservation>,
}

impl Database {
    pub(crate) fn new(db: Db, config: &Config, metrics: &Metrics) -> Self {
        let max_weight = config.write_limits().share;
        let (reads, writes, locks) = if db.is_shared() {
            let connections =
                Budget::new("database_connections", config.connection_limits(), metrics);
            let locks = Budget::new("database_locks", Config::lock_limits(), metrics);
            (connections, None, Some(locks))
        } else {
            let reads = Budget::new("database_reads", config.read_limits(), metrics);
            let writes = Budget::new("database_writes", config.write_limits(), metrics);
            (reads, Some(writes), None)
        };
        Self {
            db,
            reads,
            writes,
            locks,
            max_weight,
        }
    }

    /// Returns true if other servers may use the same database.
    pub(crate) fn is_shared(&self) -> bool {
        self.db.is_shared()
    }

    /// Waits for a connection to read with. A caller that holds a connection must not wait for
    /// another, because that can deadlock.
    pub(crate) async fn read(&self, holder: impl Into<Holder>) -> Result<Reader, Error> {
        let reservation = holder.into().reserve(&self.reads, 1).await?;
        Ok(Reader {
            connection: self.db.read().await?,
            _reservation: reservation,
        })
    }

    /// Runs an async closure in a transaction ([`Db::transaction`]).
    pub(crate) async fn transaction<T, E, F>(
        &self,
        holder: impl Into<Holder>,
        body: F,
    ) -> Result<T, E>
    where
        F: for<'c> TransactionBody<'c, T, E>,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.weighted_transaction(holder, 0, body).await
    }

    /// Runs an async closure that writes about `bytes` of a caller's text in a transaction. The
    /// size determines how much of the holder's share of the writer is reserved.
    pub(crate) async fn weighted_transaction<T, E, F>(
        &self,
        holder: impl Into<Holder>,
        bytes: usize,
        body: F,
    ) -> Result<T, E>
    where
        F: for<'c> TransactionBody<'c, T, E>,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (budget, amount) = match &self.writes {
            Some(writes) => (
                writes,
                (1 + (bytes / BYTES_PER_UNIT) as u64).min(self.max_weight),
            ),
            None => (&self.reads, 1),
        };
        let reservation = holder.into().reserve(budget, amount).await?;
        // The reservation is released with the result, after the commit, even if the caller is
        // cancelled before that.
        let counted = self.db.transaction(async move |db: &mut Connection| {
            let value = body(db).await?;
            Ok::<_, E>((value, reservation))
        });
        counted.await.map(|(value, _)| value)
    }

    /// Waits for the lock on `name` ([`Db::lock`]).
    pub(crate) async fn lock(
        &self,
        holder: impl Into<Holder>,
        name: String,
    ) -> Result<HeldLock, Error> {
        let reservation = match &self.locks {
            Some(locks) => holder.into().reserve(locks, 1).await?,
            None => None,
        };
        Ok(HeldLock {
            _lock: self.db.lock(name).await?,
            _reservation: reservation,
        })
    }

    /// Fails if the database does not answer readers or does not accept writes.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        let budget = self.writes.as_ref().unwrap_or(&self.reads);
        let _reservation = Holder::Readiness.reserve(budget, 1).await?;
        self.db.check().await
    }
}
