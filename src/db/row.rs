//! Reading columns into the types of the domain.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::Error;
use crate::clock::Timestamp;

/// Stands before [`NUL`] or [`ITSELF`] in stored text. A private-use character, so hardly any text holds it.
const ESCAPE: char = '\u{F0000}';
/// What stands for U+0000 after [`ESCAPE`].
const NUL: char = '0';
/// What stands for the escape character after itself.
const ITSELF: char = '1';

/// A caller's text as it is stored: PostgreSQL's TEXT cannot hold U+0000. [`text`] reads it.
pub(super) fn storable(text: &str) -> String {
    text.replace(ESCAPE, &format!("{ESCAPE}{ITSELF}")).replace('\0', &format!("{ESCAPE}{NUL}"))
}

fn as_given(stored: String) -> String {
    if !stored.contains(ESCAPE) {
        return stored;
    }
    stored.replace(&format!("{ESCAPE}{NUL}"), "\0").replace(&format!("{ESCAPE}{ITSELF}"), &ESCAPE.to_string())
}

/// A column by name, as it was given.
pub(super) fn text(row: &AnyRow, column: &'static str) -> Result<String, Error> {
    Ok(as_given(row.try_get(column)?))
}

/// A column that may be NULL.
pub(super) fn optional_text(row: &AnyRow, column: &'static str) -> Result<Option<String>, Error> {
    Ok(row.try_get::<Option<String>, _>(column)?.map(as_given))
}

/// A whole number.
pub(super) fn integer(row: &AnyRow, column: &'static str) -> Result<i64, Error> {
    Ok(row.try_get(column)?)
}

/// A size or count, which is never negative.
pub(super) fn size(row: &AnyRow, column: &'static str) -> Result<u64, Error> {
    let value = integer(row, column)?;
    u64::try_from(value).map_err(|_| Error::Unreadable { column, value: value.to_string() })
}

/// A size or count that may be unknown.
pub(super) fn optional_size(row: &AnyRow, column: &'static str) -> Result<Option<u64>, Error> {
    let Some(value) = row.try_get::<Option<i64>, _>(column)? else { return Ok(None) };
    u64::try_from(value).map(Some).map_err(|_| Error::Unreadable { column, value: value.to_string() })
}

/// A time.
pub(super) fn time(row: &AnyRow, column: &'static str) -> Result<Timestamp, Error> {
    integer(row, column).map(Timestamp::from_millis)
}

/// A time that may not have come yet.
pub(super) fn optional_time(row: &AnyRow, column: &'static str) -> Result<Option<Timestamp>, Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_millis))
}

/// A column read by one of the domain's own parsers.
pub(super) fn parsed<T>(row: &AnyRow, column: &'static str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
    let value = text(row, column)?;
    parse(&value).ok_or(Error::Unreadable { column, value })
}

/// The same for a column that may be NULL.
pub(super) fn optional<T>(
    row: &AnyRow,
    column: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(value) = optional_text(row, column)? else { return Ok(None) };
    parse(&value).map(Some).ok_or(Error::Unreadable { column, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_is_read_as_it_was_given(text in "[\\x000a01\u{F0000}]{0,12}|.*") {
            let stored = storable(&text);
            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(as_given(stored), text);
        }
    }
}
