//! Reading columns into the types of the domain.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::Error;
use crate::clock::Timestamp;

/// A column by name, as it is stored.
pub(super) fn text(row: &AnyRow, column: &'static str) -> Result<String, Error> {
    Ok(row.try_get(column)?)
}

/// A column that may be NULL.
pub(super) fn optional_text(row: &AnyRow, column: &'static str) -> Result<Option<String>, Error> {
    Ok(row.try_get(column)?)
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
