//! `walgate check`: which published tables will break somebody, and the SQL that mends each.

use std::process::ExitCode;
use std::time::Duration;

use super::{BAD_CONFIG, UNREACHABLE};
use crate::identity::{RuleSet, Scope, Severity};
use crate::source::catalog::{self, Audited, Budget};
use crate::source::dsn::{DsnError, SystemEnvironment};
use crate::source::{ConnectError, Connector, Dsn};

/// How long the values of tables without a key may be looked at.
const BUDGET: Budget = Budget { table: Duration::from_secs(10), total: Duration::from_secs(60) };

const STATUSES: &str = "\
Exit status:
  0   clean: no finding as bad as --fail-on says
  1   findings
  4   the server cannot be reached
  64  the command line or the connection string cannot be used";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    /// The database: a connection string, or host:port. Without it DATABASE_URL and the PG… variables count
    #[arg(value_name = "DSN")]
    dsn: Option<String>,
    /// Whose rules hold besides PostgreSQL's own: zero or pglogical; give it again for more
    #[arg(long = "for", value_name = "CONSUMER")]
    rule_sets: Vec<RuleSet>,
    /// A publication of the consumer that is meant; give it again for more [default: all of them]
    #[arg(long, value_name = "NAME")]
    publication: Vec<String>,
    /// How bad a finding must be to count
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// Something breaks
    Error,
    /// Something is silently worse than it looks
    Warning,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// The findings as one object
    Json,
    /// A script that mends what was found
    Sql,
}

#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("{0}")]
    Dsn(#[from] DsnError),
    #[error("{0}")]
    Connector(#[from] ConnectError),
}

pub(super) fn main(args: &Args) -> ExitCode {
    let connector = match connector(args) {
        Ok(connector) => connector,
        Err(error) => {
            eprintln!("walgate: {error}");
            return BAD_CONFIG.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("walgate: cannot start: {error}");
            return UNREACHABLE.into();
        }
    };
    match runtime.block_on(run(args, &connector)) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("walgate: {error}");
            UNREACHABLE.into()
        }
    }
}

fn connector(args: &Args) -> Result<Connector, UsageError> {
    let dsn = Dsn::from_argument(args.dsn.as_deref(), &SystemEnvironment)?;
    for warning in &dsn.warnings {
        eprintln!("walgate: {warning}");
    }
    Ok(Connector::new(dsn)?)
}

async fn run(args: &Args, connector: &Connector) -> Result<ExitCode, ConnectError> {
    let scope = Scope { rule_sets: args.rule_sets.iter().copied().collect(), publications: args.publication.clone() };
    let session = connector.sql().await?;
    let Audited { audit, .. } = catalog::audit(&session, &scope, BUDGET).await?;
    println!("{}", serde_json::to_string(&audit).unwrap_or_default());
    let worst = match args.fail_on {
        FailOn::Error => Severity::Error,
        FailOn::Warning => Severity::Warning,
    };
    Ok(ExitCode::from(u8::from(audit.at_least(worst).next().is_some())))
}
