//! Provides value types, bounds and parsers for the settings that modules declare with clap.

use std::fmt;
use std::num::IntErrorKind;
use std::ops::{Bound, Deref, RangeBounds};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Command};

const SECONDS_PER_DAY: u64 = 24 * 3600;
/// Upper bound of settings that count things which each occupy memory.
pub(crate) const MAX_COUNT: u64 = 1_000_000;
/// Upper bound of time settings in days: ten years. Longer times could overflow a timestamp.
pub(crate) const MAX_DAYS: u64 = 10 * 365;
pub(crate) const MAX_SECONDS: u64 = MAX_DAYS * SECONDS_PER_DAY;

/// Error for a value outside the bounds of its setting.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.message())]
pub(crate) struct OutOfBounds {
    value: String,
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl OutOfBounds {
    fn message(&self) -> String {
        let Self { value, min, max } = self;
        match value.parse::<u64>() {
            Ok(number) if number < *min => format!("must be at least {min}, not {value}"),
            Ok(_) => format!("must be at most {max}, not {value}"),
            Err(error) if *error.kind() == IntErrorKind::PosOverflow => {
                format!("must be at most {max}, not {value}")
            }
            Err(_) => format!("must be a whole number, not {value:?}"),
        }
    }
}

/// Returns a parser that accepts whole numbers within `bounds`.
pub(crate) fn number<T: TryFrom<u64>>(
    bounds: impl RangeBounds<u64>,
) -> impl Fn(&str) -> Result<T, OutOfBounds> + Clone + Send + Sync {
    let min = match bounds.start_bound() {
        Bound::Included(min) => *min,
        Bound::Excluded(below) => *below + 1,
        Bound::Unbounded => 0,
    };
    let max = match bounds.end_bound() {
        Bound::Included(max) => *max,
        Bound::Excluded(above) => *above - 1,
        Bound::Unbounded => u64::MAX,
    };
    move |text| {
        let number = text.parse().ok().filter(|n| (min..=max).contains(n));
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| OutOfBounds {
                value: text.to_owned(),
                min,
                max,
            })
    }
}

/// Returns a parser that accepts whole seconds from `min` up to ten years.
pub(crate) fn seconds(
    min: u64,
) -> impl Fn(&str) -> Result<Duration, OutOfBounds> + Clone + Send + Sync {
    let parse = number(min..=MAX_SECONDS);
    move |text| parse(text).map(Duration::from_secs)
}

/// A retention period. `None` means unlimited and is configured as 0 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention(pub Option<Duration>);

/// Parses a retention period of at most ten years, given in days.
pub(crate) fn retention_days(text: &str) -> Result<Retention, OutOfBounds> {
    let days: u64 = number(..=MAX_DAYS)(text)?;
    let retention = Duration::from_secs(days * SECONDS_PER_DAY);
    Ok(Retention((days > 0).then_some(retention)))
}

/// A comma-separated list. Spaces and empty entries in its text are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(Vec<T>);

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<T: FromStr> FromStr for List<T> {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let entries = text.split(',').map(str::trim);
        entries
            .filter(|entry| !entry.is_empty())
            .map(|entry| entry.parse().map_err(|_| InvalidEntry(entry.to_owned())))
            .collect()
    }
}

/// Error for an invalid entry in a list.
#[derive(Debug)]
pub struct InvalidEntry(String);

impl fmt::Display for InvalidEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not valid; entries are separated by commas",
            self.0
        )
    }
}

impl std::error::Error for InvalidEntry {}

/// Returns the default values of a group of settings, ignoring the environment.
///
/// # Panics
/// Panics if a default value is invalid.
pub(crate) fn defaults<A: Args>() -> A {
    let matches = A::augment_args(Command::new("haversack"))
        .try_get_matches_from(["haversack"])
        .expect("defaults are valid");
    A::from_arg_matches(&matches).expect("settings have defaults")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_bounded_on_both_sides() {
        let parse = number::<u64>(1..=9);
        assert_eq!(parse("1").ok().zip(parse("9").ok()), Some((1, 9)));
        for (text, problem) in [
            ("0", "must be at least 1, not 0"),
            ("10", "must be at most 9, not 10"),
            (
                "18446744073709551616",
                "must be at most 9, not 18446744073709551616",
            ),
            ("-1", "must be a whole number, not \"-1\""),
            ("", "must be a whole number, not \"\""),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), problem);
        }
    }

    #[test]
    fn zero_days_of_retention_are_unlimited() {
        assert_eq!(retention_days("0").expect("days"), Retention(None));
        assert_eq!(
            retention_days("2").expect("days"),
            Retention(Some(Duration::from_hours(48)))
        );
        assert!(retention_days("3651").is_err());
    }

    #[test]
    fn list_ignores_spaces_and_empty_entries() {
        let ports: List<u16> = "1, 2,,3,".parse().expect("ports");
        assert_eq!(*ports, [1, 2, 3]);
        assert_eq!(
            "1,http"
                .parse::<List<u16>>()
                .expect_err("a name")
                .to_string(),
            "\"http\" is not valid; entries are separated by commas"
        );
    }
}
