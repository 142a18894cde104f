//! The one writer. SQLite has one writer at a time whatever we do; here it is one task with one connection, so that
//! nobody waits on a lock, no read is ever upgraded to a write (`SQLITE_BUSY_SNAPSHOT`), and writes that arrive
//! while the disk syncs share the next sync.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::{Connection, Error};

/// Most writes that share one commit: bounds how long the first of them waits for the last.
const MAX_BATCH: usize = 256;
/// Writes that may wait before callers wait to hand theirs in.
const QUEUE: usize = 1024;

/// A write: does its work on the connection and says whether to keep it.
type Job = Box<dyn for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Done> + Send>;

struct Done {
    keep: bool,
    answer: Answer,
}

/// Gives the result to the caller, once it is known whether the commit succeeded.
type Answer = Box<dyn FnOnce(Result<(), Error>) + Send>;

#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<Job>);

impl Writer {
    pub(super) fn spawn(connection: Connection) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(run(connection, receiver));
        Self(sender)
    }

    pub(super) async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            Box::pin(async move {
                let result = work(connection).await;
                Done {
                    keep: result.is_ok(),
                    answer: Box::new(move |committed| {
                        // The caller may have gone; what it asked for is done all the same.
                        let _ = sender.send(result.and_then(|value| committed.map(|()| value).map_err(E::from)));
                    }),
                }
            })
        });
        self.0.send(job).await.map_err(|_| Error::Abandoned)?;
        receiver.await.unwrap_or_else(|_| Err(Error::Abandoned.into()))
    }
}

async fn run(mut connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.recv().await {
        let mut answers = Vec::new();
        let committed = batch(&mut connection, first, &mut jobs, &mut answers).await;
        if committed.is_err() {
            // A full disk makes SQLite roll back by itself; then there is nothing left to roll back.
            let _ = execute(&mut connection, "ROLLBACK").await;
        }
        for answer in answers {
            answer(committed.clone());
        }
    }
}

async fn batch(
    connection: &mut Connection,
    first: Job,
    jobs: &mut mpsc::Receiver<Job>,
    answers: &mut Vec<Answer>,
) -> Result<(), Error> {
    execute(connection, "BEGIN IMMEDIATE").await?;
    let mut next = Some(first);
    while let Some(job) = next {
        execute(connection, "SAVEPOINT job").await?;
        // A panic must not take the writer with it; the caller then gets `Abandoned`, as its sender is dropped.
        let done = AssertUnwindSafe(job(connection)).catch_unwind().await;
        let keep = done.as_ref().is_ok_and(|done| done.keep);
        answers.extend(done.ok().map(|done| done.answer));
        if !keep {
            execute(connection, "ROLLBACK TO job").await?;
        }
        execute(connection, "RELEASE job").await?;
        next = if answers.len() < MAX_BATCH { jobs.try_recv().ok() } else { None };
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
        let url = format!("sqlite://{}/test.db?mode=rwc", folder.path().display()).parse().expect("URL");
        (Db::open(&url).await.expect("database"), folder)
    }

    async fn insert(db: &Db, name: &'static str, fail: bool) -> Result<(), Error> {
        db.write(move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO partners (id, name, created_at) VALUES ($1, $1, 0)")
                    .bind(name)
                    .execute(connection)
                    .await?;
                assert!(name != "panic", "a bug in the work");
                if fail { Err(Error::Abandoned) } else { Ok(()) }
            })
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
    async fn one_failure_in_a_batch_leaves_the_others() {
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
    async fn a_duplicate_is_told_as_such() {
        let (db, _folder) = open().await;
        insert(&db, "a", false).await.expect("first");
        assert!(insert(&db, "a", false).await.expect_err("second").is_duplicate());
    }

    #[tokio::test]
    async fn two_hundred_writers_all_get_through() {
        let (db, _folder) = open().await;
        let names: Vec<&'static str> = (0..200).map(|n| &*format!("n{n}").leak()).collect();
        let results = futures_util::future::join_all(names.iter().map(|name| insert(&db, name, false))).await;
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(self::names(&db).await.len(), 200);
    }
}
