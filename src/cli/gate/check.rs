//! `walgate gate check` and `walgate gate wait`: the verdict, for people and by the exit status.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use axum::http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ratatui::crossterm::terminal;
use serde::Deserialize;

use super::daemon::{self, Answer, Daemon, Failure};
use super::text;
use super::{FAILED, Format, TIMED_OUT};
use crate::cli::output::{is_coloured, print};
use crate::gate::Receipt;
use crate::identity::in_comment;
use crate::lsn::Lsn;
use crate::units::{self, Size, age};

/// How long one answer is held: shorter than who stands in between keeps a silent connection, or so short that a person
/// sees how it goes on.
const HELD: Duration = Duration::from_secs(20);
const HELD_FOR_PEOPLE: Duration = Duration::from_secs(1);

/// What an answer takes beyond the time that it is held.
const GRACE: Duration = Duration::from_secs(15);

/// Before a daemon that does not answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

const STATUSES: &str = "\
Exit status:
  0  pass
  1  fail: a person must act
  2  the command line cannot be used, there is no such gate, or the token is wrong
  3  not yet, or nobody can tell
  4  the daemon does not answer";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUSES)]
pub(super) struct Args {
    #[command(flatten)]
    gate: daemon::Which,
    /// The most that may be pending, like 16MB: in preflight instead of the gate's limit, in cutover and rollback besides
    /// what they want
    #[arg(long, value_name = "SIZE")]
    max_lag: Option<Size>,
    /// The most that a consumer may be behind, like 5s: in preflight instead of the gate's limit, in cutover and rollback
    /// besides what they want
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    max_age: Option<Duration>,
    /// A fence of your own: what lies before this position must have arrived; for cutover and rollback
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<Lsn>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What `/v1/gates/…/check` answers, as far as people are shown it.
#[derive(Deserialize)]
pub(in crate::cli) struct Report {
    pub(in crate::cli) gate: String,
    pub(in crate::cli) phase: String,
    pub(in crate::cli) state: String,
    pub(in crate::cli) reason: String,
    pub(in crate::cli) checks: Vec<Check>,
    pub(in crate::cli) receipt: Option<Receipt>,
}

#[derive(Deserialize)]
pub(in crate::cli) struct Check {
    pub(in crate::cli) id: String,
    pub(in crate::cli) status: String,
    pub(in crate::cli) observed: String,
    pub(in crate::cli) expected: String,
    pub(in crate::cli) fix: Option<String>,
}

pub(super) fn main(args: &Args) -> ExitCode {
    let asked = args.gate.daemon().and_then(|daemon| args.ask(&daemon, None, args.gate.timeout));
    match asked {
        Ok((answer, report)) => args.finish(&answer, &report),
        Err(failure) => failure.exit(),
    }
}

/// The last verdict counts, whichever it is. A daemon that does not answer yet may just be starting.
pub(super) fn wait(args: &Args) -> ExitCode {
    let daemon = match args.gate.daemon() {
        Ok(daemon) => daemon,
        Err(failure) => return failure.exit(),
    };
    let began = Instant::now();
    let progress = io::stderr().is_terminal();
    let held = if progress { HELD_FOR_PEOPLE } else { HELD };
    let mut told = false;
    loop {
        let left = args.gate.timeout.saturating_sub(began.elapsed());
        let asked = args.ask(&daemon, Some(left.min(held).max(Duration::from_millis(1))), left.min(held) + GRACE);
        let is_over = began.elapsed() >= args.gate.timeout;
        let reason = match asked {
            Ok((answer, report)) if is_over || matches!(&*report.state, "pass" | "fail") => {
                clear(progress);
                let status = args.finish(&answer, &report);
                if !matches!(&*report.state, "pass" | "fail") {
                    eprintln!("walgate: not within {}", humantime::format_duration(args.gate.timeout));
                }
                return status;
            }
            Ok((_, report)) => format!("{}: {}", report.state, report.reason),
            Err(failure @ Failure::Usage(_)) => {
                clear(progress);
                return failure.exit();
            }
            Err(failure) if is_over => {
                clear(progress);
                return failure.exit();
            }
            Err(failure) => {
                if !progress && !told {
                    eprintln!("walgate: {failure}; trying again");
                    told = true;
                }
                std::thread::sleep(PAUSE.min(left));
                failure.to_string()
            }
        };
        if progress {
            show(&reason, began.elapsed(), args.gate.timeout);
        }
    }
}

impl Args {
    fn ask(&self, daemon: &Daemon, wait: Option<Duration>, timeout: Duration) -> Result<(Answer, Report), Failure> {
        let mut path = format!("gates/{}/check?phase={}", encoded(&self.gate.name), self.gate.phase);
        let duration = |duration| encoded(&humantime::format_duration(duration).to_string());
        let parameters = [
            ("wait", wait.map(|wait| format!("{}ms", wait.as_millis()))),
            ("max_lag", self.max_lag.map(|size| size.to_string())),
            ("max_age", self.max_age.map(duration)),
            ("target_lsn", self.target_lsn.map(|lsn| encoded(&lsn.to_string()))),
        ];
        for (name, value) in parameters {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={value}"));
            }
        }
        let answer = daemon.ask(Method::GET, &path, timeout)?;
        let report: Report = answer.read()?;
        self.gate.is_answered_by(&report.gate, &report.phase)?;
        // A pass is said twice, lest one of the two was made up on the way.
        if (report.state == "pass") != (answer.status == StatusCode::OK) {
            let Report { state, .. } = &report;
            let why = format!("what answers there contradicts itself: {} and {}", answer.status, in_comment(state));
            return Err(Failure::Unreachable(why));
        }
        Ok((answer, report))
    }

    fn finish(&self, answer: &Answer, report: &Report) -> ExitCode {
        let text = match self.format {
            Format::Text => text::report(report, is_coloured()),
            Format::Json => format!("{}\n", answer.body),
        };
        if let Err(error) = print(&text) {
            eprintln!("walgate: {error}");
            return TIMED_OUT.into();
        }
        match &*report.state {
            "pass" => ExitCode::SUCCESS,
            "fail" => FAILED.into(),
            _ => TIMED_OUT.into(),
        }
    }
}

/// As a segment or a value of a URL.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// One line on the terminal, over the one before.
fn show(reason: &str, since: Duration, timeout: Duration) {
    let width = terminal::size().map_or(0, |(columns, _)| columns);
    // It is only for who looks.
    let _ = write!(io::stderr(), "\r\x1b[K{}", line(reason, since, timeout, width));
}

/// What fits into a line of a terminal; one that does not say how wide it is has 80 columns.
fn line(reason: &str, since: Duration, timeout: Duration, columns: u16) -> String {
    let columns = if columns == 0 { 80 } else { usize::from(columns) };
    let whole =
        in_comment(&format!("{} of {}  {reason}", age(since.as_secs_f64().floor()), age(timeout.as_secs_f64())));
    whole.chars().take(columns - 1).collect()
}

fn clear(progress: bool) {
    if progress {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_fits_into_a_line_of_any_terminal() {
        let shown =
            |columns| line("wait: a has 3\nto go", Duration::from_millis(4_200), Duration::from_secs(60), columns);
        assert_eq!(shown(0), "4 s of 60 s  wait: a has 3 to go");
        assert_eq!((shown(8), shown(1)), ("4 s of ".to_owned(), String::new()));
    }
}
