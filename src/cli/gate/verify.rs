//! `walgate gate verify`: whether source and target hold the same rows, and if not, which.
//!
//! It only looks. What it says goes to standard output once it is done; how far it is, to a terminal on standard error.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ratatui::crossterm::style::Stylize as _;
use ratatui::prelude::IntoCrossterm as _;
use ratatui::style::Color;

use crate::cli::columns::{Column, line_up};
use crate::cli::output::{is_coloured, print};
use crate::cli::{UNREACHABLE, USAGE, connector};
use crate::config;
use crate::gate::Phase;
use crate::identity::in_comment;
use crate::source::Connector;
use crate::units::{self, Size};
use crate::verify::{self, Kind, Options, Outcome, Progress, Report, Sample, Scope, State, TableReport};

/// Nothing that was looked at differs, and not everything was looked at.
pub(super) const UNKNOWN: u8 = 3;

const STATUSES: &str = "\
Exit status:
  0  equal: all rows were looked at, of all tables but those that the gate accepts not to be replicated
  1  something differs
  2  the command line, or a connection string, cannot be used
  3  nothing that was looked at differs, but not everything was looked at, as with --sample
  4  a server cannot be reached, or does not answer

Rows are counted and summed up inside each server; only the keys of rows that differ leave it. Each table is read in one
snapshot, which holds back VACUUM for as long as that takes. For proof, stop the writers first: what is written meanwhile
differs until it has arrived.";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    #[command(flatten)]
    ends: Ends,
    /// Compare the tables of this publication of the source; give it again for more [default: what the gate's consumers
    /// are sent; without a gate, all tables]
    #[arg(long, value_name = "NAME")]
    publication: Vec<String>,
    /// Compare this table only, as SQL writes it: public.orders, public."Order"; give it again for more
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// Look at about this many rows of each table, or this part, at most a million: 100000, 5%
    #[arg(long, value_name = "ROWS|PERCENT")]
    sample: Option<Sample>,
    /// What the sample is chosen by: the same over the same rows gives the same sample [default: another each time]
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    seed: Option<u64>,
    /// Sessions with each server that read
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Read at most this much of each server in a second, like 50MB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    max_rate: Option<Size>,
    /// How long reading one piece of a table, of 32MB, may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    range_timeout: Duration,
    /// How long rows that differ may take to become equal, while changes are under way: 0s is not at all
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// How many keys to name of each table
    #[arg(long, value_name = "N", default_value_t = 20)]
    keys: usize,
    /// How to print what was seen
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// The two databases: those of a gate, or any two.
#[derive(Debug, clap::Args)]
pub(super) struct Ends {
    /// The gate whose source and target are meant, and whose consumers say which tables
    #[arg(value_name = "NAME", requires = "config", conflicts_with_all = ["source", "target"])]
    name: Option<String>,
    /// The file that configures it
    #[arg(short, long, value_name = "FILE", requires = "name")]
    config: Option<PathBuf>,
    /// Without a gate, the source: a connection string, or host:port
    #[arg(long, value_name = "DSN", required_unless_present = "name", requires = "target")]
    source: Option<String>,
    /// Without a gate, the target
    #[arg(long, value_name = "DSN", requires = "source")]
    target: Option<String>,
    /// With rollback, source and target are exchanged
    #[arg(long, value_name = "preflight|cutover|post|rollback", default_value = "cutover")]
    phase: Phase,
}

/// What is between the two databases.
pub(super) struct Way {
    pub(super) source: Connector,
    pub(super) target: Connector,
    /// What is compared, where a gate says it.
    pub(super) options: Option<Options>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// As one object
    Json,
}

impl Ends {
    /// Finds the databases.
    ///
    /// # Errors
    /// The exit status, once it was said what is wrong.
    pub(super) fn way(&self) -> Result<Way, ExitCode> {
        let way = match (&self.name, &self.config) {
            (Some(name), Some(file)) => self.configured(name, file),
            _ => self.given(),
        };
        way.map_err(|problem| {
            eprintln!("walgate: {}", in_comment(&problem));
            USAGE.into()
        })
    }

