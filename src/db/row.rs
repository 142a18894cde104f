//! Converts database columns to domain types.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::Error;
use crate::clock::Timestamp;

/// Escape character in stored text, followed by [`NUL`] or [`ITSELF`]. It is a private-use
/// character, so it is rare in real text.
const ESCAPE: char = '\u{F0000}';
/// Stands for U+0000 when it follows [`ESCAPE`].
const NUL: char = '0';
/// Stands for the escape character itself when it follows [`ESCAPE`].
const ITSELF: char = '1';

/// Escapes U+0000, which PostgreSQL's TEXT cannot store. [`text`] reverses it.
pub(super) fn escape_nul(text: &str) -> String {
    text.replace(ESCAPE, &format!("{ESCAPE}{ITSELF}"))
        .replace('\0', &format!("{ESCAPE}{NUL}"))
}

fn unescape_nul(stored: String) -> String {
    if !stored.contains(ESCAPE) {
        return stored;
    }
    stored
        .replace(&format!("{ESCAPE}{NUL}"), "\0")
        .replace(&format!("{ESCAPE}{ITSELF}"), &ESCAPE.to_string())
}

/// Reads a text column and reverses [`escape_nul`].
pub(super) fn text(row: &AnyRow, column: &'static str) -> Result<String, Error> {
    Ok(unescape_nul(row.try_get(column)?))
}

/// Reads a nullable text column and reverses [`escape_nul`].
pub(super) fn optional_text(row: &AnyRow, column: &'static str) -> Result<Option<String>, Error> {
    Ok(row.try_get::<Option<String>, _>(column)?.map(unescape_nul))
}

pub(super) fn integer(row: &AnyRow, column: &'static str) -> Result<i64, Error> {
    Ok(row.try_get(column)?)
}

/// Reads a size or count, which is never negative.
pub(super) fn size(row: &AnyRow, column: &'static str) -> Result<u64, Error> {
    let value = integer(row, column)?;
    u64::try_from(value).map_err(|_| Error::Unreadable {
        column,
        value: value.to_string(),
    })
}

/// Reads a nullable size or count.
pub(super) fn optional_size(row: &AnyRow, column: &'static str) -> Result<Option<u64>, Error> {
    let Some(value) = row.try_get::<Option<i64>, _>(column)? else {
        return Ok(None);
    };
    u64::try_from(value)
        .map(Some)
        .map_err(|_| Error::Unreadable {
            column,
            value: value.to_string(),
        })
}

pub(super) fn time(row: &AnyRow, column: &'static str) -> Result<Timestamp, Error> {
    integer(row, column).map(Timestamp::from_millis)
}

pub(super) fn optional_time(
    row: &AnyRow,
    column: &'static str,
) -> Result<Option<Timestamp>, Error> {
    Ok(row
        .try_get::<Option<i64>, _>(column)?
        .map(Timestamp::from_millis))
}

/// Reads a text column and parses it.
pub(super) fn parsed<T>(
    row: &AnyRow,
    column: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, Error> {
    let value = text(row, column)?;
    parse(&value).ok_or(Error::Unreadable { column, value })
}

/// Reads a nullable text column and parses it.
pub(super) fn optional<T>(
    row: &AnyRow,
    column: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(value) = optional_text(row, column)? else {
        return Ok(None);
    };
    parse(&value)
        .map(Some)
        .ok_or(Error::Unreadable { column, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_round_trips_through_escaping(text in "[\\x000a01\u{F0000}]{0,12}|.*") {
            let stored = escape_nul(&text);
            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(unescape_nul(stored), text);
        }
    }
}
