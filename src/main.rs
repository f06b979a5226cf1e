//! The `walgate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    walgate::cli::main(std::env::args_os())
}
