//! `walgate gate`: proof that a cutover is safe.
//!
//! `check`, `wait`, `fence` and `release` ask a daemon over HTTP, as [`daemon`] finds it. The others need none.

mod check;
mod daemon;
mod fence;
mod receipt;
mod sequences;
mod text;
mod verify;

use std::process::ExitCode;

use clap::Subcommand;

pub(super) use check::Report;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Ask once whether to go on, and why not
    Check(check::Args),
    /// Wait until it passes, or fails
    Wait(check::Args),
    /// Set the fence, once writes have stopped
    Fence(fence::Args),
    /// Lift the fence
    Release(fence::Args),
    /// Compare the rows of source and target, inside the servers
    Verify(verify::Args),
    /// Compare the sequences of source and target, and bring the target's up
    Sequences(sequences::Args),
    /// Tell whether a receipt is genuine, and counts
    VerifyReceipt(receipt::Args),
}

/// A gate that does not pass, for which a person must act.
const FAILED: u8 = 1;

/// It has not passed yet, or nobody can tell.
const TIMED_OUT: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// As the daemon answers
    Json,
}

pub(super) fn main(args: &Args) -> ExitCode {
    match &args.action {
        Action::Check(args) => check::main(args),
        Action::Wait(args) => check::wait(args),
        Action::Fence(args) => fence::set(args),
        Action::Release(args) => fence::lift(args),
        Action::Verify(args) => verify::main(args),
        Action::Sequences(args) => sequences::main(args),
        Action::VerifyReceipt(args) => receipt::main(args),
    }
}
