//! What was found, for people: by table, with what mends it.

use std::fmt::Write as _;

use ratatui::style::Color;

use super::script;
use crate::cli::severity::{color, paint};
use crate::identity::{Audit, Finding, Severity, in_comment};

/// Everything, ending with how to mend by `command` what is at least as bad as `counts`.
pub(super) fn render(audit: &Audit, counts: Severity, command: &str, coloured: bool) -> String {
    let paint = |text: &str, color| paint(text, color, coloured);
    let mut text = String::new();
    for group in audit.findings.chunk_by(|a, b| a.table == b.table) {
        match group.first().and_then(|finding| finding.table.as_ref()) {
            Some(table) => _ = writeln!(text, "{}", in_comment(&table.to_string())),
            None => text.push_str("the database\n"),
        }
        for (finding, publications) in folded(group) {
            let severity = paint(&format!("{:<7}", finding.severity), color(finding.severity));
            let _ = write!(text, "  {severity}  {}", finding.rule);
            if !publications.is_empty() {
                let _ = write!(text, "  ({})", in_comment(&publications.join(", ")));
            }
            let _ = writeln!(text, "\n           {}", in_comment(&finding.message));
        }
        let mut shown = Vec::new();
        for mend in group.iter().filter_map(|finding| finding.mend.as_ref()) {
            let sql = mend.to_string();
            for line in sql.lines().map(in_comment).filter(|line| !line.is_empty()) {
                if !shown.contains(&line) {
                    let heading = if shown.is_empty() { "mend" } else { "" };
                    let _ = writeln!(text, "  {heading:<7}  {}", paint(&line, Color::Cyan));
                    shown.push(line);
                }
            }
        }
        text.push('\n');
    }
    let tables = match audit.tables {
        None => "Which tables are published could not be seen".to_owned(),
        Some(0) => "No table is published, so there was nothing to look at".to_owned(),
        Some(1) => "1 published table was looked at".to_owned(),
        Some(tables) => format!("{tables} published tables were looked at"),
    };
    let found = super::counts(audit);
    if found.is_empty() {
        let _ = writeln!(text, "{tables}: {}.", if audit.tables == Some(0) { "no findings" } else { "clean" });
        return text;
    }
    let _ = writeln!(text, "{tables}: {found}.");
    if !script::steps(audit, counts).is_empty() {
        let _ = writeln!(text, "See what mends it: {command} --format sql. Mend it: {command} --apply");
    }
    text
}

/// Findings that say the same of several publications become one.
fn folded(group: &[Finding]) -> Vec<(&Finding, Vec<&str>)> {
    let mut folded: Vec<(&Finding, Vec<&str>)> = Vec::new();
    for finding in group {
        let publication = finding.publication.as_deref();
        let same = |known: &&mut (&Finding, Vec<&str>)| {
            known.0.rule == finding.rule && known.0.message == finding.message && finding.table.is_some()
        };
        match folded.iter_mut().find(same) {
            Some((_, publications)) => publications.extend(publication),
            None => folded.push((finding, publication.into_iter().collect())),
        }
    }
    folded
}
