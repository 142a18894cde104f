//! Opens a database: creates the connection pools, applies migrations and checks that commits are
//! durable.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyPool, ConnectOptions, Connection as _};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::Url;

use super::{Connection, Db, Engine, Error, group_commit, locks, postgres, schema, sqlite};

/// Number of connections that read from SQLite.
pub const SQLITE_READERS: u32 = 5;
/// Default number of connections to PostgreSQL.
const DEFAULT_CONNECTIONS: u32 = 4;
/// Maximum number of named locks held at a time; each occupies a connection.
pub const LOCK_CONNECTIONS: u32 = 8;
/// Maximum wait for a free connection, or for another process (such as `haversack partner add`) to
/// finish writing.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of attempts to connect to a PostgreSQL server that is starting.
const CONNECT_RETRY_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenMode {
    Migrate,
    Inspect,
}

impl Db {
    /// Opens the database, applies migrations, and verifies that commits are durable. Several
    /// servers may do so at once: one of them applies the migrations, and the others wait.
    ///
    /// # Errors
    /// The database cannot be opened or migrated, or is not durable.
    pub async fn open(url: &Url) -> Result<Self, Error> {
        Self::connect(url, OpenMode::Migrate, DEFAULT_CONNECTIONS).await
    }

    /// Opens the database like [`Db::open`], with a maximum number of connections to PostgreSQL.
    ///
    /// # Errors
    /// The database cannot be opened or migrated, or is not durable.
    pub async fn open_with(url: &Url, connections: u32) -> Result<Self, Error> {
        Self::connect(url, OpenMode::Migrate, connections).await
    }

    /// Opens the database without applying migrations.
    ///
    /// # Errors
    /// The database cannot be opened, or is not durable.
    pub async fn open_unchanged(url: &Url) -> Result<Self, Error> {
        Self::connect(url, OpenMode::Inspect, DEFAULT_CONNECTIONS).await
    }

    async fn connect(url: &Url, mode: OpenMode, connections: u32) -> Result<Self, Error> {
        let engine = Engine::of(url).ok_or_else(|| Error::UnknownKind(url.scheme().to_owned()))?;
        sqlx::any::install_default_drivers();
        let options = AnyConnectOptions::from_str(url.as_str())?.disable_statement_logging();
        let mut connection = match engine {
            Engine::Sqlite => {
                let options = options.clone();
                let pool = pool_options(engine, 1, postgres::IDLE_IN_TRANSACTION);
                let pool = pool.connect_with(options).await?;
                pool.acquire().await?.detach()
            }
            Engine::Postgres => connect_with_retry(url, &options).await?,
        };
        if mode == OpenMode::Migrate {
            schema::migrate(&mut connection).await?;
        }
        let (readers, writer) = match engine {
            Engine::Sqlite => {
                sqlite::check_durability(&mut connection).await?;
                let writer = group_commit::Writer::spawn(connection);
                (SQLITE_READERS, Some(writer))
            }
            Engine::Postgres => {
                postgres::check_durability(&mut connection).await?;
                connection.close().await?;
                (connections, None)
            }
        };
        let pool = |size, idle_in_transaction| -> AnyPool {
            pool_options(engine, size, idle_in_transaction).connect_lazy_with(options.clone())
        };
        Ok(Self {
            engine,
            pool: pool(readers, postgres::IDLE_IN_TRANSACTION),
            lock_pool: pool(LOCK_CONNECTIONS, postgres::IDLE_WITH_LOCK),
            lock_permits: Arc::new(Semaphore::new(LOCK_CONNECTIONS as usize)),
            local_locks: locks::ProcessLocks::default(),
            writer,
        })
    }
}

fn pool_options(engine: Engine, size: u32, idle_in_transaction: &'static str) -> AnyPoolOptions {
    let options = AnyPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime((engine == Engine::Postgres).then_some(postgres::MAX_LIFETIME))
        .test_before_acquire(false);
    match engine {
        Engine::Sqlite => {
            options.after_connect(|connection, _| Box::pin(sqlite::prepare(connection)))
        }
        Engine::Postgres => options
            .after_connect(move |connection, _| {
                Box::pin(postgres::prepare(connection, idle_in_transaction))
            })
            .before_acquire(|connection, idle| Box::pin(postgres::is_alive(connection, idle))),
    }
}

/// Opens the first connection to PostgreSQL, which may still be starting. It connects without a
/// pool, because a pool reports only a timeout and hides the cause.
async fn connect_with_retry(url: &Url, options: &AnyConnectOptions) -> Result<Connection, Error> {
    let connect = || async {
        match timeout(ACQUIRE_TIMEOUT, options.connect()).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Error::from(sqlx::Error::Io(
                std::io::ErrorKind::TimedOut.into(),
            ))),
        }
    };
    let backoff = ConstantBuilder::new()
        .with_delay(CONNECT_RETRY_INTERVAL)
        .without_max_times();
    let start = Instant::now();
    let connected = connect
        .retry(backoff)
        .when(|error| error.is_transient() && start.elapsed() < ACQUIRE_TIMEOUT)
        .await;
    connected.map_err(|error| match error {
        Error::Sql(cause) if matches!(*cause, sqlx::Error::Io(_)) => Error::Unreachable {
            at: format!(
                "{}:{}",
                url.host_str().unwrap_or("localhost"),
                url.port().unwrap_or(5432)
            ),
            cause,
        },
        other => other,
    })
}
