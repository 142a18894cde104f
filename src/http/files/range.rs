//! Parses the `Range` header (RFC 9110 section 14). Performs no I/O.

use std::ops::RangeInclusive;

/// Maximum number of ranges in a response. Requests for more ranges get the whole file.
pub(super) const MAX_RANGES: usize = 32;

/// The part of a file that a `Range` header requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requested {
    /// The whole file, because the header is absent or ignored.
    Whole,
    /// First and last byte of each range, within the file's size and in the requested order. Never
    /// empty.
    Ranges(Vec<RangeInclusive<u64>>),
    /// No range, because all requested bytes are beyond the end of the file.
    Unsatisfiable,
}

/// Parses the `Range` headers of a request for a file of `size` bytes.
///
/// As RFC 9110 allows, the header is ignored if it is malformed, repeated, or uses another unit
/// than bytes; if its ranges add up to more bytes than the file has (section 17.15); and if the
/// file is empty, so that no range can be satisfied.
pub(super) fn requested<'a>(mut headers: impl Iterator<Item = &'a [u8]>, size: u64) -> Requested {
    let Some(header) = headers.next() else {
        return Requested::Whole;
    };
    if headers.next().is_some() || size == 0 {
        return Requested::Whole;
    }
    let Some(specs) = std::str::from_utf8(header).ok().and_then(parse) else {
        return Requested::Whole;
    };
    let ranges: Vec<_> = specs
        .into_iter()
        .filter_map(|spec| spec.within(size))
        .collect();
    let wanted: u64 = ranges.iter().fold(0, |sum, range| {
        sum.saturating_add(range.end() - range.start() + 1)
    });
    match ranges.len() {
        0 => Requested::Unsatisfiable,
        count if count > MAX_RANGES || wanted > size => Requested::Whole,
        _ => Requested::Ranges(ranges),
    }
}

/// One element of a `Range` header. Numbers beyond `u64` are clamped.
enum Spec {
    /// `first-last` or `first-`.
    From(u64, Option<u64>),
    /// `-length`.
    Suffix(u64),
}

impl Spec {
    fn within(&self, size: u64) -> Option<RangeInclusive<u64>> {
        match *self {
            Self::From(first, last) => {
                (first < size).then(|| first..=last.unwrap_or(u64::MAX).min(size - 1))
            }
            Self::Suffix(length) => (length > 0).then(|| size.saturating_sub(length)..=size - 1),
        }
    }
}

fn parse(header: &str) -> Option<Vec<Spec>> {
    let (unit, set) = header.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    // Lists may contain empty elements (RFC 9110 section 5.6.1.2), but at least one must not be
    // empty.
    let elements = set
        .split(',')
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|e| !e.is_empty());
    let specs: Vec<Spec> = elements.map(parse_one).collect::<Option<_>>()?;
    (!specs.is_empty()).then_some(specs)
}

fn parse_one(element: &str) -> Option<Spec> {
    let (first, last) = element.split_once('-')?;
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(Spec::Suffix(number(last)?)),
        (false, true) => Some(Spec::From(number(first)?, None)),
        (false, false) => {
            // The digits are compared, because numbers beyond u64 would be equal after clamping.
            let (first_digits, last_digits) =
                (first.trim_start_matches('0'), last.trim_start_matches('0'));
            let ordered = (first_digits.len(), first_digits) <= (last_digits.len(), last_digits);
            let spec = Spec::From(number(first)?, Some(number(last)?));
            ordered.then_some(spec)
        }
    }
}

fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(header: &str, size: u64) -> Requested {
        requested(std::iter::once(header.as_bytes()), size)
    }

    fn ranges(pairs: &[(u64, u64)]) -> Requested {
        Requested::Ranges(pairs.iter().map(|(first, last)| *first..=*last).collect())
    }

    #[test]
    fn headers_are_parsed_per_rfc_9110() {
        for (header, expected) in [
            ("bytes=0-0", ranges(&[(0, 0)])),
            ("bytes=0-499", ranges(&[(0, 499)])),
            ("bytes=500-", ranges(&[(500, 999)])),
            ("bytes=-1", ranges(&[(999, 999)])),
            ("bytes=-1000", ranges(&[(0, 999)])),
            ("bytes=-5000", ranges(&[(0, 999)])),
            ("bytes=990-1990", ranges(&[(990, 999)])),
            ("BYTES=0-5", ranges(&[(0, 5)])),
            ("bytes=00-05", ranges(&[(0, 5)])),
            ("bytes=0-99999999999999999999999", ranges(&[(0, 999)])),
            ("bytes=-18446744073709551616", ranges(&[(0, 999)])),
            ("bytes=20-29,0-9", ranges(&[(20, 29), (0, 9)])),
            ("bytes=0-9 , 20-29", ranges(&[(0, 9), (20, 29)])),
            ("bytes=,0-9,,", ranges(&[(0, 9)])),
            ("bytes=0-9,100000-", ranges(&[(0, 9)])),
            ("bytes=0-499,100-599", ranges(&[(0, 499), (100, 599)])),
            ("bytes=1000-", Requested::Unsatisfiable),
            ("bytes=-0", Requested::Unsatisfiable),
            (
                "bytes=18446744073709551616-18446744073709551617",
                Requested::Unsatisfiable,
            ),
            (
                "bytes=18446744073709551617-18446744073709551616",
                Requested::Whole,
            ),
            ("bytes=5-4", Requested::Whole),
            ("bytes=-", Requested::Whole),
            ("bytes=", Requested::Whole),
            ("bytes=,", Requested::Whole),
            ("bytes = 0-5", Requested::Whole),
            ("bytes=0 - 5", Requested::Whole),
            ("bytes=+1-5", Requested::Whole),
            ("bytes=0-5;6-7", Requested::Whole),
            ("bytes=a-b", Requested::Whole),
            ("bytes=--5", Requested::Whole),
            ("0-5", Requested::Whole),
            ("items=0-5", Requested::Whole),
            ("bytes=0-,0-", Requested::Whole),
        ] {
            assert_eq!(of(header, 1000), expected, "{header}");
        }
        let many = |count: usize| format!("bytes={}", vec!["1-1"; count].join(","));
        assert!(matches!(of(&many(MAX_RANGES), 1000), Requested::Ranges(_)));
        assert_eq!(of(&many(MAX_RANGES + 1), 1000), Requested::Whole);
        assert_eq!(of("bytes=0-", 0), Requested::Whole);
        assert_eq!(
            requested([b"bytes=0-1".as_slice(), b"bytes=2-3"].into_iter(), 1000),
            Requested::Whole
        );
        assert_eq!(requested(std::iter::empty(), 1000), Requested::Whole);
    }

    proptest! {
        #[test]
        fn requested_ranges_are_within_file_and_not_larger_in_total(
            header in "(bytes=)?([0-9]{0,22}-[0-9]{0,22}[, ]{0,2}){0,40}|\\PC{0,60}",
            size in 0..5000_u64,
        ) {
            if let Requested::Ranges(ranges) = of(&header, size) {
                prop_assert!(!ranges.is_empty() && ranges.len() <= MAX_RANGES);
                prop_assert!(ranges.iter().all(|range| range.start() <= range.end() && *range.end() < size));
                prop_assert!(ranges.iter().map(|range| range.end() - range.start() + 1).sum::<u64>() <= size);
            }
        }

        #[test]
        fn range_within_file_is_kept(first in 0..1000_u64, length in 1..1000_u64) {
            let last = (first + length - 1).min(999);
            prop_assert_eq!(of(&format!("bytes={first}-{last}"), 1000), ranges(&[(first, last)]));
            prop_assert_eq!(of(&format!("bytes=-{length}"), 1000), ranges(&[(1000 - length, 999)]));
        }
    }
}
