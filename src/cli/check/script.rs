//! The script that mends what was found: it can be run twice, and what a person must choose is a comment in it.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::identity::{Audit, Run, Severity, Step, block, in_comment};
use crate::source::catalog::Audited;

/// How long a statement waits for others before it gives up: who waits behind it waits as long.
pub(super) const LOCK_TIMEOUT: &str = "3s";

/// The script, for findings that are at least this bad; what mends the others is in it as a comment.
pub(super) fn render(audited: &Audited, counts: Severity) -> String {
    let (audit, server) = (&audited.audit, &audited.catalog.server);
    let version = match server.version {
        0 => String::new(),
        version => format!(" on PostgreSQL {}.{}", version / 10_000, version % 10_000),
    };
    let mut text = format!(
        "-- What mends the findings of walgate check{version}: {}.\n-- psql -v ON_ERROR_STOP=1 runs it; \
         twice, too.{}\n",
        Some(super::counts(audit)).filter(|counts| !counts.is_empty()).unwrap_or_else(|| "there are none".to_owned()),
        match steps(audit, counts).iter().any(|step| step.run == Run::Alone) {
            true => " Not in one transaction (psql -1): an index is built while its table is written to.",
            false => "",
        }
    );
    if audit.findings.iter().all(|finding| finding.mend.is_none()) {
        return text;
    }
    let _ = writeln!(text, "SET statement_timeout = 0;\nSET lock_timeout = '{LOCK_TIMEOUT}';");
    let mut written = HashSet::new();
    for group in audit.findings.chunk_by(|a, b| a.table == b.table) {
        let mut heading = group.first().and_then(|finding| finding.table.as_ref()).map(|table| {
            let mut rules: Vec<&str> = group.iter().map(|finding| finding.rule).collect();
            rules.dedup();
            format!("\n-- {}: {}\n", in_comment(&table.to_string()), rules.join(", "))
        });
        for finding in group {
            for step in finding.mend.iter().flat_map(|mend| &mend.steps) {
                let is_run = finding.severity >= counts;
                // Once is enough; but what another finding only proposes may have to run.
                if written.contains(&(step.sql.clone(), true)) || !written.insert((step.sql.clone(), is_run)) {
                    continue;
                }
                let heading = heading.take().unwrap_or_default();
                text.push_str(&heading);
                write_step(&mut text, step, is_run);
            }
        }
    }
    text
}

/// What can be run as it is to mend findings that are at least this bad, in order.
pub(super) fn steps(audit: &Audit, counts: Severity) -> Vec<Step> {
    let mut known = HashSet::new();
    let mut steps = Vec::new();
    let mends = audit.at_least(counts).filter_map(|finding| finding.mend.as_ref());
    for step in mends.flat_map(|mend| &mend.steps) {
        if step.run != Run::Template && known.insert(&step.sql) {
            steps.push(step.clone());
        }
    }
    steps
}

fn write_step(text: &mut String, step: &Step, is_run: bool) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "-- {}", in_comment(&step.comment));
    let sql = &step.sql;
    let statement = match &step.run {
        Run::Again | Run::Leftover | Run::Template => format!("{sql};"),
        Run::Alone => format!("SET lock_timeout = 0;\n{sql};\nSET lock_timeout = '{LOCK_TIMEOUT}';"),
        Run::Unless(condition) => {
            format!("{};", block(&format!("IF NOT {condition} THEN\n        {sql};\n    END IF;")))
        }
    };
    match is_run && step.run != Run::Template {
        true => _ = writeln!(text, "{statement}"),
        false => _ = writeln!(text, "-- {}", in_comment(&statement)),
    }
}
