//! The answer for people: a line for each consumer, and below it what is wrong.

use std::fmt::Write as _;

use ratatui::crossterm::style::Stylize as _;
use ratatui::prelude::IntoCrossterm as _;
use ratatui::style::Color;

use super::figures::{UNKNOWN, behind, count, eta, exact, size};
use super::limits::{Judgement, Limits, Verdict};
use super::probe::Answer;
use crate::cli::columns::{Column, line_up};
use crate::lag::{ConsumerReport, State};

const COLUMNS: [Column; 12] = [
    ("slot", false),
    ("kind", false),
    ("state", false),
    ("stage", false),
    ("behind", true),
    ("transactions", true),
    ("rows", true),
    ("bytes", true),
    ("undecoded", true),
    ("retained", true),
    ("eta", true),
    ("seen by", false),
];

/// The whole answer, but for what stands in the way of it.
pub(super) fn render(answer: &Answer, limits: &Limits, coloured: bool) -> String {
    let paint = |text: String, color: Option<Color>| match color.filter(|_| coloured) {
        Some(color) => text.with(color.into_crossterm()).to_string(),
        None => text,
    };
    let rows: Vec<[String; COLUMNS.len()]> = answer.consumers.iter().map(cells).collect();
    let mut text = String::new();
    let (headings, lines) = line_up(&COLUMNS, &rows).unwrap_or_default();
    if !lines.is_empty() {
        let _ = writeln!(text, "{}", paint(headings, Some(Color::DarkGray)));
    }
    for (line, (report, judgement)) in lines.into_iter().zip(answer.judged()) {
        let _ = writeln!(text, "{}", paint(line, color(report, judgement)));
        for reason in &judgement.reasons {
            let _ = writeln!(text, "  {}", paint(reason.clone(), Some(Color::DarkGray)));
        }
    }
    for (hindrance, slots) in hindrances(answer) {
        let _ = writeln!(text, "{}", paint(format!("{}: {hindrance}", slots.join(", ")), Some(Color::DarkGray)));
    }
    if limits.any() {
        let verdict = format!("{}{limits}", answer.verdict.as_str());
        let _ = writeln!(text, "{}", paint(verdict, Some(answer.verdict.color())));
    }
    text
}

/// What else there is to say of a consumer.
pub(super) fn notes(report: &ConsumerReport, judgement: &Judgement) -> Vec<String> {
    judgement.reasons.iter().cloned().chain(hindrance(report)).collect()
}

/// Why its figures are no better.
fn hindrance(report: &ConsumerReport) -> Option<String> {
    let is_told = report.state == State::Live || report.wal_status.as_deref() == Some("lost");
    report.observe_reason.as_ref().filter(|_| !is_told).map(|reason| format!("not seen any better: {reason}"))
}

/// The same of all of them, each once, with whom it is about: most of the time it is one thing.
fn hindrances(answer: &Answer) -> Vec<(String, Vec<&str>)> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for report in &answer.consumers {
        let Some(hindrance) = hindrance(report) else { continue };
        match found.iter_mut().find(|(known, _)| *known == hindrance) {
            Some((_, slots)) => slots.push(report.slot.as_str()),
            None => found.push((hindrance, vec![report.slot.as_str()])),
        }
    }
    found
}

fn cells(report: &ConsumerReport) -> [String; COLUMNS.len()] {
    let number = |figure: u64| figure.to_string();
    [
        report.slot.to_string(),
        report.kind.as_str().into(),
        report.state.as_str().into(),
        report.stage.map_or(UNKNOWN, |stage| stage.as_str()).into(),
        behind(report),
        count(report, report.lag.transactions, number),
        count(report, report.lag.rows, number),
        count(report, report.lag.bytes, size),
        exact(report.lag.undecoded_wal_bytes, size),
        exact(report.retained_wal_bytes, size),
        eta(report),
        report.observe.as_str().into(),
    ]
}

fn color(report: &ConsumerReport, judgement: &Judgement) -> Option<Color> {
    match (judgement.verdict, report.state) {
        (Verdict::Ok, State::Live) => None,
        (Verdict::Ok, _) => Some(Color::DarkGray),
        (verdict, _) => Some(verdict.color()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::samples::{answer, bounded, live, lost, unknown};
    use super::*;

    #[test]
    fn columns_line_up_and_what_is_wrong_stands_below() {
        let limits = Limits { age: Some(Duration::from_secs(5)), lag: None };
        let consumers =
            vec![live("green_sub", 1.23), bounded("wal2json", None, Some(180.0)), lost("old"), unknown("zero_0_a")];
        let text = render(&answer(&limits, consumers), &limits, false);
        let expected = "\
slot       kind     state    stage       behind  transactions  rows  bytes  undecoded  retained   eta  seen by
green_sub  logical  live     consumer     1.2 s             3    41  40 kB    0 bytes    121 kB  41 s  slot
wal2json   logical  bounded  walsender  ≤ 3 min             ?     ?      ?     977 kB    121 kB     -  poll
  up to 3 min behind (limit 5s)
old        logical  unknown  ?                ?             ?     ?      ?          ?         ?     -  poll
  the slot is lost (it fell too far behind): its consumer must be set up anew
zero_0_a   logical  unknown  ?                ?             ?     ?      ?          ?         ?     -  poll
  how far behind it is cannot be told
wal2json, zero_0_a: not seen any better: its output plugin is wal2json, not pgoutput
CRITICAL (at most 5s)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn colours_are_only_there_when_asked_for() {
        let limits = Limits::default();
        let shown = |coloured| render(&answer(&limits, vec![lost("old")]), &limits, coloured);
        assert!(!shown(false).contains('\x1b'));
        // The library itself keeps to NO_COLOR, which the test may run with.
        assert!(shown(true).contains('\x1b') || std::env::var_os("NO_COLOR").is_some());
    }
}
