//! Generates trace ids. Each request has one, which appears in the `X-Trace-ID` header, in error
//! bodies, in stored messages and in log lines.

use std::fmt;

use crate::id::random_bytes;

tokio::task_local! {
    static CURRENT: TraceId;
}

/// A random 128-bit trace id, displayed as 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub(super) struct TraceId(u128);

impl TraceId {
    pub(super) fn random() -> Self {
        Self(u128::from_ne_bytes(random_bytes()))
    }

    /// Returns the trace id of the request that the current task handles, or all zeros outside a
    /// request.
    pub(super) fn current() -> Self {
        CURRENT.try_with(|id| *id).unwrap_or(Self(0))
    }

    /// Runs a future with this id as the current trace id.
    pub(super) async fn scope<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
