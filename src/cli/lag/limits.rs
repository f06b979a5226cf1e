//! The verdict on each consumer: what is proven, what may be, and what nobody can tell.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use humantime::format_duration;
use ratatui::style::Color;

use super::figures::{age, size};
use crate::lag::{ConsumerReport, Observe, State};
use crate::units::Size;

/// What must not be exceeded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Of `seconds`.
    pub(super) age: Option<Duration>,
    /// Of the published bytes that are pending, in which WAL that is not decoded yet may result at the most.
    pub(super) lag: Option<Size>,
}

/// From good to bad, so that the worst of several is the greatest: what is proven goes before what may be, and that
/// before what is not known (as `max_state_alt` of the Monitoring Plugins has it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Ok,
    Unknown,
    Warning,
    Critical,
}

/// A verdict on one consumer, and why it is no better.
#[derive(Debug, PartialEq)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    pub(super) reasons: Vec<String>,
}

impl Verdict {
    /// The name in the Monitoring Plugins' guidelines.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "OK",
            Verdict::Unknown => "UNKNOWN",
            Verdict::Warning => "WARNING",
            Verdict::Critical => "CRITICAL",
        }
    }

    /// What it is shown in.
    pub(super) fn color(self) -> Color {
        match self {
            Verdict::Ok => Color::Green,
            Verdict::Unknown => Color::Magenta,
            Verdict::Warning => Color::Yellow,
            Verdict::Critical => Color::Red,
        }
    }
}

/// ` (at most 5s, 16MB)`, as they were given, or nothing where there are none.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.age.map(|limit| format_duration(limit).to_string());
        let limits: Vec<String> = age.into_iter().chain(self.lag.map(|limit| limit.to_string())).collect();
        if limits.is_empty() { Ok(()) } else { write!(f, " (at most {})", limits.join(", ")) }
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> ExitCode {
        ExitCode::from(match verdict {
            Verdict::Ok => 0,
            Verdict::Warning => 1,
            Verdict::Critical => 2,
            Verdict::Unknown => 3,
        })
    }
}

impl Limits {
    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.age.is_some() || self.lag.is_some()
    }

    /// Judges a consumer. A limit is exceeded if the least that its figure can be is over it; it may be exceeded if
    /// the most is, or is not known.
    pub(super) fn judge(&self, report: &ConsumerReport) -> Judgement {
        let mut judgement = Judgement { verdict: Verdict::Ok, reasons: Vec::new() };
        match report.wal_status.as_deref() {
            // Nothing that it lags by matters any more.
            Some("lost") => {
                let why = report.observe_reason.clone();
                judgement.find(Verdict::Critical, why.unwrap_or_else(|| "the slot is lost".into()));
                return judgement;
            }
            Some("unreserved") => {
                let what = "the slot is about to be lost: it needs more WAL than max_slot_wal_keep_size lets it keep";
                judgement.find(Verdict::Warning, what.into());
            }
            Some("extended") => {
                let what = match report.safe_wal_bytes {
                    Some(left) => format!(
                        "the slot keeps more WAL than max_wal_size; {} more and it is lost",
                        size(u64::try_from(left).unwrap_or(0))
                    ),
                    None => "the slot keeps more WAL than max_wal_size, and the disk is the only limit".into(),
                };
                judgement.find(Verdict::Warning, what);
            }
            _ => {}
        }
        match report.state {
            State::Live | State::Bounded => {}
            State::Stale => judgement.find(Verdict::Unknown, "the evidence is too old".into()),
            State::Unknown => judgement.find(Verdict::Unknown, "how far behind it is cannot be told".into()),
        }
        if matches!(report.state, State::Stale | State::Unknown) {
            return judgement;
        }
        let lag = &report.lag;
        if let Some(limit) = self.age {
            let spelled = format_duration(limit).to_string();
            let least = lag.seconds.unwrap_or(0.0);
            judgement.compare("behind", limit.as_secs_f64(), &spelled, least, lag.seconds_max, age);
        }
        if let Some(limit) = self.lag {
            let least = lag.bytes.unwrap_or(0);
            // Where rows were decoded and are not counted, nobody can tell.
            let counted = lag.bytes_max.or((report.observe == Observe::Poll).then_some(0));
            let most = counted.zip(lag.undecoded_wal_bytes).map(|(most, undecoded)| most.saturating_add(undecoded));
            judgement.compare("pending", limit.0, &limit.to_string(), least, most, size);
        }
        judgement
    }
}

