//! Figures for people: short, with units, a bound marked as one, and what is not known as `?`.

use crate::lag::{ConsumerReport, State};

/// What stands for a figure that is not known.
pub(super) const UNKNOWN: &str = "?";

/// Bytes as `pg_size_pretty` prints them: whole numbers, rounded half up, of the unit that leaves at most 10240.
pub(in crate::cli) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut halves = u128::from(bytes) * 2;
    let mut units = UNITS.into_iter().peekable();
    while let Some(unit) = units.next() {
        let rounded = halves.div_ceil(2);
        if rounded < 10 * 1024 || units.peek().is_none() {
            return format!("{rounded} {unit}");
        }
        halves /= 1024;
    }
    UNKNOWN.into()
}

/// Seconds with two or three digits. Nothing but 0 prints as 0.
pub(in crate::cli) fn age(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".into(),
        ..0.001 => "<1 ms".into(),
        ..0.0995 => format!("{:.0} ms", seconds * 1e3),
        ..9.95 if seconds.fract() != 0.0 => format!("{seconds:.1} s"),
        ..119.5 => format!("{seconds:.0} s"),
        ..7_170.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.1} d", seconds / 86_400.0),
    }
}

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
    fn sizes_are_as_pg_size_pretty_prints_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (41_000, "40 kB"),
            (16 << 20, "16 MB"),
            (10_239 << 10, "10239 kB"),
            (1_500_000_000, "1431 MB"),
            (u64::MAX, "16384 PB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn nothing_but_zero_prints_as_zero() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (0.000_01, "<1 ms"),
            (0.012, "12 ms"),
            (0.0996, "0.1 s"),
            (1.23, "1.2 s"),
            (9.96, "10 s"),
            (90.0, "90 s"),
            (180.0, "3 min"),
            (7_200.0, "2.0 h"),
            (259_200.0, "3.0 d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

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
