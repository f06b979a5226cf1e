//! `walgate lag`: how far behind the consumers of a source are, seen by sessions of its own: once, or live.
//!
//! A probe is asked when something is wrong, so it answers in time whatever the server does, with what it knows by then:
//! what it could not find out is `unknown`, with a status of its own, and never looks like 0.

pub(super) mod figures;
mod limits;
mod live;
mod nagios;
mod probe;
#[cfg(test)]
mod samples;
mod spark;
mod table;
mod view;
mod watch;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use limits::{Limits, Verdict};
use probe::{Answer, Probe};

use super::BAD_CONFIG;
use super::output::{is_coloured, print};
use crate::ident::SlotName;
use crate::lag::{LagReport, Observe};
use crate::source::Connector;
use crate::telemetry;
use crate::units::{self, Size};

/// When the answer is given, complete or not. What is left of the two seconds that are promised is for the process to
/// start, and to print.
const DEADLINE: Duration = Duration::from_millis(1_800);

const STATUSES: &str = "\
Exit status:
  0   every consumer is seen, and within the limits
  1   a limit may be exceeded, or a slot is near its loss
  2   a limit is exceeded by the least that the lag can be, or a slot is lost
  3   unknown: no answer, no such slot, or nothing that can be told of a consumer
  64  the command line or the connection string cannot be used

The answer comes within 2 s. Without limits, a consumer may be as far behind as it likes.";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    /// The source: a connection string, or host:port. Without it DATABASE_URL and the PG… variables count
    #[arg(value_name = "DSN")]
    dsn: Option<String>,
    /// A consumer, by its slot; give it again for more [default: all of them]
    #[arg(long, value_name = "NAME")]
    slot: Vec<SlotName>,
    /// The publication of consumers that are not there to be asked; give it again for more. What waits in a slot that nobody
    /// reads is counted by it
    #[arg(long, value_name = "NAME")]
    publication: Vec<String>,
    /// The most seconds that a consumer may be behind, like 5s
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    max_age: Option<Duration>,
    /// The most that may be pending for a consumer, like 16MB; WAL that is not decoded yet may be part of it
    #[arg(long, value_name = "SIZE")]
    max_lag: Option<Size>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Look again every second until interrupted: a live view on a terminal, else a line for each consumer
    #[arg(long)]
    watch: bool,
    /// How to look, at best
    #[arg(long, value_enum, default_value_t = Vantage::Slot)]
    observe: Vantage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// As GET /v1/lag answers
    Json,
    /// A plugin's answer with performance data, for Nagios, Icinga and their kin
    Nagios,
    /// Metrics for the node exporter's textfile collector
    Prometheus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Vantage {
    /// Decode a temporary copy of each slot; where that cannot be, fall back to positions
    Slot,
    /// Only compare positions: nothing is created on the server, and figures are bounds
    Poll,
}

pub(super) fn main(args: &Args) -> ExitCode {
    let deadline = Instant::now() + DEADLINE;
    if args.watch && matches!(args.format, Format::Nagios | Format::Prometheus) {
        eprintln!(
            "walgate: --watch prints a table or json; a plugin and a textfile are asked for one answer at a time"
        );
        return BAD_CONFIG.into();
    }
    let unknown = Verdict::Unknown.into();
    match super::on(args.dsn.as_deref(), unknown, async |connector| run(args, connector, deadline).await) {
        Ok(Ok(verdict)) => verdict.into(),
        Ok(Err(error)) => {
            eprintln!("walgate: {error}");
            unknown
        }
        Err(status) => status,
    }
}

async fn run(args: &Args, connector: Connector, deadline: Instant) -> io::Result<Verdict> {
    let limits = Limits { age: args.max_age, lag: args.max_lag };
    let observe = match args.observe {
        Vantage::Slot => Observe::Slot,
        Vantage::Poll => Observe::Poll,
    };
    let probe = Probe::start(connector, args.slot.clone(), args.publication.clone(), observe, limits);
    if args.watch {
        return match args.format {
            Format::Table if io::stdout().is_terminal() && io::stdin().is_terminal() => live::run(&probe).await,
            format => watch::run(&probe, format == Format::Json, deadline).await,
        };
    }
    let answer = probe.settle(deadline).await;
    let text = match args.format {
        Format::Table => table::render(&answer, &limits, is_coloured()),
        Format::Json => json(&answer)?,
        Format::Nagios => nagios::render(&answer, &limits),
        Format::Prometheus => telemetry::render_lag(&answer.consumers),
    };
    if args.format != Format::Nagios {
        answer.remarks().for_each(|remark| eprintln!("walgate: {remark}"));
    }
    print(&text)?;
    Ok(answer.verdict)
}

/// One line, as `GET /v1/lag` answers.
fn json(answer: &Answer) -> io::Result<String> {
    let mut line = serde_json::to_string(&LagReport { consumers: answer.consumers.clone() })?;
    line.push('\n');
    Ok(line)
}
