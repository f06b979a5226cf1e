//! What is wrong, for people: by what it is about, with what mends it; then what is well.

use std::fmt::Write as _;

use ratatui::style::Color;

use super::{Checkup, Diagnosis};
use crate::cli::severity::{color, counts, paint};
use crate::identity::in_comment;

/// Everything, ending with a line that sums it up.
pub(super) fn render(checkup: &Checkup, diagnosis: &Diagnosis, coloured: bool) -> String {
    let server = &checkup.server;
    let kind = if server.in_recovery { ", a standby" } else { "" };
    let mut text = in_comment(&format!(
        "PostgreSQL {} at {}{kind}, database {}, as {}",
        server.version, server.host, server.database, server.role
    ));
    text.push_str("\n\n");
    for group in diagnosis.problems.chunk_by(|a, b| a.about() == b.about()) {
        let _ = writeln!(text, "{}", group.first().map(|problem| problem.about()).unwrap_or_default());
        for (number, problem) in group.iter().enumerate() {
            let severity = paint(&format!("{:<7}", problem.severity), color(problem.severity), coloured);
            let subject = in_comment(&problem.subject);
            let space = if subject.is_empty() { "" } else { "  " };
            let _ = writeln!(text, "  {severity}  {}{space}{subject}", problem.rule);
            let _ = writeln!(text, "           {}", in_comment(&problem.message));
            // Once for all that it mends.
            if group.get(number + 1).is_some_and(|next| next.mend == problem.mend) {
                continue;
            }
            for (number, line) in problem.mend.iter().enumerate() {
                let heading = if number == 0 { "mend" } else { "" };
                let _ = writeln!(text, "  {heading:<7}  {}", paint(&in_comment(line), Color::Cyan, coloured));
            }
        }
        text.push('\n');
    }
    text.push_str("well\n");
    let width = diagnosis.well.iter().map(|well| well.rule.len()).max().unwrap_or(0);
    for well in &diagnosis.well {
        let _ = writeln!(text, "  {:<width$}  {}", well.rule, in_comment(&well.seen));
    }
    let found = counts(diagnosis.problems.iter().map(|problem| problem.severity));
    let verdict = if diagnosis.is_healthy() { "healthy" } else { "not healthy" };
    let found = if found.is_empty() { String::new() } else { format!(": {found}") };
    let _ = writeln!(text, "\n{verdict}{found}");
    text
}
