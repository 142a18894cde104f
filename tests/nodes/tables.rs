//! Schema changes under running servers, and servers without DDL rights.

use haversack::db::{Db, SchemaStatus};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row};

use crate::two;
use haversack_testkit::{postgres, text};

#[tokio::test]
async fn migration_under_running_servers_causes_only_transient_503() {
    let [first, second] = two().await;
    let made = first.api.create("a.txt", "text/plain", 5).await;
    let path = format!("/v3/attachments/{}", text(&made, "attachment_id"));
    for app in [&first, &second] {
        app.api.get(&path).await.expect(200);
    }
    let mut connection = AnyConnection::connect(first.database_url.as_str())
        .await
        .expect("PostgreSQL answers");
    sqlx::query("ALTER TABLE attachments ADD COLUMN of_a_later_version TEXT")
        .execute(&mut connection)
        .await
        .expect("a migration");
    for app in [&first, &second] {
        // Both servers have several connections with statements prepared for the old schema.
        let mut responses = Vec::new();
        for _ in 0..10 {
            let response = app.api.get(&path).await;
            if response.status != 200 {
                assert_eq!(
                    (response.error(), response.header("retry-after")),
                    ((503, 4004), "1")
                );
            }
            responses.push(response.status.as_u16());
        }
        assert_eq!(responses[5..], [200; 5], "{responses:?}");
    }
}

#[tokio::test]
async fn role_without_ddl_rights_can_serve() {
    let url = postgres::create_schema()
        .await
        .expect("see tests/cluster/with-postgres.sh");
    drop(Db::open(&url.parse().expect("URL")).await.expect("tables"));
    let mut owner = AnyConnection::connect(&url)
        .await
        .expect("PostgreSQL answers");
    let schema: String = sqlx::query("SELECT current_schema()::text")
        .fetch_one(&mut owner)
        .await
        .expect("schema")
        .get(0);
    for statement in [
        format!("CREATE ROLE {schema} LOGIN"),
        format!("GRANT USAGE ON SCHEMA {schema} TO {schema}"),
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {schema}"
        ),
    ] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut owner)
            .await
            .expect("rights");
    }
    let mut url: url::Url = url.parse().expect("URL");
    url.set_username(&schema).expect("a user");
    let db = Db::open(&url).await.expect("the schema exists");
    assert_eq!(
        db.schema_status().await.expect("tables"),
        SchemaStatus::Current
    );
    db.check().await.expect("it works");
}

#[tokio::test]
async fn postgresql_timeouts_release_locks_of_frozen_server() {
    let [first, _second] = two().await;
    let mut connection = first.db.read().await.expect("connection");
    for (setting, wanted) in [
        ("idle_in_transaction_session_timeout", "30s"),
        ("lock_timeout", "30s"),
        ("statement_timeout", "1min"),
        ("tcp_keepalives_idle", "10"),
    ] {
        let row = sqlx::query("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut *connection)
            .await;
        assert_eq!(
            row.expect("a setting").get::<String, _>(0),
            wanted,
            "{setting}"
        );
    }
}
