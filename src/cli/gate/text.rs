//! Answers for a person at 3 a.m.: the verdict first, then each check with its mark, what was seen, and what to do.

use std::fmt::Write as _;

use ratatui::crossterm::style::Stylize as _;
use ratatui::prelude::IntoCrossterm as _;
use ratatui::style::Color;

use super::check::Report;
use crate::identity::in_comment;

pub(super) fn report(report: &Report, coloured: bool) -> String {
    let paint = |text: &str, color: Color| match coloured {
        true => text.with(color.into_crossterm()).to_string(),
        false => text.to_owned(),
    };
    let Report { gate, phase, state, reason, checks, receipt } = report;
    let (_, color) = mark(state);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let verdict = paint(&state.to_uppercase(), color);
    let _ = writeln!(text, "{verdict}  {phase} of {}: {}\n", in_comment(gate), in_comment(reason));
    let width = checks.iter().map(|check| check.id.len()).max().unwrap_or_default();
    for check in checks {
        let (mark, color) = mark(&check.status);
        let _ = writeln!(text, "{} {:width$}  {}", paint(mark, color), check.id, in_comment(&check.observed));
        if !matches!(&*check.status, "pass" | "skip") {
            let _ = writeln!(text, "  {:width$}  wanted: {}", "", in_comment(&check.expected));
            for line in check.fix.iter().flat_map(|fix| fix.lines()) {
                let _ = writeln!(text, "  {:width$}  {}", "", paint(&format!("→ {}", in_comment(line)), Color::Cyan));
            }
        }
    }
    if let Some(receipt) = receipt {
        let signed = if receipt.hmac.is_some() { "signed" } else { "not signed" };
        let _ = writeln!(text, "\nThe receipt counts until {}; it is {signed}.", receipt.expires_at);
    }
    text
}

fn mark(status: &str) -> (&'static str, Color) {
    match status {
        "pass" => ("✓", Color::Green),
        "wait" => ("…", Color::Yellow),
        "fail" => ("✗", Color::Red),
        "skip" => ("–", Color::DarkGray),
        _ => ("?", Color::Magenta),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Check, Report};
    use super::report;

    #[test]
    fn the_verdict_comes_first_and_only_what_is_in_the_way_is_explained() {
        let check = |id: &str, status: &str, fix: Option<&str>| Check {
            id: id.into(),
            status: status.into(),
            observed: format!("{id} was seen\nso"),
            expected: "that it is so".into(),
            fix: fix.map(str::to_owned),
        };
        let answer = Report {
            gate: "blue-green".into(),
            phase: "cutover".into(),
            state: "fail".into(),
            reason: "somebody writes".into(),
            checks: vec![check("fence", "pass", None), check("stray-writes", "fail", Some("stop them\nand again"))],
            receipt: None,
        };
        let text = "FAIL  cutover of blue-green: somebody writes\n\n\
                    ✓ fence         fence was seen so\n\
                    ✗ stray-writes  stray-writes was seen so\n                wanted: that it is so\n\
                    \x20               → stop them\n                → and again\n";
        assert_eq!(report(&answer, false), text);
        assert!(report(&answer, true).contains("\x1b["));
    }
}
