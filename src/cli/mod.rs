//! The command line: one file a command.

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

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Flags};
use crate::sandbox;
use crate::transcode::worker;

/// A self-hosted attachments server for messaging.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Arguments),
    /// Upload files and send them in one message, as a client would over HTTP
    Send(send::Arguments),
    /// Add, change and list partners; works while the server runs
    Partner(partner::Arguments),
    /// Bring the tables of the database up to this version, as every start does
    Migrate,
    /// Change phone numbers of partners; works while the server runs
    Line(line::Arguments),
    /// Move everything to another database and another store; can be stopped and begun anew
    Copy(copy::Arguments),
    /// Find files that nothing names, and attachments whose files are lost
    Gc(gc::Arguments),
    /// Check the configuration, and say what is wrong and how to mend it
    Doctor,
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    // The decoder process comes before everything else: it must be confined before it does anything.
    let mut arguments = std::env::args_os().skip(1);
    if let (Some(command), Some(order)) = (arguments.next(), arguments.next())
        && command == sandbox::SUBCOMMAND
    {
        return worker::main(&order);
    }
    let Cli { command, flags } = Cli::parse();
    let given = flags.clone();
    let result =
        Config::load(flags)
            .map_err(anyhow::Error::from)
            .and_then(|config| match command {
                Command::Serve(arguments) => serve::run(config, &arguments),
                Command::Send(arguments) => send::run(&config, arguments),
                Command::Partner(arguments) => partner::run(&config, arguments),
                Command::Migrate => migrate::run(&config),
                Command::Line(arguments) => line::run(&config, arguments),
                Command::Copy(arguments) => copy::run(&given, &arguments),
                Command::Gc(arguments) => gc::run(&config, &arguments),
                Command::Doctor => doctor::run(&config),
            });
    match result {
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

/// The runtime of the commands that are done soon.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
