//! All SQL. Owns the connections, the one way to write, and the statements, one file per table or two. Knows
//! nothing of HTTP or files.
//!
//! Reads take a connection from a pool ([`Db::read`]). Writes are closures handed to [`Db::write`]; a closure's result
//! is given back only after its commit. On SQLite there is one writer, which commits several that arrived together with
//! one sync of the disk (`sqlite`). On PostgreSQL each is a transaction of its own, and what must not happen twice at
//! once is kept apart by name ([`locks`]).

#![expect(
    clippy::missing_errors_doc,
    reason = "every function here fails when, and only when, the database does"
)]

pub mod attachments;
pub mod audit_records;
pub mod blob_deletions;
pub mod chats;
pub mod fetched_urls;
mod group_commit;
pub mod idempotency;
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
pub mod secrets;
mod sqlite;
pub mod table_copy;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyPool, ConnectOptions, Connection as _, Row as _};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::budget::AtCapacity;
use crate::quote::quoted;

use migrations::MIGRATIONS;
pub use postgres::ServerInfo;
pub use sqlx::AnyConnection as Connection;

/// A connection that returns to its pool when it is dropped.
pub type PooledConnection = PoolConnection<Any>;

/// Connections that read SQLite.
pub const SQLITE_READERS: u32 = 5;
/// Connections to PostgreSQL, if nobody says otherwise.
const DEFAULT_CONNECTIONS: u32 = 4;
/// Locks by name that are held at a time, each by a connection of its own.
pub const LOCK_CONNECTIONS: u32 = 8;
/// How long to wait for one of those to be let go of: they are held while files are looked at and copied.
const LOCK_TIMEOUT: Duration = Duration::from_mins(1);
/// How long to wait for a connection, or for another process (`haversack partner add`) that writes.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a PostgreSQL that is not there yet.
const CONNECT_RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What can go wrong with the database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error("database: {}", describe(.0))]
    Sql(Arc<sqlx::Error>),
    /// PostgreSQL does not answer at a start.
    #[error(
        "database: PostgreSQL at {at} is not reachable ({cause}): start it, or correct HAVERSACK_DATABASE_URL"
    )]
    Unreachable {
        /// Host and port.
        at: String,
        /// Why not.
        cause: Arc<sqlx::Error>,
    },
    /// The migrations could not be applied.
    #[error("database migration: {}", describe_migration(.0))]
    Migration(Arc<sqlx::migrate::MigrateError>),
    /// A stored value is not what this version writes.
    #[error("database: column {column} holds {}, which this version cannot read", quoted(.value))]
    Unreadable {
        /// The column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
    /// The database does not keep what it confirms.
    #[error(
        "database: {setting} is {found:?} but must be {wanted}, or a power cut would lose acknowledged data"
    )]
    NotDurable {
        /// The setting of SQLite or PostgreSQL.
        setting: &'static str,
        /// Its value as read back.
        found: String,
        /// The value it must have.
        wanted: &'static str,
    },
    /// The URL names a database this version does not know.
    #[error("database: {0}: is not supported; use sqlite: or postgres:")]
    UnknownKind(String),
    /// The write was given up before it was committed.
    #[error("database: the write was not carried out")]
    Abandoned,
    /// A budget of connections or writes is used up.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
}

/// What the library calls a pool that timed out is most often a server that does not answer.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => {
            "no connection was to be had in time: it is not reachable, or all are in use".to_owned()
        }
        other => other.to_string(),
    }
}

fn describe_migration(error: &sqlx::migrate::MigrateError) -> String {
    match error {
        sqlx::migrate::MigrateError::VersionMissing(number) => format!(
            "number {number}, which this version does not know, was applied: the tables are those of a newer version; run \
             that version, or restore a backup of before"
        ),
        other => other.to_string(),
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        postgres::record_error(&error);
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

    /// Whether the same may succeed in a moment: the database is not reachable, is starting or stopping, has no
    /// connection left, or gave the work up in favour of another's.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use sqlx::Error as E;
        let error = match self {
            Self::Sql(error) => error,
            other => return matches!(other, Self::AtCapacity(_)),
        };
        match error.as_ref() {
            E::Io(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed | E::Tls(_) => true,
            E::Database(error) => error
                .code()
                .is_some_and(|code| postgres::is_transient(&code)),
            _ => false,
        }
    }
}

/// Which engine keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A file, of one server.
    Sqlite,
    /// A server, which several of ours may share.
    Postgres,
}

