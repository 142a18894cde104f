//! Layers of the configuration: defaults, below the file, below environment variables, below flags.
//!
//! A value of the file or the environment becomes the default of its argument, so flags win and one parser checks
//! all three.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, Args, Command, Parser, value_parser};

use super::file::SettingsFile;
use super::{Error, Origin, Settings};

/// Settings that the short help shows.
const COMMON: [&str; 7] = [
    "listen",
    "data_dir",
    "public_url",
    "cdn_url",
    "database_url",
    "blobs_url",
    "log",
];

/// Where each setting that is not a default came from, by key.
#[derive(Debug, Default)]
pub(crate) struct Origins(HashMap<String, Origin>);

impl Origins {
    /// Replaces the setting that an error names by the flag, variable or line that its value came from.
    pub(crate) fn locate(&self, error: Error) -> Error {
        match error {
            Error::Invalid {
                origin: Origin::Setting(key),
                problem,
            } => {
                let origin = self.0.get(key).cloned();
                Error::Invalid {
                    origin: origin.unwrap_or(Origin::Setting(key)),
                    problem,
                }
            }
            error => error,
        }
    }
}

/// Why a command line cannot be run.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A usage error, or a request for help or the version.
    Usage(clap::Error),
    /// A setting is invalid.
    Config(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Config(error)
    }
}

/// Parses a command line whose parser `P` flattens [`Settings`]. Returns the origins of its settings as well.
pub(crate) fn parse<P: Parser>(
    arguments: &[OsString],
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<(P, Origins), Failure> {
    let settings = settings();
    let command = command::<P>();
    let flags = match command.clone().try_get_matches_from(arguments) {
        Ok(flags) => flags,
        Err(error) if is_help(&error) => {
            let help = show_variables(command).try_get_matches_from(arguments);
            return Err(Failure::Usage(help.err().filter(is_help).unwrap_or(error)));
        }
        Err(error) => return Err(usage(error, &settings)),
    };
    let file = match flags.get_one::<PathBuf>("config") {
        Some(path) => SettingsFile::read(path, &settings)?,
        None => SettingsFile::default(),
    };
    let mut origins = Origins::default();
    let mut layered = command;
    for setting in &settings {
        let key = key(setting);
        if flags.value_source(setting.get_id().as_str()) == Some(ValueSource::CommandLine) {
            origins.0.insert(key.clone(), Origin::Flag(flag(setting)));
            continue;
        }
        let from_variable = variable(&variable_name(&key));
        let (text, origin) = match (from_variable, file.get(&key)) {
            (Some(text), _) => (text, Origin::Variable(variable_name(&key))),
            (None, Some((text, origin))) => (text.into(), origin),
            (None, None) => continue,
        };
        check(setting, &text).map_err(|problem| Error::Invalid {
            origin: origin.clone(),
            problem,
        })?;
        origins.0.insert(key, origin);
        layered = layered.mut_arg(setting.get_id(), |arg| arg.default_value(text));
    }
    let parsed = layered
        .try_get_matches_from(arguments)
        .and_then(|matches| P::from_arg_matches(&matches));
    Ok((parsed.map_err(|error| usage(error, &settings))?, origins))
}

/// Returns the settings as the layers declare them.
pub(super) fn settings() -> Vec<Arg> {
    let settings = Settings::augment_args(Command::new("haversack"));
    settings.get_arguments().cloned().collect()
}

/// Returns the key of a setting in the file.
pub(super) fn key(setting: &Arg) -> String {
    setting.get_long().unwrap_or_default().replace('-', "_")
}

pub(super) fn variable_name(key: &str) -> String {
    format!("HAVERSACK_{}", key.to_uppercase())
}

fn flag(setting: &Arg) -> String {
    format!("--{}", setting.get_long().unwrap_or_default())
}

/// Returns the command with its settings accepted before and after subcommands, and `--config`.
fn command<P: Parser>() -> Command {
    let config = Arg::new("config")
        .long("config")
        .env("HAVERSACK_CONFIG")
        .value_name("FILE")
        .help_heading(Resettable::Reset)
        .value_parser(value_parser!(PathBuf))
        .global(true)
        .help("TOML file with settings");
    settings()
        .iter()
        .fold(P::command().arg(config), |command, setting| {
            let key = key(setting);
            command.mut_arg(setting.get_id(), |arg| {
                let arg = arg
                    .global(true)
                    .hide_short_help(!COMMON.contains(&key.as_str()))
                    .hide_default_value(setting.get_default_values() == [""]);
                match value_name(&key) {
                    Some(name) if has_derived_value_name(setting) => arg.value_name(name),
                    _ => arg,
                }
            })
        })
}

/// Returns true if the placeholder in the help is the one that clap derives, the name of the setting.
fn has_derived_value_name(setting: &Arg) -> bool {
    let name = setting.get_value_names().and_then(<[_]>::first);
    name.is_none_or(|name| name.to_lowercase().replace('-', "_") == key(setting))
}

/// Returns a placeholder for the unit that the key contains.
fn value_name(key: &str) -> Option<&'static str> {
    const UNITS: [(&str, &str); 8] = [
        ("seconds", "SECONDS"),
        ("days", "DAYS"),
        ("bytes", "BYTES"),
        ("url", "URL"),
        ("mode", "MODE"),
        ("format", "FORMAT"),
        ("max", "NUMBER"),
        ("connections", "NUMBER"),
    ];
    let unit = UNITS.iter().find(|(unit, _)| key.contains(unit));
    unit.map(|(_, name)| *name)
}

/// Lets the help name the environment variables. Not for parsing: an invalid variable would fail even where a flag
/// overrides it.
fn show_variables(command: Command) -> Command {
    settings().iter().fold(command, |command, setting| {
        let name = variable_name(&key(setting));
        command.mut_arg(setting.get_id(), |arg| arg.env(name).hide_env_values(true))
    })
}

/// Checks a value of the file or the environment by the parser of its flag.
fn check(setting: &Arg, text: &OsStr) -> Result<(), String> {
    let mut flag = OsString::from(format!("{}=", flag(setting)));
    flag.push(text);
    Command::new("haversack")
        .arg(setting.clone())
        .try_get_matches_from([OsString::from("haversack"), flag])
        .map(drop)
        .map_err(|error| problem(&error))
}

/// Returns what is wrong with a value. The value itself is not part of it, as it may be a password.
fn problem(error: &clap::Error) -> String {
    use std::error::Error as _;
    if let Some(source) = error.source() {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("must be {}", valid.join(" or "))
        }
        _ if error.kind() == ErrorKind::InvalidUtf8 => "must be UTF-8".to_owned(),
        _ => "must not be empty".to_owned(),
    }
}

/// Turns an invalid value of a setting into the error that it is in every layer.
fn usage(error: clap::Error, settings: &[Arg]) -> Failure {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return Failure::Usage(error);
    };
    let named = argument.split_whitespace().next();
    let setting = settings
        .iter()
        .find(|setting| Some(flag(setting).as_str()) == named);
    let is_empty = matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty());
    match (setting, error.kind()) {
        (Some(setting), ErrorKind::ValueValidation | ErrorKind::InvalidValue) if !is_empty => {
            Failure::Config(Error::Invalid {
                origin: Origin::Flag(flag(setting)),
                problem: problem(&error),
            })
        }
        _ => Failure::Usage(error),
    }
}

fn is_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}
