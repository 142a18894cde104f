//! Copies tables between databases of either engine. Rows are read with keyset pagination and
//! written as upserts, so a repeated copy is idempotent.

use futures_util::stream::Stream;
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::{Connection, Db, Engine, Error, attachments, keyset, placeholders};
use crate::domain::attachment::Attachment;

/// A table with its key columns.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub name: &'static str,
    key: &'static [&'static str],
}

const fn table(name: &'static str, key: &'static [&'static str]) -> Table {
    Table { name, key }
}

/// Table of attachments. The bytes of attachments are copied before the rows.
pub const ATTACHMENTS: Table = table("attachments", &["id"]);

/// Tables that attachments reference.
pub const BEFORE_ATTACHMENTS: [Table; 1] = [table("partners", &["id"])];

/// All other tables, each after the tables it references. Not copied: `recent_sends`, which is
/// valid for minutes only, `blob_deletions`, which belongs to one store, and `secrets`, the keys
/// that sign URLs.
pub const AFTER_ATTACHMENTS: [Table; 10] = [
    table("api_keys", &["key_hash"]),
    table("lines", &["id"]),
    table("audit_records", &["id"]),
    table("chats", &["id"]),
    table("participants", &["id"]),
    table("messages", &["id"]),
    table("parts", &["message_id", "position"]),
    table("idempotency_keys", &["partner_id", "idempotency_key"]),
    table("fetched_urls", &["partner_id", "url_hash"]),
    table("outbox", &["id"]),
];

/// Tables whose rows are never deleted.
pub const NEVER_DELETED: [Table; 2] = [table("partners", &["id"]), table("messages", &["id"])];

/// Tables whose rows can be deleted.
pub const WITH_DELETIONS: [Table; 2] = [
    table("fetched_urls", &["partner_id", "url_hash"]),
    table("outbox", &["id"]),
];

/// Value of a column in either engine.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    is_text: bool,
}

/// The columns of a table: identical in both databases once their migrations are applied.
#[derive(Clone, Debug)]
pub struct TableSchema {
    table: Table,
    columns: Vec<Column>,
}

/// A row, with its values in the order of the columns.
#[derive(Clone, Debug)]
pub struct Row(Vec<Value>);

impl TableSchema {
    /// Reads the columns from the system catalog.
    pub async fn of(db: &mut Connection, table: Table) -> Result<Self, Error> {
        let statement = match Engine::of_connection(db) {
            Engine::Sqlite => "SELECT name, type AS kind FROM pragma_table_info($1)",
            Engine::Postgres => {
                "SELECT column_name::text AS name, data_type::text AS kind FROM information_schema.columns \
                 WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position"
            }
        };
        let rows = sqlx::query(statement)
            .bind(table.name)
            .fetch_all(db)
            .await?;
        let column = |row: &AnyRow| {
            let kind: String = row.try_get("kind")?;
            Ok(Column {
                name: row.try_get("name")?,
                is_text: kind.eq_ignore_ascii_case("text"),
            })
        };
        Ok(Self {
            table,
            columns: rows.iter().map(column).collect::<Result<_, Error>>()?,
        })
    }

    /// Returns the number of rows.
    pub async fn count(&self, db: &mut Connection) -> Result<u64, Error> {
        let statement = AssertSqlSafe(format!("SELECT COUNT(*) AS rows FROM {}", self.table.name));
        super::row::size(&sqlx::query(statement).fetch_one(db).await?, "rows")
    }

    /// Streams all rows in key order, `size` at a time.
    pub fn pages(&self, db: &Db, size: u32) -> impl Stream<Item = Result<Vec<Row>, Error>> {
        keyset::pages(Row::clone, move |after: Option<Row>| async move {
            let rows = self.fetch(db, after.as_ref(), size).await?;
            rows.iter().map(|row| self.read(row)).collect()
        })
    }