impl Engine {
    /// The engine that a database URL names by its scheme.
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

/// The database.
#[derive(Clone)]
pub struct Db {
    engine: Engine,
    pool: AnyPool,
    /// Transactions that are held open for a lock, and do nothing else.
    lock_pool: AnyPool,
    /// One for each connection of that pool. Who waits for a lock waits here, and not for a database that is away.
    lock_permits: Arc<Semaphore>,
    local_locks: locks::ProcessLocks,
    /// Of SQLite.
    writer: Option<group_commit::Writer>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Db").field(&self.engine).finish()
    }
}

/// The tables of a database, beside those this version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaStatus {
    /// There are none.
    None,
    /// Some migrations were not applied yet.
    Older,
    /// The same.
    Current,
    /// Some migrations were applied that this version does not know.
    Newer,
}

/// What a connection is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenMode {
    Migrate,
    Inspect,
}

impl Db {
    /// Opens the database, applies the migrations and reads back the settings that durability rests on. Several servers
    /// may do so at once: the migrations are applied by one of them, and the others wait.
    ///
    /// # Errors
    /// The database cannot be opened, migrated, or made durable.
    pub async fn open(url: &Url) -> Result<Self, Error> {
        Self::connect(url, OpenMode::Migrate, DEFAULT_CONNECTIONS).await
    }

    /// The same with a bound on connections, for a server.
    ///
    /// # Errors
    /// The same.
    pub async fn open_with(url: &Url, connections: u32) -> Result<Self, Error> {
        Self::connect(url, OpenMode::Migrate, connections).await
    }

    /// The same without migrations, to look at what is there.
    ///
    /// # Errors
    /// The database cannot be opened, or is not durable.
    pub async fn open_unchanged(url: &Url) -> Result<Self, Error> {
        Self::connect(url, OpenMode::Inspect, DEFAULT_CONNECTIONS).await
    }

    async fn connect(url: &Url, purpose: OpenMode, connections: u32) -> Result<Self, Error> {
        let engine = Engine::of(url).ok_or_else(|| Error::UnknownKind(url.scheme().to_owned()))?;
        sqlx::any::install_default_drivers();
        let options = AnyConnectOptions::from_str(url.as_str())?.disable_statement_logging();
        let pool = |connections, idle_in_transaction| {
            let pool = AnyPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(None)
                .max_lifetime((engine == Engine::Postgres).then_some(postgres::LIFETIME))
                .test_before_acquire(false);
            match engine {
                Engine::Sqlite => {
                    pool.after_connect(|connection, _| Box::pin(sqlite::prepare(connection)))
                }
                Engine::Postgres => pool
                    .after_connect(move |connection, _| {
                        Box::pin(postgres::prepare(connection, idle_in_transaction))
                    })
                    .before_acquire(|connection, idle| {
                        Box::pin(postgres::is_alive(connection, idle))
                    }),
            }
        };
        let mut connection = match engine {
            Engine::Sqlite => {
                let pool = pool(1, postgres::IDLE_IN_TRANSACTION)
                    .connect_with(options.clone())
                    .await?;
                pool.acquire().await?.detach()
            }
            Engine::Postgres => connect_with_retry(url, &options).await?,
        };
        // Who is allowed to use tables only, and not to make them, must not be asked to.
        if purpose == OpenMode::Migrate
            && tables(&mut connection, engine).await? != SchemaStatus::Current
        {
            MIGRATIONS.run(&mut connection).await?;
        }
        let (readers, writer) = match engine {
            Engine::Sqlite => {
                sqlite::check_durability(&mut connection).await?;
                (
                    SQLITE_READERS,
                    Some(group_commit::Writer::spawn(connection)),
                )
            }
            Engine::Postgres => {
                postgres::check_durability(&mut connection).await?;
                connection.close().await?;
                (connections, None)
            }
        };
        Ok(Self {
            engine,
            pool: pool(readers, postgres::IDLE_IN_TRANSACTION).connect_lazy_with(options.clone()),
            lock_pool: pool(LOCK_CONNECTIONS, postgres::IDLE_WITH_LOCK).connect_lazy_with(options),
            lock_permits: Arc::new(Semaphore::new(LOCK_CONNECTIONS as usize)),
            local_locks: locks::ProcessLocks::default(),
            writer,
        })
    }