impl Judgement {
    fn find(&mut self, verdict: Verdict, reason: String) {
        self.verdict = self.verdict.max(verdict);
        self.reasons.push(reason);
    }

    fn compare<T: PartialOrd + Copy>(
        &mut self,
        what: &str,
        limit: T,
        spelled: &str,
        least: T,
        most: Option<T>,
        show: fn(T) -> String,
    ) {
        if least > limit {
            self.find(Verdict::Critical, format!("{} {what} (limit {spelled})", show(least)));
        } else if most.is_none() {
            self.find(Verdict::Warning, format!("nobody can tell whether it is within the limit of {spelled}"));
        } else if let Some(most) = most.filter(|most| *most > limit) {
            self.find(Verdict::Warning, format!("up to {} {what} (limit {spelled})", show(most)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{bounded, live, lost, unknown};
    use super::*;
    use crate::lag::ConsumerReport;

    const NONE: Limits = Limits { age: None, lag: None };

    fn verdict(limits: Limits, report: &ConsumerReport) -> Verdict {
        limits.judge(report).verdict
    }

    fn seconds(limit: u64) -> Limits {
        Limits { age: Some(Duration::from_secs(limit)), lag: None }
    }

    fn bytes(limit: u64) -> Limits {
        Limits { age: None, lag: Some(Size(limit)) }
    }

    #[test]
    fn without_limits_only_what_is_seen_and_what_the_slot_keeps_count() {
        assert_eq!(verdict(NONE, &live("a", 9000.0)), Verdict::Ok);
        assert_eq!(verdict(NONE, &bounded("a", Some(1.0), None)), Verdict::Ok);
        assert_eq!(verdict(NONE, &unknown("a")), Verdict::Unknown);
        assert_eq!(verdict(NONE, &lost("a")), Verdict::Critical);
        for status in ["extended", "unreserved"] {
            let near = ConsumerReport { wal_status: Some(status.into()), ..live("a", 0.0) };
            assert_eq!(verdict(NONE, &near), Verdict::Warning);
        }
    }

    #[test]
    fn an_exact_figure_is_within_a_limit_or_over_it() {
        assert_eq!(verdict(seconds(5), &live("a", 5.0)), Verdict::Ok);
        assert_eq!(verdict(seconds(5), &live("a", 5.1)), Verdict::Critical);
        // What live() has pending.
        assert_eq!(verdict(bytes(41_000), &live("a", 5.0)), Verdict::Ok);
        assert_eq!(verdict(bytes(40_999), &live("a", 5.0)), Verdict::Critical);
    }

    #[test]
    fn a_bound_is_over_a_limit_only_if_the_least_is() {
        assert_eq!(verdict(seconds(5), &bounded("a", Some(6.0), Some(9.0))), Verdict::Critical);
        assert_eq!(verdict(seconds(5), &bounded("a", Some(1.0), Some(9.0))), Verdict::Warning);
        assert_eq!(verdict(seconds(5), &bounded("a", None, Some(9.0))), Verdict::Warning);
        assert_eq!(verdict(seconds(5), &bounded("a", None, None)), Verdict::Warning);
        assert_eq!(verdict(seconds(5), &bounded("a", None, Some(4.0))), Verdict::Ok);
        // What bounded() has not decoded may all be published, or nothing of it.
        assert_eq!(verdict(bytes(999_999), &bounded("a", None, None)), Verdict::Warning);
        assert_eq!(verdict(bytes(1_000_000), &bounded("a", None, None)), Verdict::Ok);
    }

    #[test]
    fn what_is_not_known_is_within_no_limit() {
        assert_eq!(verdict(seconds(5), &unknown("a")), Verdict::Unknown);
        assert_eq!(verdict(bytes(5), &unknown("a")), Verdict::Unknown);
    }

    #[test]
    fn the_worst_of_several_is_what_is_proven() {
        let worst = [Verdict::Unknown, Verdict::Critical, Verdict::Ok, Verdict::Warning].into_iter().max();
        assert_eq!(worst, Some(Verdict::Critical));
        assert!(Verdict::Warning > Verdict::Unknown && Verdict::Unknown > Verdict::Ok);
    }
}
