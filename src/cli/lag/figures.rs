//! Figures for people: short, with units, a bound marked as one, and what is not known as `?`.

use crate::lag::{ConsumerReport, State};
pub(in crate::cli) use crate::units::{age, size};

/// What stands for a figure that is not known.
pub(super) const UNKNOWN: &str = "?";

/// How far behind in time: exact, or the bounds that say anything.
pub(in crate::cli) fn behind(report: &ConsumerReport) -> String {
    let lag = &report.lag;
    if report.state == State::Live {
        return lag.seconds.map_or(UNKNOWN.into(), age);
    }
    // That it is 0 at the least is no news.
    let least = lag.seconds.filter(|least| *least > 0.0).map(|least| format!("≥ {}", age(least)));
    let most = lag.seconds_max.map(|most| format!("≤ {}", age(most)));
    match (least, most) {
        (Some(_), Some(most)) if lag.seconds == lag.seconds_max => most.replacen("≤ ", "", 1),
        (Some(least), Some(most)) => format!("{least} {most}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => UNKNOWN.into(),
    }
}

/// A count of what was decoded: exact, or the least that it can be.
pub(super) fn count(report: &ConsumerReport, figure: Option<u64>, show: fn(u64) -> String) -> String {
    match figure {
        None => UNKNOWN.into(),
        Some(figure) if report.state == State::Live => show(figure),
        Some(figure) => format!("≥ {}", show(figure)),
    }
}

/// A count with what is counted: one, or several of it.
pub(super) fn many(count: String, noun: &str) -> String {
    let several = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{several}")
}

/// A figure that is exact wherever it is known.
pub(super) fn exact<T>(figure: Option<T>, show: fn(T) -> String) -> String {
    figure.map_or(UNKNOWN.into(), show)
}

/// When it will have caught up; nothing to say where it has, or is not getting there.
pub(super) fn eta(report: &ConsumerReport) -> String {
    report.eta_seconds.filter(|seconds| *seconds > 0.0).map_or("-".into(), age)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{bounded, live, unknown};
    use super::*;

    #[test]
    fn bounds_are_marked_and_the_unknown_is_not_a_number() {
        assert_eq!(behind(&live("a", 1.23)), "1.2 s");
        assert_eq!(behind(&bounded("a", Some(1.23), Some(180.0))), "≥ 1.2 s ≤ 3 min");
        assert_eq!(behind(&bounded("a", Some(0.0), Some(180.0))), "≤ 3 min");
        assert_eq!(behind(&bounded("a", Some(1.23), None)), "≥ 1.2 s");
        assert_eq!(behind(&bounded("a", None, None)), "?");
        assert_eq!(behind(&unknown("a")), "?");
        assert_eq!(count(&live("a", 0.0), Some(41), |rows| rows.to_string()), "41");
        assert_eq!(count(&bounded("a", None, None), Some(41), |rows| rows.to_string()), "≥ 41");
    }
}
