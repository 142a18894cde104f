//! Configures PostgreSQL sessions, runs transactions, checks that commits are durable, and
//! classifies transient errors.

use std::sync::Mutex;
use std::time::Duration;

use sqlx::pool::PoolConnectionMetadata;
use sqlx::{AnyPool, Connection as _, Row};
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::erased_write::ErasedWrite;
use super::{Connection, Error};
use crate::clock::Timestamp;

/// A pooled connection that was idle for longer is pinged before use: the server may have been
/// restarted, or a firewall may have dropped its connection state.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
/// Timeout of the ping that checks an idle connection.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum lifetime of a pooled connection.
pub(super) const MAX_LIFETIME: Duration = Duration::from_mins(30);
/// Session settings: TCP keepalives detect a crashed client; timeouts release the locks of a frozen
/// client and cancel slow statements. Without these settings, the locks of a server that lost power
/// would be held for hours.
const SESSION_SETTINGS: &str = "SELECT set_config('tcp_keepalives_idle', '10', false), \
    set_config('tcp_keepalives_interval', '5', false), set_config('tcp_keepalives_count', '3', false), \
    set_config('statement_timeout', '60s', false), set_config('lock_timeout', '30s', false), \
    set_config('idle_in_transaction_session_timeout', $1, false)";
/// Idle timeout within a transaction.
pub(super) const IDLE_IN_TRANSACTION: &str = "30s";
/// Idle timeout within a transaction that holds an exclusive lock while files are copied and
/// transcoded.
pub(super) const IDLE_WITH_LOCK: &str = "15min";

/// Time at which a cached-plan error last showed a schema change. Connections opened before it are
/// discarded.
static SCHEMA_CHANGED: Mutex<Option<Instant>> = Mutex::new(None);

pub(super) async fn prepare(
    connection: &mut Connection,
    idle_in_transaction: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(SESSION_SETTINGS)
        .bind(idle_in_transaction)
        .execute(connection)
        .await
        .map(drop)
}

/// Records an error that shows a schema change, because it concerns all connections.
pub(super) fn record_error(error: &sqlx::Error) {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    if code.as_deref() == Some(CACHED_PLAN) {
        *SCHEMA_CHANGED.lock().expect("no panic while locked") = Some(Instant::now());
    }
}

/// Runs a write in its own transaction. A detached task runs it, so it continues even if the caller
/// is cancelled. Fails without a reply if the transaction cannot begin.
pub(super) async fn write(pool: &AnyPool, write: ErasedWrite) -> Result<(), Error> {
    let pool = pool.clone();
    let transaction = async move {
        let mut transaction = pool.begin().await?;
        let executed = write(&mut transaction).await;
        let committed = if executed.succeeded {
            transaction.commit().await.map_err(Error::from)
        } else {
            drop(transaction);
            Ok(())
        };
        (executed.reply)(committed);
        Ok(())
    };
    tokio::spawn(transaction.in_current_span())
        .await
        .unwrap_or(Err(Error::Abandoned))
}

/// Returns true if a pooled connection can still be used.
pub(super) async fn is_alive(
    connection: &mut Connection,
    idle: PoolConnectionMetadata,
) -> Result<bool, sqlx::Error> {
    let changed = *SCHEMA_CHANGED.lock().expect("no panic while locked");
    if changed.is_some_and(|changed| changed.elapsed() < idle.age) {
        return Ok(false);
    }
    Ok(idle.idle_for < PING_AFTER_IDLE
        || timeout(PING_TIMEOUT, connection.ping())
            .await
            .is_ok_and(|answer| answer.is_ok()))
}

/// Fails unless commits are durable: `fsync` and `synchronous_commit` must not be off.
pub(super) async fn check_durability(connection: &mut Connection) -> Result<(), Error> {
    for setting in ["fsync", "synchronous_commit"] {
        let row = sqlx::query("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut *connection)
            .await?;
        let found: String = row.try_get(0)?;
        if found == "off" {
            return Err(Error::NotDurable {
                setting,
                found,
                wanted: "\"on\"",
            });
        }
    }
    Ok(())
}

/// Version, settings and time of the database server.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    pub version: String,
    /// Character encoding of the server.
    pub encoding: String,
    /// Connection limit of the server, shared by all clients.
    pub max_connections: i64,
    pub now: Timestamp,
}

pub(super) async fn server_info(connection: &mut Connection) -> Result<ServerInfo, Error> {
    let statement = "SELECT current_setting('server_version'), current_setting('server_encoding'), \
                     CAST(current_setting('max_connections') AS BIGINT), \
                     CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
    let row = sqlx::query(statement).fetch_one(connection).await?;
    let version: String = row.try_get(0)?;
    Ok(ServerInfo {
        // Linux distributions append their package version, which is cut off here.
        version: version.split(' ').next().unwrap_or_default().to_owned(),
        encoding: row.try_get(1)?,
        max_connections: row.try_get(2)?,
        now: Timestamp::from_millis(row.try_get(3)?),
    })
}

/// SQLSTATE of "cached plan must not change result type": a migration changed a table that a server
/// was using.
const CACHED_PLAN: &str = "0A000";

/// Returns true if an error with this SQLSTATE is transient (PostgreSQL documentation, appendix A).
pub(super) fn is_transient(sqlstate: &str) -> bool {
    // In this order: connection exceptions, insufficient resources, operator intervention;
    // serialization failure and deadlock; a server demoted to a replica; idle-in-transaction and
    // lock timeouts; changed schema.
    ["08", "53", "57"]
        .iter()
        .any(|class| sqlstate.starts_with(class))
        || matches!(
            sqlstate,
            "40001" | "40P01" | "25006" | "25P03" | "55P03" | CACHED_PLAN
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_errors_are_distinguished_from_permanent_ones() {
        for code in [
            "08006", "53300", "57P01", "57P03", "40001", "40P01", "55P03", "0A000",
        ] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["23505", "42P01", "22021", "40002"] {
            assert!(!is_transient(code), "{code}");
        }
    }
}
