//! Erases the types of the closures that write to the database. There are dozens of them; the code
//! that runs them is thus compiled once instead of once per closure.

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::{Connection, Error, TransactionBody};

/// A closure that executes the statements of a write and reports whether to commit.
pub(super) type ErasedWrite =
    Box<dyn for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Executed> + Send>;

/// A write whose statements have been executed, but not committed.
pub(super) struct Executed {
    pub(super) succeeded: bool,
    pub(super) reply: Reply,
}

/// A callback that sends the write's result to the caller once the commit has succeeded or failed.
pub(super) type Reply = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Erases the types of the closure `body`. The returned receiver gets the closure's result, or the
/// error of the commit.
pub(super) fn erase<T, E, F>(body: F) -> (ErasedWrite, oneshot::Receiver<Result<T, E>>)
where
    F: for<'c> TransactionBody<'c, T, E>,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let write: ErasedWrite = Box::new(move |connection| {
        Box::pin(async move {
            let result = body(connection).await;
            Executed {
                succeeded: result.is_ok(),
                reply: Box::new(move |committed| {
                    // Sending fails if the caller was cancelled; its write is committed
                    // nevertheless.
                    let _ = sender
                        .send(result.and_then(|value| committed.map(|()| value).map_err(E::from)));
                }),
            }
        })
    });
    (write, receiver)
}
