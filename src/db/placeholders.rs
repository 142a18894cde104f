//! Lists of placeholders for statements over several values or rows. Nothing but placeholders is put into the text of a
//! statement.

use std::fmt::Write as _;

/// Placeholders of one `IN` list. SQLite takes 32,766 parameters of a statement, PostgreSQL 65,535.
pub(super) const MAX_LISTED: usize = 512;

/// `$first, ...`: `count` placeholders, for an `IN` list.
pub(super) fn list(first: usize, count: usize) -> String {
    let mut text = String::with_capacity(count * 5);
    for n in first..first + count {
        let separator = if n == first { "" } else { ", " };
        let _ = write!(text, "{separator}${n}");
    }
    text
}

/// `($1, $2), ($3, $4)`: the placeholders of `count` rows of `columns` values, for one `INSERT`.
pub(super) fn rows(count: usize, columns: usize) -> String {
    let rows = (0..count).map(|row| format!("({})", list(1 + row * columns, columns)));
    rows.collect::<Vec<_>>().join(", ")
}

/// Fills a list up to the next power of two with its last value, so that connections keep a few prepared statements
/// and not one for each length.
pub(super) fn padded<T: Clone>(mut values: Vec<T>) -> Vec<T> {
    if let Some(last) = values.last().cloned() {
        values.resize(values.len().next_power_of_two(), last);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_through() {
        assert_eq!(list(2, 3), "$2, $3, $4");
        assert_eq!(rows(2, 2), "($1, $2), ($3, $4)");
        assert_eq!(list(1, 0), "");
    }

    #[test]
    fn padding_repeats_the_last_value() {
        assert_eq!(padded(vec!["a", "b", "c"]), ["a", "b", "c", "c"]);
        assert_eq!(padded(Vec::<u8>::new()), [0_u8; 0]);
    }
}
