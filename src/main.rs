//! The `haversack` binary: parses the command line, runs one command, and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The umask makes stored files readable by their owner only, regardless of the folder's
    // permissions.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    haversack::cli::main()
}
