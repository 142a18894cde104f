//! Accesses the database. This module contains all SQL, one file per table, and owns the
//! connections and transactions. It knows nothing of HTTP or files.
//!
//! Reads take a connection from a pool ([`Db::read`]). Writes are async closures passed to
//! [`Db::transaction`], whose results are returned only after the commit. On SQLite a single writer
//! combines concurrent writes into one commit (`group_commit`). On PostgreSQL each write is its own
//! transaction; advisory locks serialize those that must not overlap ([`locks`]).

#![expect(
    clippy::missing_errors_doc,
    reason = "every function here fails when, and only when, the database does"
)]

pub(crate) mod admission;
pub mod attachments;
pub mod audit_records;
pub mod blob_deletions;
pub mod chats;
mod config;
mod connect;
mod erased_write;
mod error;
pub mod fetched_urls;
mod group_commit;
pub mod idempotency;
pub mod keyset;
pub mod locks;
pub mod messages;
mod migrations;
pub mod outbox;
pub mod pages;
pub mod partners;
mod placeholders;
#[cfg(test)]
mod plans;
mod postgres;
pub mod recent_sends;
mod row;
mod schema;
pub mod secrets;
mod sqlite;
pub mod table_copy;

use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool};
use tokio::sync::Semaphore;
use url::Url;

pub use config::Config;
pub(crate) use config::parse_url;
pub use connect::{LOCK_CONNECTIONS, SQLITE_READERS};
pub use error::Error;
pub use postgres::ServerInfo;
pub use schema::SchemaStatus;
pub use sqlx::AnyConnection as Connection;

/// A connection that returns to its pool when it is dropped.
pub type PooledConnection = PoolConnection<Any>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// SQLite: a file, used by one server.
    Sqlite,
    /// PostgreSQL: a database server that several Haversack servers can share.
    Postgres,
}

impl Engine {
    /// Returns the engine that the scheme of a database URL selects.
    #[must_use]
    pub fn of(url: &Url) -> Option<Self> {
        match url.scheme() {
            "sqlite" => Some(Self::Sqlite),
            "postgres" | "postgresql" => Some(Self::Postgres),
            _ => None,
        }
    }

    fn of_connection(connection: &Connection) -> Self {
        if connection.backend_name() == "PostgreSQL" {
            Self::Postgres
        } else {
            Self::Sqlite
        }
    }
}

/// The body of a transaction: an async closure with a parameter `db: &mut Connection`.
///
/// Stands for an `AsyncFnOnce` whose future is `Send`, which stable Rust has no syntax for.
pub trait TransactionBody<'c, T, E>:
    FnOnce(&'c mut Connection) -> Self::Future + Send + 'static
{
    type Future: Future<Output = Result<T, E>> + Send + 'c;
}

impl<'c, T, E, F, R> TransactionBody<'c, T, E> for F
where
    F: FnOnce(&'c mut Connection) -> R + Send + 'static,
    R: Future<Output = Result<T, E>> + Send + 'c,
{
    type Future = R;
}

/// A handle to the database; clones share the connections.
#[derive(Clone)]
pub struct Db {
    engine: Engine,
    pool: AnyPool,
    /// Connections whose only purpose is to hold an advisory lock.
    lock_pool: AnyPool,
    /// One permit per connection of `lock_pool`: a caller that waits for a lock waits here, so that
    /// a timeout of the pool still means that the database is unreachable.
    lock_permits: Arc<Semaphore>,
    local_locks: locks::ProcessLocks,
    /// Writer task; only for SQLite.
    writer: Option<group_commit::Writer>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Db").field(&self.engine).finish()
    }
}

impl Db {
    /// Returns true if other servers may use the same database at the same time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.engine == Engine::Postgres
    }

    /// Returns a connection for reading.
    pub async fn read(&self) -> Result<PooledConnection, Error> {
        Ok(self.pool.acquire().await?)
    }

    /// Runs an async closure in a transaction: commits durably if the closure returns `Ok`, rolls
    /// back if it returns `Err`. The closure runs to its end even if the caller is cancelled.
    ///
    /// On PostgreSQL each statement sees everything committed before it (READ COMMITTED).
    ///
    /// # Errors
    /// The error of `body` or of the commit. If the connection is lost during the commit, the
    /// transaction may nevertheless have been committed.
    pub async fn transaction<T, E, F>(&self, body: F) -> Result<T, E>
    where
        F: for<'c> TransactionBody<'c, T, E>,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (write, result) = erased_write::erase(body);
        match &self.writer {
            Some(writer) => writer.enqueue(write).await?,
            None => postgres::write(&self.pool, write).await?,
        }
        // The sender is dropped without a result if the closure panics.
        result
            .await
            .unwrap_or_else(|_| Err(Error::Abandoned.into()))
    }

    /// Compares the database schema with the one that this version of Haversack expects.
    pub async fn schema_status(&self) -> Result<SchemaStatus, Error> {
        schema::status(&mut *self.read().await?).await
    }

    /// Returns the version and settings of the PostgreSQL server; `None` for SQLite.
    pub async fn server_info(&self) -> Result<Option<ServerInfo>, Error> {
        match self.engine {
            Engine::Sqlite => Ok(None),
            Engine::Postgres => postgres::server_info(&mut *self.read().await?)
                .await
                .map(Some),
        }
    }

    /// Verifies that the database answers reads and writes.
    pub async fn check(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1")
            .execute(&mut *self.read().await?)
            .await?;
        self.transaction(async |_: &mut Connection| Ok(())).await
    }
}