    /// Which server that is, for a person.
    pub(super) fn target(&self) -> &'static str {
        if self.phase.is_back() { "the source, which a rollback takes for the target" } else { "the target" }
    }

    fn given(&self) -> Result<Way, String> {
        let of =
            |end: &str, dsn: &Option<String>| connector(dsn.as_deref()).map_err(|error| format!("--{end}: {error}"));
        let (mut source, mut target) = (of("source", &self.source)?, of("target", &self.target)?);
        if self.phase.is_back() {
            (source, target) = (target, source);
        }
        Ok(Way { source, target, options: None })
    }

    fn configured(&self, name: &str, file: &Path) -> Result<Way, String> {
        let config = config::read(file).map_err(|error| error.to_string())?;
        let known: Vec<&str> = config.gates.iter().map(|gate| &*gate.terms.name).collect();
        let Some(gate) = config.gates.iter().find(|gate| gate.terms.name == name) else {
            let known = if known.is_empty() { "it has none".into() } else { format!("there is {}", known.join(", ")) };
            return Err(format!("{}: there is no gate {name:?}; {known}", file.display()));
        };
        let source = config.sources.iter().find(|source| source.name == gate.terms.source);
        let options = Options::of(&gate.terms, self.phase);
        let (Some(source), Some(target), Some(options)) = (source, &gate.target, options) else {
            return Err(format!("the target of gate {name:?} is no database to compare with: {}", gate.terms.kind));
        };
        let (source, target) = (source.connector.clone(), target.clone());
        let (source, target) = if self.phase.is_back() { (target, source) } else { (source, target) };
        Ok(Way { source, target, options: Some(options) })
    }
}

/// Does this, on one thread.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        eprintln!("walgate: cannot start: {error}");
        ExitCode::from(UNREACHABLE)
    })?;
    let done = runtime.block_on(work);
    // A name server that does not answer is not waited for.
    runtime.shutdown_background();
    Ok(done)
}

pub(super) fn main(args: &Args) -> ExitCode {
    let Way { source, target, options } = match args.ends.way() {
        Ok(way) => way,
        Err(status) => return status,
    };
    let options = options.unwrap_or_default();
    let options = Options {
        scope: match args.publication.as_slice() {
            [] => options.scope,
            publications => Scope::Publications(publications.to_vec()),
        },
        tables: args.table.clone(),
        accepted: options.accepted,
        accept_missing: options.accept_missing,
        sample: args.sample,
        seed: args.seed.unwrap_or(options.seed),
        jobs: args.jobs.into(),
        range_timeout: args.range_timeout,
        max_rate: args.max_rate.map(|rate| rate.0),
        settle: args.settle,
        keys: args.keys,
    };
    let bar = Bar::new();
    let show = |progress: &Progress| bar.show(progress);
    let ran = block_on(verify::run(&source, &target, &options, &show));
    bar.clear();
    let report = match ran {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => {
            eprintln!("walgate: {}", in_comment(&error.to_string()));
            return ExitCode::from(status(&error));
        }
        Err(status) => return status,
    };
    let text = match args.format {
        Format::Table => Ok(render(&report, is_coloured())),
        Format::Json => serde_json::to_string(&report).map(|text| text + "\n").map_err(io::Error::from),
    };
    if let Err(error) = text.and_then(|text| print(&text)) {
        eprintln!("walgate: {error}");
        return UNKNOWN.into();
    }
    match report.outcome {
        Outcome::Equal => ExitCode::SUCCESS,
        Outcome::Different => ExitCode::FAILURE,
        Outcome::Incomplete => UNKNOWN.into(),
    }
}

