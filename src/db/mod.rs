//! All SQL. Owns the connections, the one way to write, and the statements, one file per table or two. Knows
//! nothing of HTTP or files.
//!
//! Reads take a connection from a pool ([`Db::read`]). Writes are closures handed to [`Db::write`], which runs
//! them one at a time, each inside a savepoint, and commits several that arrived together with one sync of the
//! disk; a closure's result is given back only after that commit. See `writer`.

#![expect(clippy::missing_errors_doc, reason = "every function here fails when, and only when, the database does")]

pub mod attachments;
pub mod chats;
pub mod fetched_urls;
pub mod idempotency;
pub mod lists;
pub mod messages;
pub mod outbox;
pub mod partners;
pub mod rates;
mod row;
mod writer;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool, ConnectOptions, Row};
use url::Url;

pub use sqlx::AnyConnection as Connection;

/// Connections that read.
const READERS: u32 = 4;
/// How long to wait for a reader, or for another process (`haversack partner add`) that writes.
const PATIENCE: Duration = Duration::from_secs(5);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// What can go wrong with the database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error("database: {0}")]
    Sql(Arc<sqlx::Error>),
    /// The migrations could not be applied.
    #[error("database migration: {0}")]
    Migration(Arc<sqlx::migrate::MigrateError>),
    /// A stored value is not what this version writes.
    #[error("database: column {column} holds {value:?}, which this version cannot read")]
    Unreadable {
        /// The column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
    /// The database does not keep what it confirms.
    #[error(
        "database: {setting} is {found:?} but must be {wanted:?}, or a power cut would lose acknowledged data; \
         use a database file on a local disk"
    )]
    NotDurable {
        /// The SQLite pragma.
        setting: &'static str,
        /// Its value as read back.
        found: String,
        /// The value it must have.
        wanted: &'static str,
    },
    /// The URL names a database this version does not know.
    #[error("database: {0}: only sqlite: URLs are supported")]
    UnknownKind(String),
    /// The write was given up before it was committed.
    #[error("database: the write was not carried out")]
    Abandoned,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(Arc::new(error))
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Migration(Arc::new(error))
    }
}

impl Error {
    /// Whether a statement broke a UNIQUE or PRIMARY KEY rule.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Sql(error) if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation))
    }
}

/// The database.
#[derive(Clone)]
pub struct Db {
    readers: AnyPool,
    writer: writer::Writer,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Db")
    }
}

impl Db {
    /// Opens the database, applies the migrations and reads back the settings that durability rests on.
    ///
    /// # Errors
    /// The database cannot be opened, migrated, or made durable.
    pub async fn open(url: &Url) -> Result<Self, Error> {
        Self::connect(url, true).await
    }

    /// The same without migrations, to look at what is there.
    ///
    /// # Errors
    /// The database cannot be opened, or is not durable.
    pub async fn open_unchanged(url: &Url) -> Result<Self, Error> {
        Self::connect(url, false).await
    }

    async fn connect(url: &Url, migrate: bool) -> Result<Self, Error> {
        if url.scheme() != "sqlite" {
            return Err(Error::UnknownKind(url.scheme().to_owned()));
        }
        sqlx::any::install_default_drivers();
        let options = AnyConnectOptions::from_str(url.as_str())?.disable_statement_logging();
        let pool = |connections| {
            AnyPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(PATIENCE)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .after_connect(|connection, _| Box::pin(prepare(connection)))
        };
        let mut connection = pool(1).connect_with(options.clone()).await?.acquire().await?.detach();
        if migrate {
            MIGRATIONS.run(&mut connection).await?;
        }
        check_durability(&mut connection).await?;
        Ok(Self { readers: pool(READERS).connect_lazy_with(options), writer: writer::Writer::spawn(connection) })
    }

    /// A connection to read with.
    ///
    /// # Errors
    /// None became free in time, or none could be opened.
    pub async fn read(&self) -> Result<PoolConnection<Any>, Error> {
        Ok(self.readers.acquire().await?)
    }

    /// Runs `work` as one transaction: all of it is committed and safe on disk when this returns `Ok`, and none
    /// of it is left when it returns `Err`. `work` goes on even if the caller stops waiting.
    ///
    /// # Errors
    /// What `work` returns, or that its commit failed.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.writer.write(work).await
    }

    /// Whether the database answers readers and takes writes.
    ///
    /// # Errors
    /// It does not.
    pub async fn check(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&mut *self.read().await?).await?;
        self.write(|_| Box::pin(async { Ok(()) })).await
    }
}

async fn prepare(connection: &mut Connection) -> Result<(), sqlx::Error> {
    for pragma in [
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA busy_timeout = 5000",
    ] {
        sqlx::query(pragma).execute(&mut *connection).await?;
    }
    Ok(())
}

/// SQLite accepts a PRAGMA it cannot honour (WAL on a network file system, say) without an error.
async fn check_durability(connection: &mut Connection) -> Result<(), Error> {
    let journal: String = sqlx::query("PRAGMA journal_mode").fetch_one(&mut *connection).await?.try_get(0)?;
    let synchronous: i64 = sqlx::query("PRAGMA synchronous").fetch_one(&mut *connection).await?.try_get(0)?;
    for (setting, found, wanted) in [("journal_mode", journal, "wal"), ("synchronous", synchronous.to_string(), "2")] {
        if found != wanted {
            return Err(Error::NotDurable { setting, found, wanted });
        }
    }
    Ok(())
}
