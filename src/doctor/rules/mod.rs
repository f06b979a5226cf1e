//! The rules: each one item with its id, its severity and a pure function, which adds what is wrong and returns what it has
//! looked at.

mod activity;
mod server;
mod slot;
mod subscription;

use std::collections::BTreeMap;

use super::Problem;
use super::checkup::Checkup;
use crate::identity::{Scope, Severity, in_comment};

/// A rule.
pub(super) struct Rule {
    /// As problems name it.
    pub(super) id: &'static str,
    /// How bad it is if it does not hold.
    pub(super) severity: Severity,
    /// Returns what it has looked at; `None` where there is nothing to look at, or it was not seen.
    pub(super) check: fn(&Checkup, &mut Found<'_>) -> Option<String>,
}

/// What a rule has found.
pub(super) struct Found<'a> {
    pub(super) rule: &'a Rule,
    pub(super) problems: Vec<Problem>,
}

impl Found<'_> {
    fn add(&mut self, subject: impl Into<String>, message: String, mend: Vec<String>) {
        self.with(self.rule.severity, subject, message, mend);
    }

    /// What is not as bad as usual, or worse.
    fn with(&mut self, severity: Severity, subject: impl Into<String>, message: String, mend: Vec<String>) {
        self.problems.push(Problem { rule: self.rule.id, severity, subject: subject.into(), message, mend });
    }
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    [server::RULES, slot::RULES, activity::RULES, subscription::RULES].into_iter().flatten()
}

/// How many tables a line names.
const NAMED: usize = 3;

/// The findings of `walgate check`, one for each rule.
pub(super) fn of_tables(checkup: &Checkup) -> Vec<Problem> {
    let Some(identity) = checkup.identity.seen() else { return Vec::new() };
    let scope = Scope { rule_sets: identity.rule_sets.clone(), publications: Vec::new() };
    let mend = advice(format!("walgate check DSN{} shows all of it, with the SQL for each", scope.flags()));
    let mut by_rule: BTreeMap<(&'static str, Severity), Vec<_>> = BTreeMap::new();
    for finding in &identity.findings {
        by_rule.entry((finding.rule, finding.severity)).or_default().push(finding);
    }
    let problems = by_rule.into_iter().map(|((rule, severity), findings)| {
        let mut places: Vec<String> = findings.iter().map(|finding| finding.place()).collect();
        places.dedup();
        let more = places.len().saturating_sub(NAMED);
        places.truncate(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = findings.first().map(|finding| finding.message.clone()).unwrap_or_default();
        Problem { rule, severity, subject: format!("{}{more}", places.join("; ")), message, mend: vec![mend.clone()] }
    });
    problems.collect()
}

/// What of the published tables was looked at.
pub(super) fn tables_are_well(checkup: &Checkup) -> Option<String> {
    let (identity, publications) = checkup.identity.seen().zip(checkup.publications.seen())?;
    let publications = many(publications.len(), "publication");
    Some(format!("{publications}, {}: no finding", many(identity.tables?, "published table")))
}

/// What is to be done or known, which SQL cannot do.
fn advice(text: impl AsRef<str>) -> String {
    format!("-- {}", in_comment(text.as_ref()))
}

/// A statement that somebody must choose to run, and what it does besides.
fn choice(sql: &str, warning: &str) -> String {
    format!("-- {};  -- {}", in_comment(sql), in_comment(warning))
}

/// The settings that must not be lower on a standby than on its primary (`CheckRequiredParameterValues` in `xlog.c`).
const STANDBYS_FIRST: [&str; 2] = ["max_wal_senders", "max_worker_processes"];

/// Sets a setting of the server that a restart makes count.
fn set(checkup: &Checkup, name: &str, value: &str) -> Vec<String> {
    if checkup.pending_restart.contains(name) {
        return vec![advice("it is changed in the configuration already: restart the server")];
    }
    let mut mend = vec![advice("counts after a restart; a managed service has its own place for settings")];
    if STANDBYS_FIRST.contains(&name) {
        mend.push(advice("where it has standbys, there first: with less than their primary they stop replaying"));
    }
    mend.push(format!("ALTER SYSTEM SET {name} = {value};"));
    mend
}

/// One, or several of it.
fn many(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
