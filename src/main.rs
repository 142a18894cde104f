//! The `haversack` program: reads its arguments, runs one command, and says by its exit code how that went.

use std::process::ExitCode;

fn main() -> ExitCode {
    haversack::cli::main()
}
