//! Retention of idempotency keys, audit records and the sends counted by the rate limit.

use std::time::Duration;

use haversack::db::Connection;
use haversack::setting::Retention;
use serde_json::json;
use sqlx::Row as _;

use haversack_testkit::{LINE, RECIPIENT, TestApp};

const DAY: Duration = Duration::from_hours(24);

async fn count(app: &TestApp, table: &'static str) -> i64 {
    let statement = sqlx::AssertSqlSafe(format!("SELECT COUNT(*) AS rows FROM {table}"));
    let mut db = app.db.read().await.expect("connection");
    sqlx::query(statement)
        .fetch_one(&mut *db)
        .await
        .expect("a count")
        .get("rows")
}

async fn send_and_delete(app: &TestApp) {
    let body = json!({"from": LINE, "to": [RECIPIENT],
        "message": {"parts": [{"type": "text", "value": "x"}], "idempotency_key": "key"}});
    app.api.post("/v3/chats", &body).await.expect(201);
    let id = app.api.upload("a.txt", "text/plain", b"hello").await.id;
    assert_eq!(
        app.api
            .delete(&format!("/v3/attachments/{id}"))
            .await
            .status,
        204
    );
    assert_eq!(
        (
            count(app, "idempotency_keys").await,
            count(app, "audit_records").await
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn idempotency_keys_and_audit_records_are_deleted_after_retention() {
    let app = TestApp::with(|settings| {
        settings.retention.audit_records = Retention(Some(Duration::from_hours(24 * 60)));
    })
    .await;
    send_and_delete(&app).await;
    app.clock.advance(30 * DAY);
    app.background.sweep().await.expect("swept");
    assert_eq!(
        count(&app, "idempotency_keys").await,
        1,
        "kept until the retention has passed"
    );
    app.clock.advance(Duration::from_secs(1));
    app.background.sweep().await.expect("swept");
    assert_eq!(
        (
            count(&app, "idempotency_keys").await,
            count(&app, "audit_records").await
        ),
        (0, 1)
    );
    assert_eq!(count(&app, "recent_sends").await, 0);
    app.clock.advance(30 * DAY);
    app.background.sweep().await.expect("swept");
    assert_eq!(count(&app, "audit_records").await, 0);
}

#[tokio::test]
async fn retention_of_zero_keeps_rows_forever() {
    let app = TestApp::with(|settings| {
        settings.retention.audit_records = Retention(None);
        settings.retention.idempotency = Retention(None);
    })
    .await;
    send_and_delete(&app).await;
    app.clock.advance(4000 * DAY);
    app.background.sweep().await.expect("swept");
    assert_eq!(
        (
            count(&app, "idempotency_keys").await,
            count(&app, "audit_records").await
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn one_sweep_deletes_more_rows_than_a_batch() {
    let app = TestApp::start().await;
    let insert = app.db.transaction(async |db: &mut Connection| {
        for n in 0..1201 {
            let statement = "INSERT INTO idempotency_keys \
                (partner_id, idempotency_key, message_id, status, body, created_at) VALUES ('p', $1, 'm', 201, '{}', 0)";
            sqlx::query(statement).bind(format!("key {n}")).execute(&mut *db).await?;
            let statement = "INSERT INTO recent_sends (line, recipient, sent_at) VALUES ('l', 'r', $1)";
            sqlx::query(statement).bind(i64::from(n / 3)).execute(&mut *db).await?;
        }
        Ok::<_, haversack::db::Error>(())
    });
    insert.await.expect("inserted");
    app.background.sweep().await.expect("swept");
    assert_eq!(
        (
            count(&app, "idempotency_keys").await,
            count(&app, "recent_sends").await
        ),
        (0, 0)
    );
}
