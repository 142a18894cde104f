//! Configures SQLite connections and checks that commits are durable.

use sqlx::Row;

use super::{Connection, Error};

pub(super) async fn prepare(connection: &mut Connection) -> Result<(), sqlx::Error> {
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

/// Fails unless commits are durable. SQLite silently ignores a PRAGMA that it cannot honour, such
/// as WAL on a network file system.
pub(super) async fn check_durability(connection: &mut Connection) -> Result<(), Error> {
    let journal: String = sqlx::query("PRAGMA journal_mode")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let synchronous: i64 = sqlx::query("PRAGMA synchronous")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let wal = "\"wal\": use a database file on a local disk";
    for (setting, found, is_right, wanted) in [
        ("journal_mode", &journal, journal == "wal", wal),
        (
            "synchronous",
            &synchronous.to_string(),
            synchronous == 2,
            "\"2\" (FULL)",
        ),
    ] {
        if !is_right {
            return Err(Error::NotDurable {
                setting,
                found: found.clone(),
                wanted,
            });
        }
    }
    Ok(())
}
