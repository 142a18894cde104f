//! The `haversack` program: reads its arguments, runs one command, and says by its exit code how that went.

use std::process::ExitCode;

fn main() -> ExitCode {
    // What the server keeps is for its owner only, whoever made the folder.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    haversack::cli::main()
}
