//! Generates the placeholders of SQL statements that take several values or rows. The generated
//! text contains no values, so it is safe from SQL injection.

/// Maximum number of placeholders in one `IN` list. SQLite accepts 32,766 parameters per statement,
/// PostgreSQL 65,535.
pub(super) const MAX_LISTED: usize = 512;

/// Returns `$first, ...`: `count` placeholders for an `IN` list.
pub(super) fn list(first: usize, count: usize) -> String {
    join((first..first + count).map(|n| format!("${n}")))
}

/// Returns `function($1), function($2), ...`: one SQL function call for each of `count` values.
pub(super) fn calls(function: &'static str, count: usize) -> String {
    join((1..=count).map(|n| format!("{function}(${n})")))
}

/// Returns `($1, $2), ($3, $4), ...`: the placeholders of `count` rows with `columns` values, for
/// one `INSERT`.
pub(super) fn rows(count: usize, columns: usize) -> String {
    join((0..count).map(|row| format!("({})", list(1 + row * columns, columns))))
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Pads a list to the next power of two by repeating its last value, so that connections cache a
/// few prepared statements instead of one per length.
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
    fn placeholders_are_numbered_consecutively() {
        assert_eq!(list(2, 3), "$2, $3, $4");
        assert_eq!(rows(2, 2), "($1, $2), ($3, $4)");
        assert_eq!(calls("lock", 2), "lock($1), lock($2)");
        assert_eq!(list(1, 0), "");
    }

    #[test]
    fn padding_repeats_the_last_value() {
        assert_eq!(padded(vec!["a", "b", "c"]), ["a", "b", "c", "c"]);
        assert_eq!(padded(Vec::<u8>::new()), [0_u8; 0]);
    }
}
