//! Tests SQLite's query plans: no statement is allowed to scan a table that grows with partner
//! activity.

use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, Row as _};

use super::Db;
use super::pages::MESSAGE_BYTES;
use super::pages::statements;

/// Statements that are allowed to scan a whole table, each with the reason.
const WHOLE_TABLES: &[&str] = &[
    // Runs only every 30 s, and the outbox contains only undelivered messages.
    "SELECT COUNT(*) AS waiting FROM outbox",
    // Operator commands that read the small tables of partners and lines.
    "SELECT id, name FROM partners ORDER BY id",
    "SELECT id FROM partners WHERE ephemeral_since IS NOT NULL",
    "SELECT id FROM lines WHERE ephemeral_since IS NOT NULL",
    // Scans from the oldest entry until a batch is complete.
    "UPDATE outbox SET claimed_until = $1, attempts = attempts + 1 WHERE id IN (SELECT id FROM outbox AS due \
     WHERE available_at <= $2 AND NOT EXISTS (SELECT 1 FROM outbox AS claimed WHERE claimed.chat_id = due.chat_id AND \
     claimed.claimed_until > $2) ORDER BY id LIMIT $3",
];

/// Returns the statements in a source file: the string literals that start with an SQL verb.
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

/// Replaces the arguments in a statement's format string, which stand for columns or placeholders,
/// with valid SQL.
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
        // `haversack copy` reads whole tables in pages; the other files contain statements for
        // PostgreSQL, or for migrations and commits.
        ![
            "table_copy.rs",
            "plans.rs",
            "postgres.rs",
            "locks.rs",
            "schema.rs",
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
async fn every_statement_uses_an_index() {
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
        // Scans of constants and of subquery results do not count, because these are not tables.
        let is_scan = |step: &&String| {
            step.starts_with("SCAN ")
                && !["CONSTANT ROW", "still", "listed", "few", "(subquery"]
                    .iter()
                    .any(|source| step[5..].starts_with(source))
        };
        if steps.iter().any(|step| is_scan(&step)) {
            scans.push(format!("{statement}\n    {}", steps.join("\n    ")));
        }
    }
    assert!(scans.is_empty(), "{}", scans.join("\n"));
}
