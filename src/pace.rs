//! A least rate with a grace time, for peers that send or take bytes.
//!
//! Works as a token bucket whose tokens are time: waiting for the peer spends it, each byte that moves earns it back at
//! the least rate. A peer whose bucket is empty is too slow. The idle timeout bounds each single wait besides.

use std::time::Duration;

/// Time that a peer may still be waited for.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    idle: Duration,
    min_rate: u64,
    most: Duration,
    left: Duration,
}

impl Pace {
    /// A pace that the peer must keep all the time: bytes that moved fast earn at most the grace time anew, so a peer
    /// cannot stall for long after a quick start.
    pub(crate) fn sustained(idle: Duration, grace: Duration, min_rate: u64) -> Self {
        Self {
            idle,
            min_rate: min_rate.max(1),
            most: grace,
            left: grace,
        }
    }

    /// A pace that the peer must keep on average.
    pub(crate) fn average(idle: Duration, grace: Duration, min_rate: u64) -> Self {
        Self {
            most: Duration::MAX,
            ..Self::sustained(idle, grace, min_rate)
        }
    }

    /// Longest wait for the next byte.
    pub(crate) fn next_chunk_timeout(&self) -> Duration {
        self.left.min(self.idle)
    }

    /// Counts a wait, and the bytes that ended it.
    pub(crate) fn moved(&mut self, waited: Duration, bytes: usize) {
        let nanos = (bytes as u128).saturating_mul(1_000_000_000) / u128::from(self.min_rate);
        let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Earned first: bytes that took longer than they earn leave nothing.
        self.left = self
            .left
            .saturating_add(earned)
            .saturating_sub(waited)
            .min(self.most);
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
    fn sustained_pace_forgets_a_quick_start() {
        let mut pace = Pace::sustained(IDLE, GRACE, 1000);
        pace.moved(Duration::ZERO, 1_000_000);
        assert_eq!(pace.next_chunk_timeout(), GRACE);
        // 400 bytes each second for 16 s: 600 ms are lost with each.
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
            "a byte earns less than it took"
        );
    }

    #[test]
    fn average_pace_remembers_it_and_idle_bounds_each_wait() {
        let mut pace = Pace::average(IDLE, GRACE, 1000);
        pace.moved(Duration::ZERO, 50_000);
        assert_eq!(pace.next_chunk_timeout(), IDLE);
        pace.moved(seconds(29), 1);
        pace.moved(seconds(29), 1);
        assert_eq!(pace.next_chunk_timeout(), Duration::from_millis(2002));
    }
}
