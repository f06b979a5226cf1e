//! The command line: one file a subcommand. Each turns its flags into what the library takes, and its outcome
//! into the exit status that scripts rely on.

mod check;
mod columns;
mod demo;
mod doctor;
mod gate;
mod interruption;
mod lag;
mod manual;
mod output;
mod run;
mod severity;
mod slots;
mod tail;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::source::dsn::{self, SystemEnvironment};
use crate::source::{ConnectError, Connector, Dsn};
use crate::telemetry;

/// A configuration or a command line that cannot be used (`EX_USAGE` of sysexits).
const BAD_CONFIG: u8 = 64;

/// The commands that a mistake ends with [`BAD_CONFIG`]: their other statuses have meanings of their own.
const CHECKED: [&str; 5] = ["run", "lag", "check", "slots", "doctor"];

/// The server cannot be reached, or does not answer.
const UNREACHABLE: u8 = 4;

/// What clap exits with on a command line that it does not understand.
const USAGE: u8 = 2;

/// True lag, identity checks and cutover proof for PostgreSQL logical replication.
#[derive(Debug, Parser)]
#[command(name = "walgate", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Relay clients to a source, and show how far behind each consumer is
    Run(run::Args),
    /// Tell how far behind each consumer of a source is, once or live
    Lag(lag::Args),
    /// Find published tables that will break somebody, and mend them
    Check(check::Args),
    /// List replication slots, drop them, or reset a consumer by them
    Slots(slots::Args),
    /// Ask whether a cutover may go on and why not, set its fence, compare both sides, check receipts
    Gate(gate::Args),
    /// Find what is wrong with a server for replication, each with what mends it
    Doctor(doctor::Args),
    /// Print the changes of publications as they come, decoded, from a temporary slot
    Tail(tail::Args),
    /// See all of it work, on throw-away servers
    Demo(demo::Args),
    /// Print a completion script for a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual page
    Man,
}

/// A connection string that cannot be used.
#[derive(Debug, thiserror::Error)]
enum DsnError {
    #[error("{0}")]
    Text(#[from] dsn::DsnError),
    #[error("{0}")]
    Files(#[from] ConnectError),
}

/// What opens connections by the connection string of the command line, or by the environment where there is none.
fn connector(dsn: Option<&str>) -> Result<Connector, DsnError> {
    let dsn = Dsn::from_argument(dsn, &SystemEnvironment)?;
    for warning in &dsn.warnings {
        eprintln!("walgate: {warning}");
    }
    Ok(Connector::new(dsn)?)
}

/// Does this with the database of a connection string, on one thread. `failed` is the status where nothing can be begun.
fn on<T>(dsn: Option<&str>, failed: ExitCode, work: impl AsyncFnOnce(Connector) -> T) -> Result<T, ExitCode> {
    let connector = connector(dsn).map_err(|error| {
        eprintln!("walgate: {error}");
        ExitCode::from(BAD_CONFIG)
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        eprintln!("walgate: cannot start: {error}");
        failed
    })?;
    let done = runtime.block_on(work(connector));
    // A name server that does not answer is not waited for.
    runtime.shutdown_background();
    Ok(done)
}

/// Runs the command that `arguments` (the program's name first) ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nowhere left to say that standard error is closed.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ if arguments.get(1).is_some_and(|command| CHECKED.iter().any(|checked| command == checked)) => {
                    BAD_CONFIG.into()
                }
                _ => USAGE.into(),
            };
        }
    };
    let level = match cli.command {
        // What goes wrong is the answer, and what is shown must not be written across.
        Command::Lag(_)
        | Command::Check(_)
        | Command::Slots(_)
        | Command::Gate(_)
        | Command::Doctor(_)
        | Command::Demo(_) => "error",
        _ => "info",
    };
    if let Err(error) = telemetry::init_logs(level) {
        eprintln!("walgate: WALGATE_LOG: {error}");
        return BAD_CONFIG.into();
    }
    cli.command.run()
}

impl Command {
    fn run(&self) -> ExitCode {
        match self {
            Command::Run(args) => run::main(args),
            Command::Lag(args) => lag::main(args),
            Command::Check(args) => check::main(args),
            Command::Slots(args) => slots::main(args),
            Command::Gate(args) => gate::main(args),
            Command::Doctor(args) => doctor::main(args),
            Command::Tail(args) => tail::main(args),
            Command::Demo(args) => demo::main(args),
            Command::Completions(args) => manual::completions(args, &mut Cli::command()),
            Command::Man => manual::page(Cli::command()),
        }
    }
}
