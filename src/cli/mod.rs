//! Parses the command line and runs the commands, each of which has its own file.

/// Prints a line like `println!`, which panics if the reader has closed the pipe.
macro_rules! print_line {
    ($($argument:tt)*) => {
        $crate::cli::terminal::print_line(format_args!($($argument)*))
    };
}

mod bootstrap;
mod client;
mod copy;
mod doctor;
mod gc;
mod line;
mod migrate;
mod partner;
mod send;
mod serve;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Failure, Settings};
use crate::http::api;
use crate::sandbox;
use crate::transcode::worker;

/// A self-hosted attachments server for messaging.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Arguments),
    /// Upload files and send them in one message, as an API client does
    Send(send::Arguments),
    /// Add, change and list partners; works while the server runs
    Partner(partner::Arguments),
    /// Change phone numbers of partners; works while the server runs
    Line(line::Arguments),
    /// Check the configuration and the system, and report how to fix what is wrong
    Doctor,
    /// Apply the database migrations, as every start of the server does
    Migrate,
    /// Copy all data to another database and blob store; can be interrupted and repeated
    Copy(copy::Arguments),
    /// Find orphaned files and attachments with missing files
    Gc(gc::Arguments),
    /// Print the OpenAPI document of the API
    Openapi,
}

/// Runs the command that the arguments name, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // This check comes first: a decoder process must be confined before it does anything else.
    if let [_, command, order, ..] = &arguments[..]
        && command == sandbox::SUBCOMMAND
    {
        return worker::main(order);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "haversack: {}",
                terminal::escaped_lines(&format!("{error:#}"))
            );
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let parsed = config::parse::<Cli>(arguments, &|name| std::env::var_os(name));
    let (Cli { command, settings }, origins) = match parsed {
        Ok(parsed) => parsed,
        Err(Failure::Usage(error)) => error.exit(),
        Err(Failure::Config(error)) => return Err(error.into()),
    };
    let config = || {
        Config::resolve(settings.clone(), &|name| std::env::var(name).ok())
            .map_err(|error| origins.locate(error))
    };
    match command {
        Command::Serve(arguments) => serve::run(config()?, &arguments),
        Command::Send(arguments) => send::run(&config()?, arguments),
        Command::Partner(arguments) => partner::run(&config()?, arguments),
        Command::Line(arguments) => line::run(&config()?, arguments),
        Command::Doctor => doctor::run(&config()?),
        Command::Migrate => migrate::run(&config()?),
        Command::Copy(arguments) => copy::run(&settings, &arguments),
        Command::Gc(arguments) => gc::run(&config()?, &arguments),
        Command::Openapi => {
            print_line!("{}", api::openapi());
            Ok(())
        }
    }
}

/// Runs a short-lived command on a single-threaded runtime.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
