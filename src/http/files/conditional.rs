//! Evaluates conditional requests (RFC 9110 section 13) in the order of section 13.2.2. Performs no
//! I/O.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderName, header};

/// Result of evaluating the preconditions of a GET or HEAD request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Respond with status 412.
    Failed,
    /// Respond with status 304.
    NotModified,
    /// Respond with the file.
    Proceed {
        /// True if `If-Range` is absent or its condition is met, so that `Range` applies.
        ranges: bool,
    },
}

/// Evaluates the preconditions of a request for a file. `etag` is the file's strong entity tag
/// including its quotes, `modified` its modification time.
pub(super) fn evaluate(headers: &HeaderMap, etag: &str, modified: SystemTime) -> Outcome {
    // HTTP dates have a resolution of one second (RFC 9110 section 5.6.7).
    let modified = whole_seconds(modified);
    let if_match = list(headers, header::IF_MATCH);
    let if_none_match = list(headers, header::IF_NONE_MATCH);
    if let Some(tags) = if_match {
        if !any_match(&tags, etag, Comparison::Strong) {
            return Outcome::Failed;
        }
    } else if let Some(since) = date(headers, header::IF_UNMODIFIED_SINCE)
        && modified > since
    {
        return Outcome::Failed;
    }
    if let Some(tags) = if_none_match {
        if any_match(&tags, etag, Comparison::Weak) {
            return Outcome::NotModified;
        }
    } else if let Some(since) = date(headers, header::IF_MODIFIED_SINCE)
        && modified <= since
    {
        return Outcome::NotModified;
    }
    Outcome::Proceed {
        ranges: if_range(headers, etag, modified),
    }
}

/// Returns true if `If-Range` allows a partial response (RFC 9110 section 13.1.5): an entity tag
/// must match strongly, a date exactly. Dates are strong validators here, because files never
/// change.
fn if_range(headers: &HeaderMap, etag: &str, modified: SystemTime) -> bool {
    let mut values = headers.get_all(header::IF_RANGE).iter();
    let Some(value) = values.next() else {
        return true;
    };
    let Ok(value) = value.to_str() else {
        return false;
    };
    if values.next().is_some() {
        return false;
    }
    match value.trim() {
        tag if tag.starts_with('"') || tag.starts_with("W/") => tag == etag,
        date => httpdate::parse_http_date(date).is_ok_and(|date| date == modified),
    }
}

#[derive(Clone, Copy)]
enum Comparison {
    Strong,
    Weak,
}

/// Returns true if one of the listed tags matches the file's entity tag (RFC 9110 section 8.8.3.2).
/// `*` matches every file.
fn any_match(tags: &str, etag: &str, comparison: Comparison) -> bool {
    if tags.trim() == "*" {
        return true;
    }
    // Splitting at commas is safe: it may break up another server's tag that contains a comma, but
    // the pieces cannot match a tag of this server, which never contains one.
    tags.split(',').map(str::trim).any(|tag| match comparison {
        Comparison::Strong => tag == etag,
        Comparison::Weak => tag.strip_prefix("W/").unwrap_or(tag) == etag,
    })
}

/// Joins all values of a header into one list (RFC 9110 section 5.3). Values that are not text are
/// skipped, because they cannot match a tag.
fn list(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.contains_key(&name).then(|| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(",")
    })
}

/// Parses a date header. Invalid and repeated dates are ignored (RFC 9110 sections 13.1.3 and
/// 13.1.4).
fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    httpdate::parse_http_date(value).ok()
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"abc\"";
    const DATE: &str = "Thu, 15 Jan 2026 10:45:00 GMT";
    const BEFORE: &str = "Thu, 15 Jan 2026 10:44:59 GMT";
    const AFTER: &str = "Thu, 15 Jan 2026 10:45:01 GMT";

    #[test]
    fn preconditions_are_evaluated_in_order() {
        let all = Outcome::Proceed { ranges: true };
        let whole = Outcome::Proceed { ranges: false };
        for (headers, expected) in [
            (vec![], all),
            (vec![("if-match", ETAG)], all),
            (vec![("if-match", "*")], all),
            (vec![("if-match", "\"x\", \"abc\"")], all),
            (vec![("if-match", "\"x\""), ("if-match", ETAG)], all),
            (vec![("if-match", "W/\"abc\"")], Outcome::Failed),
            (vec![("if-match", "\"nope\"")], Outcome::Failed),
            (
                vec![("if-match", ""), ("if-none-match", ETAG)],
                Outcome::Failed,
            ),
            (
                vec![("if-match", ETAG), ("if-unmodified-since", BEFORE)],
                all,
            ),
            (vec![("if-unmodified-since", BEFORE)], Outcome::Failed),
            (vec![("if-unmodified-since", DATE)], all),
            (vec![("if-unmodified-since", "yesterday")], all),
            (vec![("if-none-match", ETAG)], Outcome::NotModified),
            (vec![("if-none-match", "W/\"abc\"")], Outcome::NotModified),
            (vec![("if-none-match", "*")], Outcome::NotModified),
            (
                vec![("if-none-match", "\"x\""), ("if-modified-since", DATE)],
                all,
            ),
            (vec![("if-modified-since", DATE)], Outcome::NotModified),
            (vec![("if-modified-since", AFTER)], Outcome::NotModified),
            (vec![("if-modified-since", BEFORE)], all),
            (
                vec![("if-match", ETAG), ("if-none-match", ETAG)],
                Outcome::NotModified,
            ),
            (vec![("if-range", ETAG)], all),
            (vec![("if-range", DATE)], all),
            (vec![("if-range", "W/\"abc\"")], whole),
            (vec![("if-range", "\"x\"")], whole),
            (vec![("if-range", AFTER)], whole),
            (vec![("if-range", BEFORE)], whole),
            (vec![("if-range", "nonsense")], whole),
        ] {
            let map = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("value")))
                .fold(HeaderMap::new(), |mut map, (name, value)| {
                    map.append(name, value);
                    map
                });
            let modified =
                httpdate::parse_http_date(DATE).expect("date") + Duration::from_millis(700);
            assert_eq!(evaluate(&map, ETAG, modified), expected, "{headers:?}");
        }
    }
}
