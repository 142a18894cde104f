//! Reads settings from their sources, in ascending precedence: defaults, the configuration file,
//! environment variables, flags.
//!
//! A value in the file or the environment becomes the default of its flag. So one parser validates
//! all three sources, and values that are overridden may be invalid.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, Parser, value_parser};

use super::file::SettingsFile;
use super::{Error, Origin, Settings};

/// Settings shown in the short help.
const COMMON: [&str; 7] = [
    "listen",
    "data_dir",
    "public_url",
    "cdn_url",
    "database_url",
    "blobs_url",
    "log",
];

/// The sources of all settings that do not have their default value, by key.
#[derive(Debug, Default)]
pub(crate) struct Origins(HashMap<String, Origin>);

impl Origins {
    /// Replaces the setting that an error names with the flag, variable or line that the invalid
    /// value came from.
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

/// Reasons why parsing a command line did not yield settings.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A usage error, or a request for the help or the version.
    Usage(clap::Error),
    /// An invalid setting.
    Config(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Config(error)
    }
}

/// Parses a command line with the parser `P`, which flattens [`Settings`]. Also returns the origins
/// of its settings.
pub(crate) fn parse<P: Parser>(
    arguments: &[OsString],
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<(P, Origins), Failure> {
    let settings = settings();
    let mut command = command::<P>();
    let flags = parse_flags(&command, arguments, &settings)?;
    let file = match flags.get_one::<PathBuf>("config") {
        Some(path) => SettingsFile::read(path, &settings)?,
        None => SettingsFile::default(),
    };
    let mut origins = Origins::default();
    for setting in &settings {
        let key = key(setting);
        let is_flag =
            flags.value_source(setting.get_id().as_str()) == Some(ValueSource::CommandLine);
        let origin = if is_flag {
            Origin::Flag(flag(setting))
        } else if let Some((text, origin)) = default(&key, &file, variable) {
            check(setting, &text).map_err(|problem| Error::Invalid {
                origin: origin.clone(),
                problem,
            })?;
            command = command.mut_arg(setting.get_id(), |arg| arg.default_value(text));
            origin
        } else {
            continue;
        };
        origins.0.insert(key, origin);
    }
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|matches| P::from_arg_matches(&matches));
    Ok((parsed.map_err(|error| usage(error, &settings))?, origins))
}

fn parse_flags(
    command: &Command,
    arguments: &[OsString],
    settings: &[Arg],
) -> Result<ArgMatches, Failure> {
    let parsed = command.clone().try_get_matches_from(arguments);
    parsed.map_err(|error| {
        if !is_help(&error) {
            return usage(error, settings);
        }
        let help = show_variables(command.clone(), settings).try_get_matches_from(arguments);
        Failure::Usage(help.err().filter(is_help).unwrap_or(error))
    })
}

/// Returns the value of a setting that has no flag on the command line: the environment variable
/// or, if there is none, the value in the file.
fn default(
    key: &str,
    file: &SettingsFile,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Option<(OsString, Origin)> {
    let name = variable_name(key);
    if let Some(text) = variable(&name) {
        return Some((text, Origin::Variable(name)));
    }
    let (text, origin) = file.get(key)?;
    Some((text.into(), origin))
}

/// Returns all settings, as declared by the modules.
pub(super) fn settings() -> Vec<Arg> {
    let settings = Settings::augment_args(Command::new("haversack"));
    settings.get_arguments().cloned().collect()
}

/// Returns the key that a setting has in the configuration file.
pub(super) fn key(setting: &Arg) -> String {
    setting.get_long().unwrap_or_default().replace('-', "_")
}

pub(super) fn variable_name(key: &str) -> String {
    format!("HAVERSACK_{}", key.to_uppercase())
}

fn flag(setting: &Arg) -> String {
    format!("--{}", setting.get_long().unwrap_or_default())
}

/// Returns the clap command of `P`, which accepts settings and `--config` before and after
/// subcommands.
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

/// Returns true if a setting's placeholder in the help is the default that clap derives from its
/// name.
fn has_derived_value_name(setting: &Arg) -> bool {
    let name = setting.get_value_names().and_then(<[_]>::first);
    name.is_none_or(|name| name.to_lowercase().replace('-', "_") == key(setting))
}

/// Returns the help placeholder for the unit in a key, such as `SECONDS`.
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

/// Adds the environment variables to the help. Must not be used for parsing, because clap would
/// reject an invalid variable even if a flag overrides it.
fn show_variables(command: Command, settings: &[Arg]) -> Command {
    settings.iter().fold(command, |command, setting| {
        let name = variable_name(&key(setting));
        command.mut_arg(setting.get_id(), |arg| arg.env(name).hide_env_values(true))
    })
}

/// Validates a value from the file or the environment with the parser of its flag.
fn check(setting: &Arg, text: &OsStr) -> Result<(), String> {
    let mut flag = OsString::from(format!("{}=", flag(setting)));
    flag.push(text);
    Command::new("haversack")
        .arg(setting.clone())
        .try_get_matches_from([OsString::from("haversack"), flag])
        .map(drop)
        .map_err(|error| problem(&error))
}

/// Returns a description of an invalid value. Leaves out the value if the setting may contain a
/// password.
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

/// Converts a clap error into a failure. Invalid flag values are reported in the same form as those
/// from other sources.
fn usage(error: clap::Error, settings: &[Arg]) -> Failure {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return Failure::Usage(error);
    };
    let named = argument.split_whitespace().next();
    let setting = settings
        .iter()
        .find(|setting| Some(flag(setting).as_str()) == named);
    let value = error.get(ContextKind::InvalidValue);
    let is_empty = matches!(value, Some(ContextValue::String(value)) if value.is_empty());
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
