//! PostgreSQL, if `HAVERSACK_TEST_DATABASE_URL` names a server: one schema per test.

use sqlx::{AnyConnection, AssertSqlSafe, Connection};

/// Creates an empty schema and returns its URL, or `None` if the tests run on SQLite.
pub async fn create_schema() -> Option<String> {
    let url = std::env::var("HAVERSACK_TEST_DATABASE_URL").ok()?;
    sqlx::any::install_default_drivers();
    let schema = format!("test_{}", uuid::Uuid::now_v7().simple());
    let mut connection = AnyConnection::connect(&url)
        .await
        .expect("PostgreSQL answers");
    let statement = AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    sqlx::query(statement)
        .execute(&mut connection)
        .await
        .expect("schema");
    connection.close().await.expect("close");
    Some(format!("{url}?options[search_path]={schema}"))
}
