//! `walgate gate`: proof that a cutover is safe.

mod sequences;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Compare the rows of source and target, inside the servers
    Verify(verify::Args),
    /// Compare the sequences of source and target, and bring the target's up
    Sequences(sequences::Args),
}

pub(super) fn main(args: &Args) -> ExitCode {
    match &args.action {
        Action::Verify(args) => verify::main(args),
        Action::Sequences(args) => sequences::main(args),
    }
}
