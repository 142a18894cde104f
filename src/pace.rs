//! Enforces a minimum transfer rate with a grace period, to protect against slow peers (Slowloris).
//!
//! The rate is measured by a token bucket whose tokens are time: waiting for the peer spends
//! tokens, and each transferred byte earns them at the minimum rate. A peer whose bucket is empty
//! is too slow. In addition, the idle timeout limits each single wait.

use std::time::Duration;

/// The token bucket of one transfer.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    idle_timeout: Duration,
    /// Minimum rate in bytes per second.
    min_rate: u64,
    capacity: Duration,
    tokens: Duration,
}

impl Pace {
    /// Requires the minimum rate at all times: the bucket holds at most the grace period, so a fast
    /// start does not permit a long stall later.
    pub(crate) fn sustained(idle_timeout: Duration, grace: Duration, min_rate: u64) -> Self {
        Self {
            idle_timeout,
            min_rate: min_rate.max(1),
            capacity: grace,
            tokens: grace,
        }
    }

    /// Requires the minimum rate on average over the whole transfer.
    pub(crate) fn average(idle_timeout: Duration, grace: Duration, min_rate: u64) -> Self {
        Self {
            capacity: Duration::MAX,
            ..Self::sustained(idle_timeout, grace, min_rate)
        }
    }

    /// Returns the maximum wait for the next byte.
    pub(crate) fn next_chunk_timeout(&self) -> Duration {
        self.tokens.min(self.idle_timeout)
    }

    /// Counts a wait and the bytes transferred after it.
    pub(crate) fn moved(&mut self, waited: Duration, bytes: usize) {
        let nanos = (bytes as u128).saturating_mul(1_000_000_000) / u128::from(self.min_rate);
        let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Add before subtracting, so that an empty bucket stays empty if the bytes arrived more
        // slowly than the minimum rate.
        self.tokens = self
            .tokens
            .saturating_add(earned)
            .saturating_sub(waited)
            .min(self.capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);
    const GRACE: Duration = Duration::from_secs(10);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn sustained_pace_does_not_credit_fast_start() {
        let mut pace = Pace::sustained(IDLE, GRACE, 1000);
        pace.moved(Duration::ZERO, 1_000_000);
        assert_eq!(pace.next_chunk_timeout(), GRACE);
        // A peer that sends 400 bytes per second for 16 s: each second spends 600 ms of the bucket.
        for _ in 0..16 {
            pace.moved(seconds(1), 400);
        }
        assert_eq!(pace.next_chunk_timeout(), Duration::from_millis(400));
        pace.moved(seconds(1), 400);
        assert_eq!(pace.next_chunk_timeout(), Duration::ZERO);
        pace.moved(Duration::from_millis(2), 1);
        assert_eq!(
            pace.next_chunk_timeout(),
            Duration::ZERO,
            "a byte earns less than its wait costs"
        );
    }

    #[test]
    fn average_pace_credits_fast_start_within_idle_timeout() {
        let mut pace = Pace::average(IDLE, GRACE, 1000);
        pace.moved(Duration::ZERO, 50_000);
        assert_eq!(pace.next_chunk_timeout(), IDLE);
        pace.moved(seconds(29), 1);
        pace.moved(seconds(29), 1);
        assert_eq!(pace.next_chunk_timeout(), Duration::from_millis(2002));
    }
}