    /// Whether other servers may use the same database at the same time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.engine == Engine::Postgres
    }

    /// A connection to read with.
    ///
    /// # Errors
    /// None became free in time, or none could be opened.
    pub async fn read(&self) -> Result<PooledConnection, Error> {
        Ok(self.pool.acquire().await?)
    }

    /// Runs `work` as one transaction: all of it is committed and safe on disk when this returns `Ok`, and none
    /// of it is left when it returns `Err`. `work` goes on even if the caller stops waiting.
    ///
    /// On PostgreSQL each statement of `work` sees what others have committed by then (READ COMMITTED).
    ///
    /// # Errors
    /// What `work` returns, or that its commit failed: then, if the connection was lost at that moment, it may have been
    /// carried out all the same.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        match &self.writer {
            Some(writer) => writer.write(work).await,
            None => postgres::write(&self.pool, work).await,
        }
    }

    /// Whether the tables are those of this version.
    ///
    /// # Errors
    /// The database fails.
    pub async fn tables(&self) -> Result<SchemaStatus, Error> {
        tables(&mut *self.read().await?, self.engine).await
    }

    /// What PostgreSQL says of itself; `None` for SQLite.
    ///
    /// # Errors
    /// The database fails.
    pub async fn about(&self) -> Result<Option<ServerInfo>, Error> {
        match self.engine {
            Engine::Sqlite => Ok(None),
            Engine::Postgres => postgres::about(&mut *self.read().await?).await.map(Some),
        }
    }

    /// Whether the database answers readers and takes writes.
    ///
    /// # Errors
    /// It does not.
    pub async fn check(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1")
            .execute(&mut *self.read().await?)
            .await?;
        self.write(|_| Box::pin(async { Ok(()) })).await
    }
}

async fn tables(connection: &mut Connection, engine: Engine) -> Result<SchemaStatus, Error> {
    let there = match engine {
        Engine::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'",
        Engine::Postgres => "SELECT COUNT(to_regclass('_sqlx_migrations'))",
    };
    let there: i64 = sqlx::query(there)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if there == 0 {
        return Ok(SchemaStatus::None);
    }
    let rows = sqlx::query("SELECT version FROM _sqlx_migrations")
        .fetch_all(&mut *connection)
        .await?;
    let applied = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<Vec<i64>, _>>()?;
    let known: Vec<i64> = MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .collect();
    Ok(if applied.is_empty() {
        SchemaStatus::None
    } else if applied.iter().any(|version| !known.contains(version)) {
        SchemaStatus::Newer
    } else if applied.len() < known.len() {
        SchemaStatus::Older
    } else {
        SchemaStatus::Current
    })
}

/// The first connection to PostgreSQL, which may be starting as well. A pool would say that it waited, and not for what.
async fn connect_with_retry(url: &Url, options: &AnyConnectOptions) -> Result<Connection, Error> {
    let start = Instant::now();
    loop {
        let failed = match timeout(ACQUIRE_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => Error::from(error),
            Err(_) => Error::from(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        };
        match failed {
            failed if failed.is_transient() && start.elapsed() < ACQUIRE_TIMEOUT => {
                sleep(CONNECT_RETRY_INTERVAL).await;
            }
            Error::Sql(cause) if matches!(*cause, sqlx::Error::Io(_)) => {
                let at = format!(
                    "{}:{}",
                    url.host_str().unwrap_or("localhost"),
                    url.port().unwrap_or(5432)
                );
                return Err(Error::Unreachable { at, cause });
            }
            failed => return Err(failed),
        }
    }
}
