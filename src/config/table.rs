//! Generates the settings tables in the documentation.

use std::fmt::Write as _;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};

use super::sources;
use crate::setting::{MAX_DAYS, MAX_SECONDS, OutOfBounds};

/// Returns one Markdown table of settings for each help heading.
fn tables() -> Vec<String> {
    let command = Command::new("haversack");
    let settings = sources::settings();
    let mut tables: Vec<(&str, String)> = Vec::new();
    for setting in &settings {
        let heading = setting.get_help_heading().unwrap_or_default();
        if !tables.iter().any(|(known, _)| *known == heading) {
            let head = format!(
                "### {heading}\n\n| Key | Environment variable | Default | Values | Meaning |\n\
                 | --- | --- | --- | --- | --- |\n"
            );
            tables.push((heading, head));
        }
        let table = tables.iter_mut().find(|(known, _)| *known == heading);
        let (_, table) = table.expect("a table");
        let key = sources::key(setting);
        let default = setting.get_default_values().iter();
        let default = default
            .map(|value| value.to_string_lossy())
            .find(|value| !value.is_empty())
            .map_or_else(|| "none".to_owned(), |value| format!("`{value}`"));
        let _ = writeln!(
            table,
            "| `{key}` | `{}` | {default} | {} | {} |",
            sources::variable_name(&key),
            values(&command, setting),
            setting
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default(),
        );
    }
    tables.into_iter().map(|(_, table)| table).collect()
}

/// Returns the allowed values of a setting, taken from the error message of its parser.
fn values(command: &Command, setting: &Arg) -> String {
    use std::error::Error as _;
    let flag = format!("--{}=?", setting.get_long().expect("a flag"));
    let parsed = command
        .clone()
        .arg(setting)
        .try_get_matches_from(["haversack", &flag]);
    let Err(error) = parsed else {
        return String::new();
    };
    let source = error.source();
    if let Some(bounds) = source.and_then(|source| source.downcast_ref::<OutOfBounds>()) {
        return match (bounds.min, bounds.max) {
            // The upper bound of times is left out, because the page states it once for all
            // settings.
            (0, u64::MAX | MAX_SECONDS | MAX_DAYS) => String::new(),
            (min, u64::MAX | MAX_SECONDS | MAX_DAYS) => format!("at least {min}"),
            (min, max) => format!("{min} to {max}"),
        };
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => format!("`{}`", valid.join("`, `")),
        _ => String::new(),
    }
}

#[test]
fn documentation_has_the_tables_of_settings() {
    let documented = include_str!("../../docs/reference/configuration.md");
    let missing: Vec<String> = tables()
        .into_iter()
        .filter(|table| !documented.contains(table))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/reference/configuration.md must have these tables:\n{}",
        missing.join("\n")
    );
}
