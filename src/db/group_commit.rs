//! Combines concurrent SQLite writes into one commit (group commit). SQLite allows one writer at a
//! time; here, a single task with one connection is the writer. So no caller waits for a lock, no
//! read is upgraded to a write (`SQLITE_BUSY_SNAPSHOT`), and writes that arrive during an fsync
//! share the next commit.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::erased_write::{ErasedWrite, Reply};
use super::{Connection, Error};

/// Maximum number of writes per commit. It limits how long the first write of a commit waits for
/// the last.
const MAX_BATCH: usize = 256;
/// Capacity of the write queue; callers wait while it is full.
const QUEUE_CAPACITY: usize = 1024;

#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<ErasedWrite>);

impl Writer {
    pub(super) fn spawn(connection: Connection) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
        tokio::spawn(run(connection, receiver));
        Self(sender)
    }

    /// Queues a write. The write's reply is sent after the commit.
    pub(super) async fn enqueue(&self, write: ErasedWrite) -> Result<(), Error> {
        self.0.send(write).await.map_err(|_| Error::Abandoned)
    }
}

async fn run(mut connection: Connection, mut queue: mpsc::Receiver<ErasedWrite>) {
    while let Some(first) = queue.recv().await {
        let mut replies = Vec::new();
        let committed = commit_batch(&mut connection, first, &mut queue, &mut replies).await;
        if committed.is_err() {
            // The result is ignored: on a full disk SQLite rolls back by itself, and this statement
            // fails.
            let _ = execute(&mut connection, "ROLLBACK").await;
        }
        for reply in replies {
            reply(committed.clone());
        }
    }
}

/// Commits the write `first` and the writes queued behind it in one transaction, each write in its
/// own savepoint.
async fn commit_batch(
    connection: &mut Connection,
    first: ErasedWrite,
    queue: &mut mpsc::Receiver<ErasedWrite>,
    replies: &mut Vec<Reply>,
) -> Result<(), Error> {
    execute(connection, "BEGIN IMMEDIATE").await?;
    let mut next = Some(first);
    while let Some(write) = next {
        execute(connection, "SAVEPOINT write").await?;
        // A panic in a write must not end the writer task. The panic drops the write's sender, so
        // the caller receives `Abandoned`.
        let executed = AssertUnwindSafe(write(connection)).catch_unwind().await;
        let succeeded = executed.as_ref().is_ok_and(|executed| executed.succeeded);
        replies.extend(executed.ok().map(|executed| executed.reply));
        if !succeeded {
            execute(connection, "ROLLBACK TO write").await?;
        }
        execute(connection, "RELEASE write").await?;
        next = if replies.len() < MAX_BATCH {
            queue.try_recv().ok()
        } else {
            None
        };
    }
    execute(connection, "COMMIT").await
}

async fn execute(connection: &mut Connection, statement: &'static str) -> Result<(), Error> {
    sqlx::query(statement).execute(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Db;
    use super::*;
    use sqlx::Row;

    async fn open() -> (Db, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let url = format!("sqlite://{}/test.db?mode=rwc", folder.path().display())
            .parse()
            .expect("URL");
        (Db::open(&url).await.expect("database"), folder)
    }

    async fn insert(db: &Db, name: &'static str, fail: bool) -> Result<(), Error> {
        db.transaction(async move |connection: &mut Connection| {
            sqlx::query("INSERT INTO partners (id, name, created_at) VALUES ($1, $1, 0)")
                .bind(name)
                .execute(connection)
                .await?;
            assert!(name != "panic", "a bug in the work");
            if fail { Err(Error::Abandoned) } else { Ok(()) }
        })
        .await
    }

    async fn names(db: &Db) -> Vec<String> {
        let rows = sqlx::query("SELECT name FROM partners ORDER BY name")
            .fetch_all(&mut *db.read().await.expect("reader"))
            .await
            .expect("names");
        rows.iter().map(|row| row.get(0)).collect()
    }

    #[tokio::test]
    async fn failure_in_a_batch_does_not_affect_the_others() {
        let (db, _folder) = open().await;
        let (a, b, c, d) = tokio::join!(
            insert(&db, "a", false),
            insert(&db, "b", true),
            insert(&db, "panic", false),
            insert(&db, "d", false)
        );
        assert!(a.is_ok() && d.is_ok());
        assert!(matches!(b, Err(Error::Abandoned)));
        assert!(matches!(c, Err(Error::Abandoned)));
        assert_eq!(names(&db).await, ["a", "d"]);
    }

    #[tokio::test]
    async fn duplicate_key_is_reported_as_duplicate() {
        let (db, _folder) = open().await;
        insert(&db, "a", false).await.expect("first");
        assert!(
            insert(&db, "a", false)
                .await
                .expect_err("second")
                .is_duplicate()
        );
    }

    #[tokio::test]
    async fn two_hundred_concurrent_writers_all_succeed() {
        let (db, _folder) = open().await;
        let names: Vec<&'static str> = (0..200).map(|n| &*format!("n{n}").leak()).collect();
        let results =
            futures_util::future::join_all(names.iter().map(|name| insert(&db, name, false))).await;
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(self::names(&db).await.len(), 200);
    }
}
