//! What is particular to PostgreSQL: transactions, whether commits are safe, and which failures pass.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::pool::PoolConnectionMetadata;
use sqlx::{AnyPool, Connection as _, Row};
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::{Connection, Error};
use crate::clock::Timestamp;

/// A connection that was idle for longer is asked whether it is still one before it is used: the server may have been
/// restarted, or a firewall may have forgotten it.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How long it may take to answer that.
const PING: Duration = Duration::from_secs(2);

/// The longest a connection is kept.
pub(super) const LIFETIME: Duration = Duration::from_mins(30);
/// How the server finds out that one of us is gone without having said so, lets go of what a frozen one holds, and gives
/// up what takes too long. Without these, the locks of a server that lost its power would be held for hours.
const SETTINGS: &str = "SELECT set_config('tcp_keepalives_idle', '10', false), \
    set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false), \
    set_config('statement_timeout', '60s', false), set_config('lock_timeout', '30s', false), \
    set_config('idle_in_transaction_session_timeout', $1, false)";
/// How long a transaction may wait for us.
pub(super) const IDLE_IN_TRANSACTION: &str = "30s";
/// The same of a transaction that holds a name while files are copied and converted.
pub(super) const IDLE_WITH_LOCK: &str = "15min";

/// When tables were last found to be others than a connection's statements were made for: connections that are older are
/// not used again.
static TABLES_CHANGED: Mutex<Option<Instant>> = Mutex::new(None);

pub(super) async fn prepare(connection: &mut Connection, idle_in_transaction: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(SETTINGS).bind(idle_in_transaction).execute(connection).await.map(drop)
}

/// Takes note of a failure that says something of all connections.
pub(super) fn note(error: &sqlx::Error) {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    if code.as_deref() == Some(CACHED_PLAN) {
        *TABLES_CHANGED.lock().expect("no panic while locked") = Some(Instant::now());
    }
}

/// Runs `work` in a transaction of its own, in a task that nobody's patience ends.
pub(super) async fn write<T, E, F>(pool: &AnyPool, work: F) -> Result<T, E>
where
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let pool = pool.clone();
    let transaction = async move {
        let mut transaction = pool.begin().await.map_err(Error::from)?;
        let value = work(&mut transaction).await?;
        transaction.commit().await.map_err(Error::from)?;
        Ok(value)
    };
    tokio::spawn(transaction.in_current_span()).await.unwrap_or_else(|_| Err(Error::Abandoned.into()))
}

/// Whether a connection of the pool can be used.
pub(super) async fn is_alive(connection: &mut Connection, idle: PoolConnectionMetadata) -> Result<bool, sqlx::Error> {
    let changed = *TABLES_CHANGED.lock().expect("no panic while locked");
    if changed.is_some_and(|changed| changed.elapsed() < idle.age) {
        return Ok(false);
    }
    Ok(idle.idle_for < TRUSTED_FOR || timeout(PING, connection.ping()).await.is_ok_and(|answer| answer.is_ok()))
}

/// Acknowledged means on disk, there too.
pub(super) async fn check_durability(connection: &mut Connection) -> Result<(), Error> {
    for setting in ["fsync", "synchronous_commit"] {
        let row = sqlx::query("SELECT current_setting($1)").bind(setting).fetch_one(&mut *connection).await?;
        let found: String = row.try_get(0)?;
        if found == "off" {
            return Err(Error::NotDurable { setting, found, wanted: "\"on\"" });
        }
    }
    Ok(())
}

/// What the server says of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Its version.
    pub version: String,
    /// How the database holds text.
    pub encoding: String,
    /// Connections it takes, of everybody together.
    pub max_connections: i64,
    /// Its time.
    pub now: Timestamp,
}

pub(super) async fn about(connection: &mut Connection) -> Result<About, Error> {
    let statement = "SELECT current_setting('server_version'), current_setting('server_encoding'), \
                     CAST(current_setting('max_connections') AS BIGINT), \
                     CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
    let row = sqlx::query(statement).fetch_one(connection).await?;
    let version: String = row.try_get(0)?;
    Ok(About {
        // Distributions add what theirs is called.
        version: version.split(' ').next().unwrap_or_default().to_owned(),
        encoding: row.try_get(1)?,
        max_connections: row.try_get(2)?,
        now: Timestamp::from_millis(row.try_get(3)?),
    })
}

/// "cached plan must not change result type": a migration has changed a table under a running server.
const CACHED_PLAN: &str = "0A000";

/// Whether what failed with this SQLSTATE may succeed in a moment (PostgreSQL documentation, appendix A).
pub(super) fn is_passing(sqlstate: &str) -> bool {
    // Connection exceptions, insufficient resources, operator intervention; serialization failure and deadlock; a server
    // that became a replica; a transaction that was idle or waited for too long.
    ["08", "53", "57"].iter().any(|class| sqlstate.starts_with(class))
        || matches!(sqlstate, "40001" | "40P01" | "25006" | "25P03" | "55P03" | CACHED_PLAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_and_what_does_not() {
        for code in ["08006", "53300", "57P01", "57P03", "40001", "40P01", "55P03", "0A000"] {
            assert!(is_passing(code), "{code}");
        }
        for code in ["23505", "42P01", "22021", "40002"] {
            assert!(!is_passing(code), "{code}");
        }
    }
}
