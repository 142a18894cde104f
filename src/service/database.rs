//! Admission to the database: a share of readers, of the writer and of PostgreSQL's connections for each partner, so
//! that one who asks for much waits behind itself and not in front of others.
//!
//! Every use of the database names its [`Holder`]. Background tasks are not counted; the budgets leave connections for
//! them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::budget::{Budget, Reservation};
use crate::config::Limits;
use crate::db::locks::NamedLock;
use crate::db::{Connection, Db, Error, PooledConnection, TransactionBody};
use crate::id::PartnerId;
use crate::metrics::Metrics;

/// Bytes of a write that count as one more unit of the writer: about what takes as long as a small write.
const BYTES_PER_UNIT: usize = 16 * 1024;

/// Who uses the database.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holder {
    /// A partner, known by its key or by what it owns.
    Partner(PartnerId),
    /// Callers whose key was not seen before.
    UnknownKeys,
    /// Clients of upload URLs.
    Uploads,
    /// Clients of upload URLs whose signature is wrong.
    UnsignedUploads,
    /// Readers of public files.
    Downloads,
    /// `/readyz`.
    Readiness,
    /// Our own tasks, which strangers can neither hold up nor multiply.
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

/// The database behind its budgets.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    db: Db,
    /// Connections that read; on PostgreSQL all connections.
    reads: Budget,
    /// Writes that wait for SQLite's one writer or share its commit; `None` on PostgreSQL, where a write is a connection.
    writes: Option<Budget>,
    /// Names that are held for longer than a transaction; each takes a connection of PostgreSQL.
    locks: Option<Budget>,
    /// Units of `writes` that one holder may have.
    max_weight: u64,
}

/// A connection to read with, and its place in the budget.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: PooledConnection,
    _place: Option<Reservation>,
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

/// A name that nobody else holds, and its place in the budget.
#[derive(Debug)]
pub(crate) struct Held {
    _exclusive: NamedLock,
    _place: Option<Reservation>,
}

impl Database {
    pub(crate) fn new(db: Db, limits: &Limits, metrics: &Metrics) -> Self {
        let writes = limits.database_writes();
        let max_weight = writes.share;
        let (reads, writes, locks) = if db.is_shared() {
            let connections = Budget::new(
                "database_connections",
                limits.database_connections(),
                metrics,
            );
            (
                connections,
                None,
                Some(Budget::new(
                    "database_locks",
                    limits.database_locks(),
                    metrics,
                )),
            )
        } else {
            let reads = Budget::new("database_reads", limits.database_reads(), metrics);
            (
                reads,
                Some(Budget::new("database_writes", writes, metrics)),
                None,
            )
        };
        Self {
            db,
            reads,
            writes,
            locks,
            max_weight,
        }
    }

    /// Whether other servers may use the same database at the same time.
    pub(crate) fn is_shared(&self) -> bool {
        self.db.is_shared()
    }

    /// A connection to read with. Who holds one must not ask for another.
    pub(crate) async fn read(&self, holder: impl Into<Holder>) -> Result<Reader, Error> {
        let place = holder.into().reserve(&self.reads, 1).await?;
        Ok(Reader {
            connection: self.db.read().await?,
            _place: place,
        })
    }

    /// Runs `work` as one transaction ([`Db::write`]).
    pub(crate) async fn write<T, E, F>(&self, holder: impl Into<Holder>, work: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.write_bytes(holder, 0, work).await
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
        self.write(holder, move |db| Box::pin(body(db))).await
    }

    /// Runs `work`, which writes about `bytes` of a caller's text, as one transaction. The more it writes, the more of
    /// the holder's share of the writer it takes.
    pub(crate) async fn write_bytes<T, E, F>(
        &self,
        holder: impl Into<Holder>,
        bytes: usize,
        work: F,
    ) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
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
        let place = holder.into().reserve(budget, amount).await?;
        // Released with the result, which comes after the commit, even if the caller stops waiting before that.
        let counted = self.db.write(move |db| {
            let work = work(db);
            Box::pin(async move { Ok((work.await?, place)) })
        });
        counted.await.map(|(value, _)| value)
    }

    /// Waits until nobody holds `name`, and holds it ([`Db::lock`]).
    pub(crate) async fn lock(
        &self,
        holder: impl Into<Holder>,
        name: String,
    ) -> Result<Held, Error> {
        let place = match &self.locks {
            Some(locks) => holder.into().reserve(locks, 1).await?,
            None => None,
        };
        Ok(Held {
            _exclusive: self.db.lock(name).await?,
            _place: place,
        })
    }

    /// Whether the database answers readers and takes writes.
    pub(crate) async fn check(&self) -> Result<(), Error> {
        let budget = self.writes.as_ref().unwrap_or(&self.reads);
        let _place = Holder::Readiness.reserve(budget, 1).await?;
        self.db.check().await
    }
}
