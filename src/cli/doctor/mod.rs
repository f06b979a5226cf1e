//! `walgate doctor`: what is wrong with a server for replication, each with its mend. It only looks.

mod bundle;
mod table;

use std::io;
use std::process::ExitCode;

use super::output::{is_coloured, print};
use super::{BAD_CONFIG, UNREACHABLE};
use crate::doctor::{Checkup, Diagnosis, examine};
use crate::identity::{RuleSet, Scope};
use crate::source::checkup::checkup;
use crate::source::{ConnectError, Connector};
use bundle::Bundle;

const STATUSES: &str = "\
Exit status:
  0   healthy: nothing is wrong, but for what is good to know
  1   something is wrong, or could not be looked at
  4   the server cannot be reached, or does not answer
  64  the command line, the connection string or the file cannot be used

Nothing is changed. The bundle has no passwords, of statements no more than the first words, and
of the connection strings of subscriptions where they lead; it has the names of tables, roles,
slots and prepared transactions.";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    /// The server: a connection string, or host:port. Without it DATABASE_URL and the PG… variables count
    #[arg(value_name = "DSN")]
    dsn: Option<String>,
    /// Whose rules hold for published tables besides PostgreSQL's own: zero or pglogical; give it again for more
    #[arg(long = "for", value_name = "CONSUMER")]
    rule_sets: Vec<RuleSet>,
    /// Write all that was seen to a new file, as JSON, for a ticket; - is standard output, in place of the text
    #[arg(long, value_name = "FILE")]
    bundle: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum DoctorError {
    #[error("{0}")]
    Unreachable(#[from] ConnectError),
    #[error("{0}")]
    Output(#[from] io::Error),
    #[error("{0}")]
    Bundle(String),
}

pub(super) fn main(args: &Args) -> ExitCode {
    let bundle = match args.bundle.as_deref().map(Bundle::begin).transpose() {
        Ok(bundle) => bundle,
        Err(error) => {
            eprintln!("walgate: {error}");
            return BAD_CONFIG.into();
        }
    };
    match super::on(args.dsn.as_deref(), UNREACHABLE.into(), async |connector| run(args, bundle, &connector).await) {
        Ok(Ok(is_healthy)) => ExitCode::from(u8::from(!is_healthy)),
        Ok(Err(error)) => {
            eprintln!("walgate: {error}");
            match error {
                DoctorError::Unreachable(_) => UNREACHABLE.into(),
                DoctorError::Output(_) => ExitCode::FAILURE,
                DoctorError::Bundle(_) => BAD_CONFIG.into(),
            }
        }
        Err(status) => status,
    }
}

/// Returns whether the server is healthy.
async fn run(args: &Args, bundle: Option<Bundle>, connector: &Connector) -> Result<bool, DoctorError> {
    let scope = Scope { rule_sets: args.rule_sets.iter().copied().collect(), publications: Vec::new() };
    let seen = checkup(connector, &scope).await?;
    let diagnosis = examine(&seen);
    if !matches!(bundle, Some(Bundle::Output)) {
        print(&table::render(&seen, &diagnosis, is_coloured()))?;
    }
    if let Some(bundle) = bundle {
        bundle.write(&seen, &diagnosis)?;
    }
    Ok(diagnosis.is_healthy())
}
