//! Reads settings from the TOML configuration file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Arg;
use toml::de::{DeTable, DeValue};

use super::sources::key;
use super::{Error, Origin};

/// Minimum similarity between an unknown key and the key suggested instead, as in clap's flag
/// suggestions.
const MIN_SIMILARITY: f64 = 0.7;

/// The settings in a configuration file, as unparsed text.
#[derive(Default)]
pub(super) struct SettingsFile {
    path: PathBuf,
    values: HashMap<String, Entry>,
}

struct Entry {
    text: String,
    line: usize,
}

impl SettingsFile {
    /// Reads a configuration file. Keys that are not in `settings` are an error.
    pub(super) fn read(path: &Path, settings: &[Arg]) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        // The message leaves out the line's text, which toml would quote, because it may contain a
        // password.
        let malformed = |position: usize, problem: String| Error::Malformed {
            path: path.to_owned(),
            line: line(&text, position),
            problem,
        };
        let table = DeTable::parse(&text).map_err(|error| {
            let position = error.span().map_or(0, |span| span.start);
            malformed(position, error.message().to_owned())
        })?;
        let known: Vec<String> = settings.iter().map(key).collect();
        let mut values = HashMap::new();
        for (key, value) in table.into_inner() {
            let position = key.span().start;
            let key = key.into_inner().into_owned();
            if !known.contains(&key) {
                return Err(malformed(position, unknown(&key, &known)));
            }
            let value = as_text(value.get_ref()).ok_or_else(|| {
                malformed(
                    position,
                    format!("{key} must be a string, a whole number, true or false"),
                )
            })?;
            let line = line(&text, position);
            values.insert(key, Entry { text: value, line });
        }
        Ok(Self {
            path: path.to_owned(),
            values,
        })
    }

    /// Returns the value of a key, and the line it comes from.
    pub(super) fn get(&self, key: &str) -> Option<(String, Origin)> {
        let Entry { text, line } = self.values.get(key)?;
        let origin = Origin::File {
            path: self.path.clone(),
            line: *line,
            key: key.to_owned(),
        };
        Some((text.clone(), origin))
    }
}

fn as_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

fn unknown(key: &str, known: &[String]) -> String {
    let similar = known
        .iter()
        .map(|name| (strsim::jaro(key, name), name))
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match similar {
        Some((_, name)) => format!("there is no setting {key:?}; did you mean {name:?}?"),
        None => format!("there is no setting {key:?}"),
    }
}

/// Returns the number of the line that contains a byte position, counting from 1.
fn line(text: &str, position: usize) -> usize {
    let before = text.bytes().take(position);
    before.filter(|byte| *byte == b'\n').count() + 1
}