    /// Streams all attachments in key order, `size` at a time, each as a row together with the
    /// parsed attachment.
    pub fn attachment_pages(
        &self,
        db: &Db,
        size: u32,
    ) -> impl Stream<Item = Result<Vec<(Row, Attachment)>, Error>> {
        let key = |(row, _): &(Row, Attachment)| row.clone();
        keyset::pages(key, move |after: Option<Row>| async move {
            let rows = self.fetch(db, after.as_ref(), size).await?;
            rows.iter()
                .map(|row| Ok((self.read(row)?, attachments::read(row)?)))
                .collect()
        })
    }

    /// Returns at most `limit` rows that follow `after` in key order.
    async fn fetch(&self, db: &Db, after: Option<&Row>, limit: u32) -> Result<Vec<AnyRow>, Error> {
        let Table { name, key } = self.table;
        let order = key.join(", ");
        let after = after.map(|row| self.key(row));
        let condition = after.as_ref().map_or(String::new(), |_| {
            format!("WHERE ({order}) > ({})", placeholders::list(1, key.len()))
        });
        // Safe from SQL injection: table names are constants, column names come from the system
        // catalog.
        let statement = AssertSqlSafe(format!(
            "SELECT * FROM {name} {condition} ORDER BY {order} LIMIT {limit}"
        ));
        let query = after
            .unwrap_or_default()
            .into_iter()
            .fold(sqlx::query(statement), bind);
        Ok(query.fetch_all(&mut *db.read().await?).await?)
    }

    /// Inserts a row, or replaces the row with the same key.
    pub async fn write(&self, db: &mut Connection, row: Row) -> Result<(), Error> {
        let Table { name, key } = self.table;
        let columns: Vec<&str> = self
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        let others = columns.iter().filter(|column| !key.contains(column));
        let changes: Vec<String> = others
            .map(|column| format!("{column} = excluded.{column}"))
            .collect();
        let statement = format!(
            "INSERT INTO {name} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}",
            columns.join(", "),
            placeholders::list(1, columns.len()),
            key.join(", "),
            changes.join(", ")
        );
        row.0
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(statement)), bind)
            .execute(db)
            .await?;
        Ok(())
    }

    /// Returns true if a row with the same key exists.
    pub async fn contains(&self, db: &mut Connection, row: &Row) -> Result<bool, Error> {
        let statement = format!(
            "SELECT 1 FROM {} WHERE {}",
            self.table.name,
            self.key_condition()
        );
        let query = self
            .key(row)
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(statement)), bind);
        Ok(query.fetch_optional(db).await?.is_some())
    }

    /// Deletes the row with the same key.
    pub async fn delete(&self, db: &mut Connection, row: &Row) -> Result<(), Error> {
        let statement = format!(
            "DELETE FROM {} WHERE {}",
            self.table.name,
            self.key_condition()
        );
        self.key(row)
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(statement)), bind)
            .execute(db)
            .await?;
        Ok(())
    }

    fn key_condition(&self) -> String {
        let conditions = self
            .table
            .key
            .iter()
            .zip(1..)
            .map(|(column, n)| format!("{column} = ${n}"));
        conditions.collect::<Vec<_>>().join(" AND ")
    }

    fn key(&self, row: &Row) -> Vec<Value> {
        self.table
            .key
            .iter()
            .map(|column| row.0[self.index(column)].clone())
            .collect()
    }

    /// Sets one text column of a row.
    pub fn set(&self, row: &mut Row, column: &str, text: Option<String>) {
        row.0[self.index(column)] = Value::Text(text);
    }

    fn index(&self, column: &str) -> usize {
        self.columns
            .iter()
            .position(|known| known.name == column)
            .expect("a column of this table")
    }

    fn read(&self, row: &AnyRow) -> Result<Row, Error> {
        let value = |column: &Column| {
            let name = column.name.as_str();
            Ok(if column.is_text {
                Value::Text(row.try_get(name)?)
            } else {
                Value::Integer(row.try_get(name)?)
            })
        };
        Ok(Row(self
            .columns
            .iter()
            .map(value)
            .collect::<Result<_, Error>>()?))
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments>;

fn bind(query: Query<'_>, value: Value) -> Query<'_> {
    match value {
        Value::Text(text) => query.bind(text),
        Value::Integer(integer) => query.bind(integer),
    }
}
