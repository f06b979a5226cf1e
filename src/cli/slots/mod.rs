//! `walgate slots`: what is there, and the two things that runbooks do with it: drop slots, and reset the consumer that reads
//! them.
//!
//! Nothing is changed before it was shown and agreed to, and everything is about the slots that were shown: one that is made
//! meanwhile is another one, whatever its name.

mod drop;
mod list;
mod mark;
mod pattern;
mod plan;
mod reset;
mod wait;

use std::io;
use std::process::ExitCode;

use clap::Subcommand;

use super::UNREACHABLE;
use crate::source::{ConnectError, Connector};

const STATUSES: &str = "\
Exit status:
  0   done; also where no slot matches, so that nothing is left to do
  1   refused, or not done to the end
  4   the server cannot be reached, or does not answer
  64  the command line or the connection string cannot be used

A PATTERN is one of SQL's LIKE: % stands for any characters and _ for any one; \\_ is an underscore.";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    /// The server: a connection string, or host:port. Without it DATABASE_URL and the PG… variables count
    #[arg(value_name = "DSN")]
    dsn: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show slots, what they keep and who reads them
    #[command(after_help = STATUSES, override_usage = "walgate slots [DSN] list [OPTIONS] [PATTERN]")]
    List(list::Args),
    /// Drop slots, after showing them and asking
    #[command(after_help = STATUSES, override_usage = "walgate slots [DSN] drop [OPTIONS] <PATTERN>")]
    Drop(drop::Args),
    /// Have a consumer start anew: drop its slots, wait for its new ones, and until it has caught up
    #[command(after_help = STATUSES, override_usage = "walgate slots [DSN] reset [OPTIONS] <PATTERN>")]
    Reset(reset::Args),
}

#[derive(Debug, thiserror::Error)]
enum SlotsError {
    #[error("{0}")]
    Unreachable(#[from] ConnectError),
    #[error("{0}")]
    Output(#[from] io::Error),
    #[error(
        "where the reset stands cannot be noted, and without that it cannot be run again safely: {0}; set XDG_STATE_HOME to a \
         directory that can be written to"
    )]
    Mark(io::Error),
}

pub(super) fn main(args: &Args) -> ExitCode {
    match super::on(args.dsn.as_deref(), ExitCode::FAILURE, async |connector| run(args, &connector).await) {
        Ok(Ok(is_done)) => ExitCode::from(u8::from(!is_done)),
        Ok(Err(error)) => {
            eprintln!("walgate: {error}");
            match error {
                SlotsError::Unreachable(_) => UNREACHABLE.into(),
                SlotsError::Output(_) | SlotsError::Mark(_) => ExitCode::FAILURE,
            }
        }
        Err(status) => status,
    }
}

/// Returns whether it is done.
async fn run(args: &Args, connector: &Connector) -> Result<bool, SlotsError> {
    match &args.action {
        Action::List(args) => list::run(args, connector).await,
        Action::Drop(args) => drop::run(args, connector).await,
        Action::Reset(args) => reset::run(args, connector).await,
    }
}
