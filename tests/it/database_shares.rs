//! Shares of the database: one partner's calls do not delay another's.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use haversack::db::Connection;
use serde_json::{Value, json};
use tokio::sync::Notify;

use haversack_testkit::{Api, LINE, RECIPIENT, RIVAL_LINE, Response, TestApp, text, until, within};

/// A well-formed id that nothing has.
const UNKNOWN: &str = "01900000-0000-7000-8000-000000000000";

/// Returns a message with these inline stickers, at most 100 per text part, and a media part after
/// each text.
fn with_stickers(stickers: &[String], file: &str) -> Value {
    let texts = stickers.chunks(100).map(|ids| {
        let sticker =
            |(at, id): (usize, &String)| json!({"range": [at, at + 1], "attachment_id": id});
        let stickers: Vec<Value> = ids.iter().enumerate().map(sticker).collect();
        json!({"type": "text", "value": "x".repeat(ids.len()), "inline_stickers": stickers})
    });
    let media = || json!({"type": "media", "attachment_id": file});
    json!({"parts": texts.flat_map(|text| [text, media()]).collect::<Vec<_>>()})
}

async fn send(api: &Api, message: &Value) -> Response {
    api.post(
        "/v3/chats",
        &json!({"from": LINE, "to": [RECIPIENT], "message": message}),
    )
    .await
}

#[tokio::test]
async fn stickers_above_limit_of_message_return_400() {
    let app = TestApp::start().await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await.id;
    let of = |count: usize| with_stickers(&vec![file.clone(); count], &file);
    send(&app.api, &of(200)).await.expect(201);
    let refused = send(&app.api, &of(201)).await;
    assert_eq!(refused.error(), (400, 1004));
    assert!(
        refused.message().contains("at most 200 inline_stickers"),
        "{}",
        refused.message()
    );
    let refused = send(&app.api, &of(5000)).await;
    assert_eq!(refused.error(), (400, 1004));
}

