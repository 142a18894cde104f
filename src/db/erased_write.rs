//! Writes without their types. A program has dozens of closures that write; what runs them is
//! compiled once instead of once per closure.

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::{Connection, Error, TransactionBody};

/// The statements of a write, which report whether to commit.
pub(super) type ErasedWrite =
    Box<dyn for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Executed> + Send>;

/// A write whose statements have been executed, but not committed.
pub(super) struct Executed {
    pub(super) succeeded: bool,
    pub(super) reply: Reply,
}

/// Sends the result to the caller once the commit has succeeded or failed.
pub(super) type Reply = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Erases the types of `body`. The receiver gets its result, or the error of the commit.
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
                    // The caller may have been cancelled; its write is committed nevertheless.
                    let _ = sender
                        .send(result.and_then(|value| committed.map(|()| value).map_err(E::from)));
                }),
            }
        })
    });
    (write, receiver)
}
