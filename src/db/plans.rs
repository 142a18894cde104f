//! What SQLite does for each statement: none may read a whole table that grows with what partners do.

use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, Row as _};

use super::Db;
use super::pages::MESSAGE_BYTES;
use super::pages::statements;

/// Statements that may look at all of a table, and why.
const WHOLE_TABLES: &[&str] = &[
    // Every 30 s; the outbox is empty but for what waits.
    "SELECT COUNT(*) AS waiting FROM outbox",
    // Operators' commands, on tables of partners and lines.
    "SELECT id, name FROM partners ORDER BY id",
    "SELECT id FROM partners WHERE ephemeral_since IS NOT NULL",
    "SELECT id FROM lines WHERE ephemeral_since IS NOT NULL",
    // From the oldest entry on, until there are as many as are handed over together.
    "UPDATE outbox SET claimed_until = $1, attempts = attempts + 1 WHERE id IN (SELECT id FROM outbox AS due \
     WHERE available_at <= $2 AND NOT EXISTS (SELECT 1 FROM outbox AS claimed WHERE claimed.chat_id = due.chat_id AND \
     claimed.claimed_until > $2) ORDER BY id LIMIT $3",
];

/// The statements in a file: its string literals that start like one.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find('"') {
        let mut literal = String::new();
        let mut chars = rest[start + 1..].char_indices();
        let end = loop {
            match chars.next() {
                Some((at, '"')) => break at,
                Some((_, '\\')) => match chars.next() {
                    Some((_, '\n')) => literal.push(' '),
                    Some((_, c)) => literal.push(c),
                    None => return found,
                },
                Some((_, c)) => literal.push(c),
                None => return found,
            }
        };
        rest = &rest[start + 1 + end + 1..];
        let literal = literal.split_whitespace().collect::<Vec<_>>().join(" ");
        if ["SELECT ", "UPDATE ", "DELETE ", "INSERT "]
            .iter()
            .any(|verb| literal.starts_with(verb))
        {
            found.push(literal);
        }
    }
    found
}

/// What stands in a format string is columns or placeholders.
fn filled(statement: &str) -> String {
    statement
        .replace("{columns}", "*")
        .replace("{MESSAGE_BYTES}", MESSAGE_BYTES)
        .replace("{compare}", ">")
        .replace("{order_by}", "id")
        .replace("({})", "($1)")
        .replace("VALUES {}", "SELECT $1, $2, $3, $4, $5")
        .replace("({places})", "($1)")
        .replace("({placeholders})", "($1)")
}

/// Returns the source files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("folder");
    entries
        .map(|entry| entry.expect("entry").path())
        .flat_map(|path| {
            if path.is_dir() {
                files_below(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn sources() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/db");
    let files = files_below(&folder).into_iter().filter(|path| {
        // `haversack copy` reads whole tables, a page at a time; PostgreSQL's own statements are no business of SQLite.
        ![
            "table_copy.rs",
            "plans.rs",
            "postgres.rs",
            "locks.rs",
            "mod.rs",
            "group_commit.rs",
        ]
        .iter()
        .any(|name| {
            path.strip_prefix(&folder)
                .is_ok_and(|path| path == Path::new(name))
        })
    });
    files
        .map(|path| std::fs::read_to_string(path).expect("source"))
        .collect()
}

async fn open() -> (Db, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let url = format!("sqlite://{}/test.db?mode=rwc", folder.path().display())
        .parse()
        .expect("URL");
    (Db::open(&url).await.expect("database"), folder)
}

#[tokio::test]
async fn every_statement_is_searched_by_an_index() {
    let (db, _folder) = open().await;
    let mut connection = db.read().await.expect("connection");
    let written = sources()
        .iter()
        .flat_map(|source| literals(source))
        .collect::<Vec<_>>();
    assert!(
        written.len() > 60,
        "only {} statements were found",
        written.len()
    );
    let mut scans = Vec::new();
    for statement in written.into_iter().chain(statements()) {
        if WHOLE_TABLES.contains(&statement.as_str())
            || statement.starts_with("INSERT ")
            || statement.contains("{from}")
        {
            continue;
        }
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", filled(&statement)));
        let plan = sqlx::query(explain).fetch_all(&mut *connection).await;
        let plan = plan.unwrap_or_else(|error| panic!("{statement}: {error}"));
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        // A subquery that was made before is not a table.
        let is_scan = |step: &&String| {
            step.starts_with("SCAN ")
                && !["still", "listed", "few", "(subquery"]
                    .iter()
                    .any(|made| step[5..].starts_with(made))
        };
        if steps.iter().any(|step| is_scan(&step)) {
            scans.push(format!("{statement}\n    {}", steps.join("\n    ")));
        }
    }
    assert!(scans.is_empty(), "{}", scans.join("\n"));
}
