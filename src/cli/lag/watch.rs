//! `--watch` where there is no terminal: a line for each consumer every second, for a file or another program.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::figures::UNKNOWN;
use super::limits::Verdict;
use super::probe::{Answer, Probe};
use super::{json, print};
use crate::time::PgTimestamp;

/// Between two lines.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

const HEADING: &str =
    "# time slot state stage seconds seconds_max transactions rows bytes undecoded_wal_bytes verdict\n";

/// Prints until SIGTERM, SIGINT or the reader's end; returns the last verdict. The first line waits for an answer, until
/// the deadline.
pub(super) async fn run(probe: &Probe, as_json: bool, deadline: Instant) -> io::Result<Verdict> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut verdict = Verdict::Unknown;
    tokio::select! {
        ended = print_all(probe, as_json, deadline, &mut verdict) => ended?,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(verdict)
}

/// Prints until nobody reads on.
async fn print_all(probe: &Probe, as_json: bool, deadline: Instant, verdict: &mut Verdict) -> io::Result<()> {
    if !as_json && !print(HEADING)? {
        return Ok(());
    }
    let mut told = Vec::new();
    let mut answer = probe.settle(deadline).await;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once.
    ticks.tick().await;
    loop {
        *verdict = answer.verdict;
        let remarks: Vec<String> = answer.remarks().map(str::to_owned).collect();
        if remarks != told {
            remarks.iter().for_each(|remark| eprintln!("walgate: {remark}"));
            told = remarks;
        }
        let text = if as_json { json(&answer)? } else { lines(&answer, PgTimestamp::now()) };
        if !print(&text)? {
            return Ok(());
        }
        ticks.tick().await;
        answer = probe.look();
    }
}

/// Fields without units, one blank between them, and `?` for what is not known.
fn lines(answer: &Answer, time: PgTimestamp) -> String {
    let seconds = |figure: Option<f64>| figure.map_or(UNKNOWN.into(), |figure| format!("{figure:.3}"));
    let number = |figure: Option<u64>| figure.map_or(UNKNOWN.into(), |figure| figure.to_string());
    let mut text = String::new();
    for (report, judgement) in answer.judged() {
        let lag = &report.lag;
        let _ = writeln!(
            text,
            "{time} {} {} {} {} {} {} {} {} {} {}",
            report.slot,
            report.state.as_str(),
            report.stage.map_or(UNKNOWN, |stage| stage.as_str()),
            seconds(lag.seconds),
            seconds(lag.seconds_max),
            number(lag.transactions),
            number(lag.rows),
            number(lag.bytes),
            number(lag.undecoded_wal_bytes),
            judgement.verdict.as_str(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::super::samples::{answer, bounded, live};
    use super::*;

    #[test]
    fn a_line_has_a_field_for_each_word_of_the_heading() {
        let text =
            lines(&answer(&Limits::default(), vec![live("a", 1.5), bounded("b", None, Some(9.0))]), PgTimestamp(0));
        assert_eq!(
            text,
            "2000-01-01T00:00:00.000000Z a live consumer 1.500 1.500 3 41 41000 0 OK\n\
             2000-01-01T00:00:00.000000Z b bounded walsender ? 9.000 ? ? ? 1000000 OK\n"
        );
        let fields = HEADING.split_whitespace().count() - 1;
        assert!(text.lines().all(|line| line.split(' ').count() == fields));
    }
}