#[tokio::test]
async fn stickers_above_limit_of_part_return_400() {
    let app = TestApp::start().await;
    let file = app.api.upload("a.txt", "text/plain", b"hello").await.id;
    let sticker = |at: usize| json!({"range": [at, at + 1], "attachment_id": file});
    let stickers: Vec<Value> = (0..101).map(sticker).collect();
    let part = json!({"type": "text", "value": "x".repeat(101), "inline_stickers": stickers});
    let refused = send(&app.api, &json!({"parts": [part]})).await;
    assert_eq!(refused.error(), (400, 1004));
    assert!(
        refused.message().contains("at most 100 inline_stickers"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn invalid_send_is_rejected_without_the_writer() {
    let app = TestApp::start().await;
    if app.db.is_shared() {
        // PostgreSQL has no single writer, and its budget of connections does not distinguish reads
        // from writes.
        return;
    }
    let file = app.api.upload("a.txt", "text/plain", b"hello").await.id;
    // Blocks the writer, so that any further write would hang.
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let held = tokio::spawn({
        let (db, entered, release) = (app.db.clone(), Arc::clone(&entered), Arc::clone(&release));
        async move {
            db.transaction(async move |_: &mut Connection| {
                entered.notify_one();
                release.notified().await;
                Ok::<_, haversack::db::Error>(())
            })
            .await
        }
    });
    within(entered.notified()).await;
    let mut stickers = vec![file.clone(); 199];
    stickers.push(UNKNOWN.to_owned());
    let refused = within(send(&app.api, &with_stickers(&stickers, &file))).await;
    assert_eq!(
        refused.error(),
        (404, 2003),
        "rejected while the writer is blocked"
    );
    let chat = format!("/v3/chats/{UNKNOWN}/messages");
    let text = json!({"message": {"parts": [{"type": "text", "value": "x"}]}});
    assert_eq!(
        within(app.api.post(&chat, &text)).await.error(),
        (404, 2001)
    );
    let foreign_line = json!({"from": RIVAL_LINE, "to": [RECIPIENT], "message": text["message"]});
    assert_eq!(
        within(app.api.post("/v3/chats", &foreign_line))
            .await
            .error(),
        (403, 2006)
    );
    release.notify_one();
    within(held).await.expect("no panic").expect("committed");
}

#[tokio::test]
async fn partner_at_its_share_of_writes_leaves_room_for_others() {
    let app = TestApp::with(|settings| {
        settings.database.max_writes_per_partner = 2;
        settings.database.connections_per_partner = 2;
        settings.database.connections = 4;
    })
    .await;
    let (budget, total) = if app.db.is_shared() {
        ("database_connections", 3)
    } else {
        ("database_writes", 256)
    };
    let create = json!({"filename": "a.txt", "content_type": "text/plain", "size_bytes": 5});
    // Caches the API keys: on PostgreSQL the look-up of a new key takes a connection for another
    // holder.
    for api in [&app.api, &app.rival] {
        api.get(&format!("/v3/attachments/{UNKNOWN}"))
            .await
            .expect(404);
    }
    let many = join_all((0..64).map(|_| app.api.post("/v3/attachments", &create))).await;
    assert!(
        many.iter().all(|response| response.status == 200),
        "calls beyond the share wait"
    );
    let peak = app.budget_peak(budget);
    assert!(
        (1..=2).contains(&peak),
        "{peak} permits of one partner at once"
    );
    assert_eq!(
        app.metric(&format!("haversack_budget_limit{{budget=\"{budget}\"}}")),
        total
    );

    let both = join_all((0..64).map(|n| {
        let api = if n % 2 == 0 { &app.api } else { &app.rival };
        api.post("/v3/attachments", &create)
    }));
    assert!(both.await.iter().all(|response| response.status == 200));
    let peak = app.budget_peak(budget);
    assert!(
        (1..=4).contains(&peak),
        "{peak} permits of two partners at once"
    );
    until(async || {
        let used = app.budget_used(budget);
        (used == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn reads_of_one_partner_stay_within_its_share() {
    let app = TestApp::with(|settings| {
        settings.database.max_reads_per_partner = 1;
        settings.database.connections_per_partner = 1;
    })
    .await;
    let budget = if app.db.is_shared() {
        "database_connections"
    } else {
        "database_reads"
    };
    app.api.send_text(&[RECIPIENT], "hello").await;
    let lists = join_all((0..64).map(|_| app.api.get("/v3/chats?to=%2B12025550199"))).await;
    assert!(lists.iter().all(|response| response.status == 200));
    for key in ["unknown-key-0123456789", "another-key-0123456789"] {
        assert_eq!(app.api.with_key(key).get("/v3/chats").await.status, 401);
    }
    let peak = app.budget_peak(budget);
    assert!(
        (1..=3).contains(&peak),
        "{peak}: one each for the partner, for unknown keys, and uncounted"
    );
    let refused = app.budget_refusals(budget, "share");
    assert_eq!(refused, 0, "calls beyond the share wait");
}

#[tokio::test]
async fn long_message_takes_more_write_permits() {
    let app = TestApp::start().await;
    if app.db.is_shared() {
        return;
    }
    let file = app.api.upload("a.txt", "text/plain", b"hello").await.id;
    let text = || json!({"type": "text", "value": "é".repeat(10_000)});
    let media = || json!({"type": "media", "attachment_id": file});
    let parts: Vec<Value> = (0..50).flat_map(|_| [text(), media()]).collect();
    app.api.send_parts(json!(parts)).await.expect(201);
    let peak = app.budget_peak("database_writes");
    assert_eq!(peak, 32, "1 MB of text takes the whole share");
}

#[tokio::test]
async fn repeated_send_gets_stored_response_beyond_rate_limit() {
    let app = TestApp::with(|settings| settings.send.rate_limit_messages = 1).await;
    let body = json!({"from": LINE, "to": [RECIPIENT],
        "message": {"parts": [{"type": "text", "value": "once"}], "idempotency_key": "k"}});
    let responses = join_all((0..8).map(|_| app.api.post("/v3/chats", &body))).await;
    let first = &responses[0].json;
    for response in &responses {
        assert_eq!(
            (response.status.as_u16(), &response.json),
            (201, first),
            "the first send has used up the rate limit"
        );
    }
    let list = app.api.get("/v3/chats").await.expect(200);
    assert_eq!(list["chats"].as_array().expect("list").len(), 1);
}

#[tokio::test]
async fn chat_filter_finds_rare_and_common_participants() {
    let app = TestApp::start().await;
    app.api.send_text(&[RECIPIENT], "direct").await;
    app.api
        .send_text(&[RECIPIENT, "ann@example.com"], "group")
        .await;
    app.api.send_text(&["bob@example.com"], "other").await;
    let count = async |query: &str| {
        let list = app.api.get(&format!("/v3/chats?{query}")).await.expect(200);
        list["chats"].as_array().expect("list").len()
    };
    let found = async || {
        let queries = [
            "to=%2B12025550199",
            "to=ann@example.com",
            "to=nobody@example.com",
            "from=%2B12025550100",
            "from=%2B12025550101",
            "from=%2B12025550100&to=%2B12025550199",
        ];
        let mut found = Vec::new();
        for query in queries {
            found.push(count(query).await);
        }
        found
    };
    assert_eq!(found().await, [2, 1, 0, 3, 0, 2]);
    // Inserts rows, since so many sends would take long; the recipient is then common enough for
    // the other plan.
    let chat = app
        .api
        .get("/v3/chats?to=%2B12025550199&limit=1")
        .await
        .expect(200)["chats"][0]["id"]
        .clone();
    add_chats(&app, chat.as_str().expect("id"), 1100).await;
    assert_eq!(
        found().await,
        [20, 1, 0, 20, 0, 20],
        "full pages, by the plan for common participants"
    );
    let mut seen = std::collections::HashSet::new();
    let mut cursor = String::new();
    loop {
        let page = app
            .api
            .get(&format!(
                "/v3/chats?to=%2B12025550199&limit=100&cursor={cursor}"
            ))
            .await
            .expect(200);
        for chat in page["chats"].as_array().expect("list") {
            assert!(
                seen.insert(text(chat, "id").to_owned()),
                "no chat appears twice"
            );
        }
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        next.clone_into(&mut cursor);
    }
    assert_eq!(seen.len(), 1102);
}

/// Copies a chat and its participants `count` times.
async fn add_chats(app: &TestApp, chat: &str, count: usize) {
    let chat = chat.to_owned();
    let copy = app.db.transaction(async move |db: &mut Connection| {
        for n in 0..count {
            let (id, message) = (uuid::Uuid::now_v7().to_string(), uuid::Uuid::now_v7().to_string());
            let statement = "INSERT INTO chats (id, partner_id, line, recipients, last_message_id, created_at, updated_at) \
                SELECT $1, partner_id, line, $2, $3, created_at, updated_at FROM chats WHERE id = $4";
            let recipients = format!("copy {n}");
            let insert = sqlx::query(statement).bind(&id).bind(recipients).bind(&message).bind(&chat);
            insert.execute(&mut *db).await?;
            for other in ["0", "1"] {
                let statement = "INSERT INTO participants (id, chat_id, partner_id, handle, is_me, joined_at) \
                    SELECT $1, $2, partner_id, handle, is_me, joined_at FROM participants \
                    WHERE chat_id = $3 AND is_me = CAST($4 AS BIGINT)";
                let participant = uuid::Uuid::now_v7().to_string();
                // One recipient of the group is enough.
                let limited = format!("{statement} AND handle LIKE '+%'");
                let insert = sqlx::query(sqlx::AssertSqlSafe(limited)).bind(participant).bind(&id).bind(&chat).bind(other);
                insert.execute(&mut *db).await?;
            }
        }
        Ok::<_, haversack::db::Error>(())
    });
    tokio::time::timeout(Duration::from_mins(1), copy)
        .await
        .expect("in time")
        .expect("copied");
}