/// The exit status where there is no answer.
pub(super) fn status(error: &verify::Error) -> u8 {
    match error {
        error if error.is_unreachable() => UNREACHABLE,
        error if error.is_usage() => USAGE,
        _ => UNKNOWN,
    }
}

const COLUMNS: [Column; 5] =
    [("TABLE", false), ("STATE", false), ("SOURCE ROWS", true), ("TARGET ROWS", true), ("", false)];

fn render(report: &Report, coloured: bool) -> String {
    let number = |rows: Option<u64>| rows.map_or("-".to_owned(), |rows| rows.to_string());
    let rows: Vec<[String; 5]> = report
        .tables
        .iter()
        .map(|table| {
            let name = in_comment(&table.table.to_string());
            [name, word(table.state).to_owned(), number(table.source_rows), number(table.target_rows), seen(table)]
        })
        .collect();
    let mut text = String::new();
    if let Some((headings, lines)) = line_up(&COLUMNS, &rows) {
        let _ = writeln!(text, "{headings}");
        for (line, table) in lines.iter().zip(&report.tables) {
            match color(table.state).filter(|_| coloured) {
                Some(color) => _ = writeln!(text, "{}", line.as_str().with(color.into_crossterm())),
                None => _ = writeln!(text, "{line}"),
            }
            details(&mut text, table);
        }
        text.push('\n');
    }
    let count = |state| report.tables.iter().filter(|table| table.state == state).count();
    let states = [State::Equal, State::Different, State::Sampled, State::Unknown, State::Skipped];
    let counts = states.map(|state| (count(state), state)).into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, state)| format!("{count} {}", word(state))).collect();
    let took = report.ended_at.since(report.began_at).as_secs_f64();
    let verdict = match report.outcome {
        Outcome::Equal if count(State::Skipped) > 0 => "all rows are equal of the tables that were looked at",
        Outcome::Equal => "all rows are equal",
        Outcome::Different => "source and target differ",
        Outcome::Incomplete if report.tables.is_empty() => "there was no table to look at, so nothing is proved",
        Outcome::Incomplete => "no difference was found, but not everything was looked at",
    };
    let counts = if counts.is_empty() { "0 tables".to_owned() } else { counts.join(", ") };
    let seed = report.seed.map(|seed| format!(" Sample of --seed {seed}.")).unwrap_or_default();
    let _ = writeln!(text, "{counts}: {verdict}.{seed} Looked at from {} for {took:.1} s.", report.began_at);
    text
}

/// What there is to say of a table in its line.
fn seen(table: &TableReport) -> String {
    let mut parts = Vec::new();
    if let Some(sample) = table.sample {
        let of = sample.of_about.map_or(String::new(), |rows| format!(" of about {rows}"));
        let seen = if table.state == State::Sampled { "no difference in the sample: " } else { "" };
        parts.push(format!("{seen}{}{of} rows looked at, the rest not", sample.rows));
    }
    parts.extend(table.reason.as_deref().map(in_comment));
    if table.settled > 0 {
        parts.push(format!("{} rows were under way and are equal now", table.settled));
    }
    parts.join("; ")
}

