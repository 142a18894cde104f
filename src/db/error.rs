//! Defines database errors and tells which of them are transient.

use std::sync::Arc;
use std::time::Duration;

use super::postgres;
use crate::budget::AtCapacity;
use crate::quote::quoted;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A statement failed.
    #[error("database: {}", describe(.0))]
    Sql(Arc<sqlx::Error>),
    /// PostgreSQL did not answer at startup.
    #[error(
        "database: PostgreSQL at {at} is not reachable ({cause}): start it, or correct HAVERSACK_DATABASE_URL"
    )]
    Unreachable {
        /// Host and port of the server.
        at: String,
        cause: Arc<sqlx::Error>,
    },
    #[error("database migration: {}", describe_migration(.0))]
    Migration(Arc<sqlx::migrate::MigrateError>),
    /// A stored value does not have the format that this version writes.
    #[error("database: column {column} holds {}, which this version cannot read", quoted(.value))]
    Unreadable { column: &'static str, value: String },
    /// The database settings do not make commits durable.
    #[error(
        "database: {setting} is {found:?} but must be {wanted}, or a power cut would lose acknowledged data"
    )]
    NotDurable {
        /// Name of the SQLite or PostgreSQL setting.
        setting: &'static str,
        /// Value of the setting, as read back from the database.
        found: String,
        wanted: &'static str,
    },
    /// The scheme of the database URL is not supported.
    #[error("database: {0}: is not supported; use sqlite: or postgres:")]
    UnknownKind(String),
    /// The task that carried out the write ended before its commit.
    #[error("database: the write was not carried out")]
    Abandoned,
    /// Other holders of named locks did not release them in time.
    #[error("database: no lock was released in {} s", .0.as_secs())]
    LockTimeout(Duration),
    /// A budget of connections or writes is used up.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
}

/// Describes an error for operators. A pool timeout is described as a server that does not answer,
/// its usual cause.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => {
            "no connection became available in time: the server is unreachable, or all are in use"
                .to_owned()
        }
        other => other.to_string(),
    }
}

fn describe_migration(error: &sqlx::migrate::MigrateError) -> String {
    match error {
        sqlx::migrate::MigrateError::VersionMissing(number) => format!(
            "version {number} is applied but unknown to this program: the schema is that of a newer \
             version; run that version, or restore a backup made before the upgrade"
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
    /// Returns true if the statement violated a UNIQUE or PRIMARY KEY constraint.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Sql(error) if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation))
    }

    /// Returns true if a retry can succeed: the database is unreachable, starting or stopping, out
    /// of connections, or aborted the transaction in favour of another.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use sqlx::Error as E;
        let error = match self {
            Self::Sql(error) => error,
            other => return matches!(other, Self::AtCapacity(_) | Self::LockTimeout(_)),
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
