//! Provides the current time. Time-dependent logic reads it from a [`Clock`], so that tests can set
//! a mock clock instead of sleeping.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the system time, even in tests with a mock clock. Use it only for times that are
/// compared with the clock of another machine or with file timestamps.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "one of the two readers of the system time"
)]
pub fn system_time() -> SystemTime {
    SystemTime::now()
}

/// A point in time: milliseconds since the Unix epoch, in UTC, as stored in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns the time as milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Converts to [`SystemTime`]; times before 1970 become 1970.
    #[must_use]
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

/// Formats as RFC 3339 in UTC with milliseconds and `Z`, the format of all times on the wire.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.3}")
    }
}

/// The source of the current time: the system clock, or a mock clock in tests.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Mock(Arc<AtomicI64>),
}

impl Clock {
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "one of the two readers of the system time"
    )]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp(jiff::Timestamp::now().as_millisecond()),
            Source::Mock(millis) => Timestamp(millis.load(Ordering::SeqCst)),
        }
    }
}

/// Controls a mock [`Clock`] in tests.
#[derive(Clone, Debug)]
pub struct MockClock(Arc<AtomicI64>);

impl MockClock {
    /// Creates a mock clock that stands still at `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(start.as_millis())))
    }

    /// Returns the [`Clock`] to pass to the code under test.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock(Source::Mock(Arc::clone(&self.0)))
    }

    /// Moves the clock backward, to simulate a clock correction.
    pub fn turn_back(&self, by: Duration) {
        self.0.fetch_sub(
            i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
            Ordering::SeqCst,
        );
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(
            i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
            Ordering::SeqCst,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_formatted_with_milliseconds_and_z() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_768_473_900_007, "2026-01-15T10:45:00.007Z"),
            (1_768_473_900_120, "2026-01-15T10:45:00.120Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text);
        }
    }

    #[test]
    fn mock_clock_moves_only_when_advanced() {
        let mock = MockClock::at(Timestamp::from_millis(1_000));
        let clock = mock.clock();
        assert_eq!(clock.now(), Timestamp::from_millis(1_000));
        mock.advance(Duration::from_secs(2));
        assert_eq!(clock.now(), Timestamp::from_millis(3_000));
    }
}
