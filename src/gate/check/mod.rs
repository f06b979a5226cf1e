//! The checks, and which phase asks which, in the order in which they are shown.
//!
//! A check is a function of a [`Case`]. What it has no fresh evidence for is `unknown`, and that is where `?` leads.

mod consumer;
mod cutover;
mod post;
mod preflight;

use std::fmt;

use serde::Serialize;

use super::case::Case;
use super::terms::Phase;

/// How a check, or a gate, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is proven.
    Pass,
    /// Not yet; time may cure it.
    Wait,
    /// A person must act.
    Fail,
    /// There is no fresh evidence.
    Unknown,
    /// It does not apply.
    Skip,
}

/// A check with its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// Which.
    pub id: &'static str,
    /// How it stands.
    pub status: Status,
    /// What was seen.
    pub observed: String,
    /// What would pass.
    pub expected: &'static str,
    /// What a person can do.
    pub fix: Option<String>,
}

/// What a check finds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finds {
    status: Status,
    observed: String,
    fix: Option<String>,
}

/// `Err` is missing evidence, with why.
type Outcome = Result<Finds, String>;

/// A check of a phase.
struct Rule {
    id: &'static str,
    expected: &'static str,
    check: fn(&Case<'_>) -> Outcome,
}

impl Status {
    /// Every state that a gate can have.
    pub const OF_GATES: [Status; 4] = [Status::Pass, Status::Wait, Status::Fail, Status::Unknown];

    /// As answers and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Wait => "wait",
            Status::Fail => "fail",
            Status::Unknown => "unknown",
            Status::Skip => "skip",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Finds {
    fn pass(observed: impl Into<String>) -> Finds {
        Finds { status: Status::Pass, observed: observed.into(), fix: None }
    }

    fn wait(observed: impl Into<String>) -> Finds {
        Finds { status: Status::Wait, observed: observed.into(), fix: None }
    }

    fn fail(observed: impl Into<String>) -> Finds {
        Finds { status: Status::Fail, observed: observed.into(), fix: None }
    }

    fn unknown(observed: impl Into<String>) -> Finds {
        Finds { status: Status::Unknown, observed: observed.into(), fix: None }
    }

    fn skip(why: impl Into<String>) -> Finds {
        Finds { status: Status::Skip, observed: why.into(), fix: None }
    }

    fn nothing_to_compare(case: &Case<'_>) -> Finds {
        Finds::skip(format!("nothing to compare with a target of kind {}", case.terms.kind))
    }

    fn with_fix(self, fix: impl Into<String>) -> Finds {
        Finds { fix: Some(fix.into()), ..self }
    }

    /// The worst of several, as a gate's verdict is; where none is in the way `all_pass`, which is skipped if each was.
    fn worst(several: impl IntoIterator<Item = Finds>, all_pass: Finds) -> Finds {
        let rank = |finds: &Finds| match finds.status {
            Status::Fail => 0,
            Status::Unknown => 1,
            Status::Wait => 2,
            Status::Pass => 3,
            Status::Skip => 4,
        };
        match several.into_iter().min_by_key(rank) {
            Some(worst) if rank(&worst) < 3 => worst,
            Some(Finds { status: Status::Skip, .. }) => Finds { status: Status::Skip, ..all_pass },
            _ => all_pass,
        }
    }
}

/// The first of several, and how many more there are; `None` where there is none.
fn first_of(mut several: impl Iterator<Item: ToString>) -> Option<String> {
    let first = several.next()?.to_string();
    Some(match several.count() {
        0 => first,
        more => format!("{first}, and {more} more"),
    })
}

/// Every check of the phase that is asked about.
pub(super) fn of(case: &Case<'_>) -> Vec<Check> {
    let rules: &[&[Rule]] = match case.asked.phase {
        Phase::Preflight => &[preflight::RULES],
        Phase::Post => &[post::RULES],
        Phase::Rollback if case.terms.reverse.is_none() => &[post::NO_WAY_BACK],
        Phase::Cutover | Phase::Rollback if case.asked.names_limits() => &[cutover::RULES, preflight::LIMITS],
        Phase::Cutover | Phase::Rollback => &[cutover::RULES],
    };
    rules
        .iter()
        .flat_map(|rules| rules.iter())
        .map(|rule| {
            let Finds { status, observed, fix } = (rule.check)(case).unwrap_or_else(Finds::unknown);
            Check { id: rule.id, status, observed, expected: rule.expected, fix }
        })
        .collect()
}
