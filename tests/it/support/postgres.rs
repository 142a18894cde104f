//! PostgreSQL, if `HAVERSACK_TEST_DATABASE_URL` names one: a schema for each test, so that none sees another's rows.

use sqlx::{AnyConnection, AssertSqlSafe, Connection};

/// The URL of a database that is empty; `None`: tests are to use SQLite.
pub async fn database() -> Option<String> {
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
