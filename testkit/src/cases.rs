//! Tables of cases: every row is checked, and all rows that fail are reported together.

use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;
use futures_util::future::join_all;

/// Longest description of a row in a report, in characters.
const MAX_LABEL: usize = 200;

/// Checks every row of a table, then panics with all rows whose check panicked.
#[track_caller]
pub fn each_case<T: Debug>(rows: impl IntoIterator<Item = T>, mut check: impl FnMut(T)) {
    let mut report = Report::default();
    for row in rows {
        let label = label(&row);
        report.add(&label, catch_unwind(AssertUnwindSafe(|| check(row))));
    }
    report.finish();
}

/// Does the same as [`each_case`] with an asynchronous check, one row after the other.
pub async fn each_case_async<T: Debug>(
    rows: impl IntoIterator<Item = T>,
    mut check: impl AsyncFnMut(T),
) {
    let mut report = Report::default();
    for row in rows {
        let label = label(&row);
        report.add(&label, AssertUnwindSafe(check(row)).catch_unwind().await);
    }
    report.finish();
}

/// Does the same as [`each_case_async`] with all rows at once.
pub async fn each_case_concurrently<T: Debug>(
    rows: impl IntoIterator<Item = T>,
    check: impl AsyncFn(T),
) {
    let mut report = Report::default();
    let checks = rows.into_iter().map(async |row| {
        let label = label(&row);
        (label, AssertUnwindSafe(check(row)).catch_unwind().await)
    });
    for (label, result) in join_all(checks).await {
        report.add(&label, result);
    }
    report.finish();
}

#[derive(Default)]
struct Report {
    rows: usize,
    failures: Vec<String>,
}

impl Report {
    fn add(&mut self, label: &str, result: Result<(), Box<dyn Any + Send>>) {
        self.rows += 1;
        if let Err(panic) = result {
            self.failures.push(format!("{label}: {}", message(&*panic)));
        }
    }

    #[track_caller]
    fn finish(self) {
        assert!(self.rows > 0, "the table has no rows");
        assert!(
            self.failures.is_empty(),
            "{} of {} cases failed:\n{}",
            self.failures.len(),
            self.rows,
            self.failures.join("\n")
        );
    }
}

fn label(row: &impl Debug) -> String {
    let label = format!("{row:?}");
    match label.char_indices().nth(MAX_LABEL) {
        Some((end, _)) => format!("{}...", &label[..end]),
        None => label,
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(check: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("a failure");
        message(&*panic).to_owned()
    }

    #[test]
    fn failing_rows_are_reported_together() {
        let report = failure(|| each_case([1, 2, 3], |n| assert!(n == 2, "{n} is not 2")));
        assert_eq!(report, "2 of 3 cases failed:\n1: 1 is not 2\n3: 3 is not 2");
    }

    #[tokio::test]
    async fn failing_asynchronous_rows_are_reported_together() {
        let table = AssertUnwindSafe(each_case_async(["a", "b"], async |name| {
            tokio::task::yield_now().await;
            assert_eq!(name, "b");
        }));
        let panic = table.catch_unwind().await.expect_err("a failure");
        assert!(message(&*panic).starts_with("1 of 2 cases failed:\n\"a\": "));
    }

    #[tokio::test]
    async fn failing_concurrent_rows_are_reported_together() {
        let table = AssertUnwindSafe(each_case_concurrently([1, 2], async |n| panic!("row {n}")));
        let panic = table.catch_unwind().await.expect_err("a failure");
        assert_eq!(message(&*panic), "2 of 2 cases failed:\n1: row 1\n2: row 2");
    }

    #[test]
    fn empty_table_fails() {
        let report = failure(|| each_case(Vec::<u8>::new(), |_| {}));
        assert_eq!(report, "the table has no rows");
    }
}
