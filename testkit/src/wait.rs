//! Waiting without sleeping.

use std::time::Duration;

/// No step of a test takes this long unless it hangs.
const HANG_TIMEOUT: Duration = Duration::from_secs(30);

/// Awaits a future, and panics if it hangs.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG_TIMEOUT, work)
        .await
        .expect("this hangs")
}

/// Polls until the closure returns a value, and panics if it never does.
pub async fn until<T, F: Future<Output = Option<T>>>(mut poll: impl FnMut() -> F) -> T {
    within(async {
        loop {
            if let Some(value) = poll().await {
                return value;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
