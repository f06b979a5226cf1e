//! What is wrong with a server for replication, and the mend: pure functions over a snapshot of it.
//!
//! [`source::checkup`](crate::source::checkup) reads the [`Checkup`]; [`examine`] judges it by the rules, each one item with
//! its id, its severity and what it says. What could not be looked at is a problem of its own, and what is well is said
//! as well: healthy is what was seen to be so. Published tables that break somebody are the business of
//! [`identity`](crate::identity), whose findings are part of the answer.

mod checkup;
mod rules;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

pub use checkup::*;

use crate::identity::Severity;
use rules::Found;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The rule's id: what it is about, and what is wrong with that.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The slot, the backend, the subscription; empty where it is about the server.
    pub subject: String,
    /// What was seen, and what it leads to.
    pub message: String,
    /// What mends it, line by line: SQL that can be run as it is, and comments; what destroys something, and what a person
    /// must choose, is a comment.
    pub mend: Vec<String>,
}

/// What was looked at and is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Well {
    /// The rule's id.
    pub rule: &'static str,
    /// What was seen.
    pub seen: String,
}

/// How a server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What is wrong, by what it is about, the worst first.
    pub problems: Vec<Problem>,
    /// What is well.
    pub well: Vec<Well>,
}

impl Problem {
    /// What it is about, as a heading.
    pub fn about(&self) -> &'static str {
        match self.rule.split('/').next() {
            Some("server") => "the server",
            Some("role") => "the role",
            Some("wal") => "WAL on disk",
            Some("slot") => "slots",
            Some("transaction") => "transactions",
            Some("lock") => "locks",
            Some("standby") => "the standby",
            Some("subscription") => "subscriptions",
            _ => "published tables",
        }
    }
}

impl Diagnosis {
    /// Whether nothing is wrong but for what is good to know.
    pub fn is_healthy(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity == Severity::Info)
    }
}

/// Judges what was seen of a server.
pub fn examine(checkup: &Checkup) -> Diagnosis {
    let (mut problems, mut well) = (Vec::new(), Vec::new());
    for rule in rules::all() {
        let mut found = Found { rule, problems: Vec::new() };
        let looked = (rule.check)(checkup, &mut found);
        match looked.filter(|_| found.problems.is_empty()) {
            Some(seen) => well.push(Well { rule: rule.id, seen }),
            None => problems.append(&mut found.problems),
        }
    }
    let mut of_tables = rules::of_tables(checkup);
    if let Some(seen) = rules::tables_are_well(checkup).filter(|_| of_tables.is_empty()) {
        well.push(Well { rule: "walgate check", seen });
    }
    problems.append(&mut of_tables);
    let mut worst: BTreeMap<&'static str, Severity> = BTreeMap::new();
    for problem in &problems {
        let known = worst.entry(problem.about()).or_insert(problem.severity);
        *known = problem.severity.max(*known);
    }
    let worst = |about| Reverse(worst.get(about).copied());
    problems.sort_by_key(|problem| (worst(problem.about()), problem.about(), Reverse(problem.severity)));
    Diagnosis { problems, well }
}
