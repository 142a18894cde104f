//! Applies migrations, and compares a database's schema with the one that this version expects.

use sqlx::Row as _;

use super::migrations::MIGRATIONS;
use super::{Connection, Engine, Error};

/// How a database's schema compares with the one that this version expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaStatus {
    /// No migration is applied.
    None,
    /// Some migrations are missing.
    Older,
    Current,
    /// Migrations are applied that this version does not know.
    Newer,
}

/// Applies missing migrations. Changes nothing if the schema is current, because the database role
/// might lack the privilege to change it.
pub(super) async fn migrate(connection: &mut Connection) -> Result<(), Error> {
    if status(connection).await? != SchemaStatus::Current {
        MIGRATIONS.run(connection).await?;
    }
    Ok(())
}

pub(super) async fn status(connection: &mut Connection) -> Result<SchemaStatus, Error> {
    let count_tables = match Engine::of_connection(connection) {
        Engine::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE name = '_sqlx_migrations'",
        Engine::Postgres => "SELECT COUNT(to_regclass('_sqlx_migrations'))",
    };
    let tables: i64 = sqlx::query(count_tables)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if tables == 0 {
        return Ok(SchemaStatus::None);
    }
    let rows = sqlx::query("SELECT version FROM _sqlx_migrations")
        .fetch_all(connection)
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
