//! Provides the schema migrations, which are compiled into the program.

use std::sync::LazyLock;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Version, description and SQL statements of each file in `migrations/`.
const FILES: [(i64, &str, &str); 1] = [(
    1,
    "initial",
    include_str!("../../migrations/0001_initial.sql"),
)];

/// Applies the migrations in [`FILES`] in version order, and records a checksum of each.
///
/// `sqlx::migrate!` does the same, but needs the feature `macros`, which builds SQLite and both
/// drivers a second time for the compiler.
pub(super) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        let sql = SqlStr::from_static(sql);
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql,
            false,
        )
    };
    Migrator::with_migrations(FILES.into_iter().map(migration).collect())
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_under_its_name() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
            .expect("folder")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
            .map(|path| {
                let name = path.file_stem().expect("name").to_string_lossy();
                let sql = std::fs::read_to_string(&path).expect("file");
                (name.into_owned(), sql)
            })
            .collect();
        files.sort();
        let listed = FILES.map(|(version, description, sql)| {
            (
                format!("{version:04}_{}", description.replace(' ', "_")),
                sql.to_owned(),
            )
        });
        assert_eq!(listed.as_slice(), files.as_slice());
    }
}