fn details(text: &mut String, table: &TableReport) {
    for column in &table.columns {
        let of = |it: &Option<Box<str>>| it.as_deref().map_or("missing".to_owned(), in_comment);
        let (source, target) = (of(&column.source), of(&column.target));
        let _ =
            writeln!(text, "    column {}: {source} on the source, {target} on the target", in_comment(&column.column));
    }
    if let Some(rows) = &table.rows {
        let least = if rows.not_narrowed > 0 { "at least " } else { "" };
        let counts = [(rows.missing, "missing"), (rows.extra, "extra"), (rows.changed, "changed")];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts.map(|(count, kind)| format!("{count} {kind}")).collect();
        if !counts.is_empty() {
            let _ = writeln!(text, "    {least}{} on the target", counts.join(", "));
        }
        if rows.not_narrowed > 0 {
            let _ = writeln!(
                text,
                "    {} of {} ranges of keys differ, of which {} were not looked into",
                rows.ranges.different, rows.ranges.all, rows.not_narrowed
            );
        }
        for difference in &rows.keys {
            let kind = match difference.kind {
                Kind::Missing => "missing",
                Kind::Extra => "extra",
                Kind::Changed => "changed",
            };
            let _ = writeln!(text, "    {kind:<7}  {}", in_comment(&difference.to_string()));
        }
        let more = rows.known().saturating_sub(rows.keys.len() as u64);
        if more > 0 {
            let _ = writeln!(text, "    and {more} more");
        }
    }
    for note in &table.notes {
        let _ = writeln!(text, "    {}", in_comment(note));
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Equal => "equal",
        State::Different => "different",
        State::Sampled => "sampled",
        State::Unknown => "unknown",
        State::Skipped => "skipped",
    }
}

fn color(state: State) -> Option<Color> {
    match state {
        State::Equal => Some(Color::Green),
        State::Different => Some(Color::Red),
        State::Sampled | State::Unknown => Some(Color::Yellow),
        State::Skipped => None,
    }
}

/// Shows on a terminal how far it is.
struct Bar {
    began: Instant,
    /// When it was drawn last; none where there is no terminal.
    drawn: Option<Mutex<Instant>>,
}

impl Bar {
    const WIDTH: u64 = 30;
    const INTERVAL: Duration = Duration::from_millis(100);

    fn new() -> Bar {
        let began = Instant::now();
        Bar { began, drawn: io::stderr().is_terminal().then(|| Mutex::new(began)) }
    }

    fn show(&self, progress: &Progress) {
        let Some(drawn) = &self.drawn else { return };
        let mut drawn = drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.elapsed() >= Bar::INTERVAL {
            *drawn = Instant::now();
            // Cleared to the end of the line, and no wider than it.
            let known = ratatui::crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns));
            let width = known.filter(|columns| *columns > 0).unwrap_or(80);
            let line: String = line(progress, self.began.elapsed()).chars().take(width.saturating_sub(1)).collect();
            let _ = write!(io::stderr(), "\r{line}\x1b[K");
        }
    }

    fn clear(&self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(progress: &Progress, elapsed: Duration) -> String {
    let (done, all) = (progress.bytes_done, progress.bytes.max(progress.bytes_done).max(1));
    let filled = (u128::from(done) * u128::from(Bar::WIDTH) / u128::from(all)) as usize;
    let bar = format!("{:<width$}", "#".repeat(filled), width = Bar::WIDTH as usize);
    let eta = match done {
        0 => "ETA unknown".to_owned(),
        _ => {
            let left = elapsed.as_secs_f64() * (all - done) as f64 / done as f64;
            format!("ETA {}", humantime::format_duration(Duration::from_secs(left.ceil() as u64)))
        }
    };
    let table =
        progress.table.as_ref().map(|table| format!("  {}", in_comment(&table.to_string()))).unwrap_or_default();
    let percent = u128::from(done) * 100 / u128::from(all);
    let place = (progress.tables_done + 1).min(progress.tables);
    format!("[{bar}] {percent:>3}%  table {place} of {}  {eta}{table}", progress.tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_says_how_long_the_rest_takes() {
        let progress = Progress { tables_done: 2, tables: 5, bytes_done: 25, bytes: 100, ..Progress::default() };
        let shown = line(&progress, Duration::from_secs(20));
        assert_eq!(shown, "[#######                       ]  25%  table 3 of 5  ETA 1m");
        assert!(line(&Progress::default(), Duration::ZERO).contains("0%  table 0 of 0  ETA unknown"));
        let more = Progress { bytes_done: 100, bytes: 10, ..progress };
        assert!(line(&more, Duration::from_secs(1)).contains("100%"));
    }
}
