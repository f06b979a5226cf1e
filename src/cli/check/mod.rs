//! `walgate check`: which published tables will break somebody, and the SQL that mends each.
//!
//! It only looks, unless `--apply` is given. Then it runs what it would print with `--format sql`, after asking, and looks
//! again: what it says in the end is what it has seen in the end.

mod apply;
mod script;
mod table;

use std::collections::HashSet;
use std::io;
use std::process::ExitCode;

use super::output::{is_coloured, print};
use super::{UNREACHABLE, severity};
use crate::identity::{Audit, RuleSet, Scope, Severity};
use crate::source::catalog::{self, Audited, Budget};
use crate::source::sql::SqlSession;
use crate::source::{ConnectError, Connector};

/// What a mend uncovers is mended too, but not without end.
const ROUNDS: usize = 3;

const STATUSES: &str = "\
Exit status:
  0   clean: no finding as bad as --fail-on says
  1   findings, or some are left after --apply
  4   the server cannot be reached, or does not answer
  64  the command line or the connection string cannot be used

Nothing is changed without --apply. The script of --format sql can be run twice.";

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
    /// How bad a finding must be to count, and to be mended
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Mend what has one way to be mended, after asking
    #[arg(long, conflicts_with = "format")]
    apply: bool,
    /// Do not ask
    #[arg(long, requires = "apply")]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    /// Something breaks
    Error,
    /// Something is silently worse than it looks
    Warning,
}

impl FailOn {
    fn severity(self) -> Severity {
        match self {
            FailOn::Error => Severity::Error,
            FailOn::Warning => Severity::Warning,
        }
    }
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
enum CheckError {
    #[error("{0}")]
    Unreachable(#[from] ConnectError),
    #[error("{0}")]
    Output(#[from] io::Error),
    #[error(
        "stopped: what was under way ends as soon as the server notices, or is done by then. What was done stays; run this \
         again for the rest"
    )]
    Stopped,
}

pub(super) fn main(args: &Args) -> ExitCode {
    match super::on(args.dsn.as_deref(), UNREACHABLE.into(), async |connector| run(args, &connector).await) {
        Ok(Ok(is_clean)) => ExitCode::from(u8::from(!is_clean)),
        Ok(Err(error)) => {
            eprintln!("walgate: {error}");
            match error {
                CheckError::Unreachable(_) | CheckError::Output(_) => UNREACHABLE.into(),
                CheckError::Stopped => ExitCode::FAILURE,
            }
        }
        Err(status) => status,
    }
}

/// Returns whether nothing is left that counts.
async fn run(args: &Args, connector: &Connector) -> Result<bool, CheckError> {
    let scope = Scope { rule_sets: args.rule_sets.iter().copied().collect(), publications: args.publication.clone() };
    let session = connector.sql().await?;
    let counts = args.fail_on.severity();
    let mut audited = catalog::audit(&session, &scope, Budget::ONCE).await?;
    if args.apply {
        audited = mend(args, &session, &scope, audited).await?;
    } else {
        let text = match args.format {
            Format::Table => table::render(&audited.audit, counts, &again(args, &scope), is_coloured()),
            Format::Json => format!("{}\n", serde_json::to_string(&audited.audit).map_err(io::Error::from)?),
            Format::Sql => script::render(&audited, counts),
        };
        print(&text)?;
    }
    Ok(audited.audit.at_least(counts).next().is_none())
}

/// Mends, looks again, and mends what has come to light, until nothing is left that can be.
async fn mend(args: &Args, session: &SqlSession, scope: &Scope, mut audited: Audited) -> Result<Audited, CheckError> {
    let counts = args.fail_on.severity();
    let mut run: HashSet<String> = HashSet::new();
    for _ in 0..ROUNDS {
        let mut steps = script::steps(&audited.audit, counts);
        // What has been run and did not help does not help a second time.
        steps.retain(|step| run.insert(step.sql.clone()));
        if steps.is_empty() || !args.yes && !apply::is_wanted(&steps)? {
            break;
        }
        let is_done = apply::run(session, &steps).await?;
        audited = catalog::audit(session, scope, Budget::ONCE).await?;
        if !is_done {
            break;
        }
    }
    print(&table::render(&audited.audit, counts, &again(args, scope), is_coloured()))?;
    Ok(audited)
}

/// The command line that mends what this one has found. A password may be part of the connection string, so that is left out.
fn again(args: &Args, scope: &Scope) -> String {
    let dsn = if args.dsn.is_some() { " DSN" } else { "" };
    let fail_on = if args.fail_on == FailOn::Warning { " --fail-on warning" } else { "" };
    format!("walgate check{dsn}{}{fail_on}", scope.flags())
}

/// How many findings there are of each severity.
fn counts(audit: &Audit) -> String {
    severity::counts(audit.findings.iter().map(|finding| finding.severity))
}
