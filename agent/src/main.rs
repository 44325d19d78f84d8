//! The `tidegate` binary: daemon and command line in one.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::main()
}
