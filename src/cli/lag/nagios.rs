//! The answer as the Monitoring Plugins' guidelines have it: a status line with performance data, then a line for each
//! consumer.

use std::fmt::Write as _;

use super::figures::{UNKNOWN, behind, count, many, size};
use super::limits::{Limits, Verdict};
use super::probe::Answer;
use super::table::notes;
use crate::lag::ConsumerReport;
use crate::units::Size;

/// The whole answer.
pub(super) fn render(answer: &Answer, limits: &Limits) -> String {
    let bad = answer.judged().filter(|(_, judgement)| judgement.verdict != Verdict::Ok);
    let bad = bad.map(|(report, judgement)| format!("{}: {}", report.slot, judgement.reasons.join(", ")));
    let findings: Vec<String> = answer.problems().map(str::to_owned).chain(bad).collect();
    let summary = match (findings.is_empty(), answer.consumers.as_slice()) {
        (false, _) => findings.join("; "),
        (true, [one]) => format!("{} is {} behind", one.slot, behind(one)),
        (true, several) => many(several.len().to_string(), "consumer"),
    };
    let data: Vec<String> = answer.consumers.iter().map(|report| performance(report, limits)).collect();
    let separator = if data.is_empty() { "" } else { "|" };
    let mut text = format!("WALGATE {} - {}{separator}{}\n", answer.verdict.as_str(), plain(&summary), data.join(" "));
    for (report, judgement) in answer.judged() {
        let _ = write!(text, "{}: {}", report.slot, plain(&summarize(report)));
        for note in notes(report, judgement) {
            let _ = write!(text, "; {}", plain(&note));
        }
        text.push('\n');
    }
    for remark in &answer.remarks {
        let _ = writeln!(text, "{}", plain(remark));
    }
    text
}

fn summarize(report: &ConsumerReport) -> String {
    let lag = &report.lag;
    format!(
        "{}, delay at {}, {} behind, {} ({}, {}) pending",
        report.state.as_str(),
        report.stage.map_or(UNKNOWN, |stage| stage.as_str()),
        behind(report),
        many(count(report, lag.transactions, |figure| figure.to_string()), "transaction"),
        many(count(report, lag.rows, |figure| figure.to_string()), "row"),
        count(report, lag.bytes, size),
    )
}

/// `'label'=value[unit];[warn];[crit];[min]` for each figure. One that is not known is `U`. The limit is where each figure
/// turns the status: the least critical, the most a warning.
fn performance(report: &ConsumerReport, limits: &Limits) -> String {
    let (slot, lag) = (&report.slot, &report.lag);
    let age = limits.age.map(|limit| limit.as_secs_f64().to_string()).unwrap_or_default();
    let size = limits.lag.map(|Size(limit)| limit.to_string()).unwrap_or_default();
    let seconds = |figure: Option<f64>| figure.map_or("U".into(), |figure| format!("{figure:.3}s"));
    let bytes = |figure: Option<u64>| figure.map_or("U".into(), |figure| format!("{figure}B"));
    let number = |figure: Option<u64>| figure.map_or("U".into(), |figure| figure.to_string());
    [
        format!("'{slot} seconds'={};;{age};0", seconds(lag.seconds)),
        format!("'{slot} seconds_max'={};{age};;0", seconds(lag.seconds_max)),
        format!("'{slot} transactions'={};;;0", number(lag.transactions)),
        format!("'{slot} bytes'={};;{size};0", bytes(lag.bytes)),
        format!("'{slot} undecoded'={};{size};;0", bytes(lag.undecoded_wal_bytes)),
        format!("'{slot} retained'={};;;0", bytes(report.retained_wal_bytes)),
    ]
    .join(" ")
}

/// Text on one line, without the character that begins performance data.
fn plain(text: &str) -> String {
    text.replace('|', "/").replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::samples::{answer, bounded, live};
    use super::*;

    #[test]
    fn the_first_line_has_the_status_the_reason_and_the_figures() {
        let limits = Limits { age: Some(Duration::from_secs(5)), lag: Some(Size(1 << 24)) };
        let text = render(&answer(&limits, vec![live("a", 6.0)]), &limits);
        assert_eq!(
            text.lines().next(),
            Some(
                "WALGATE CRITICAL - a: 6 s behind (limit 5s)|'a seconds'=6.000s;;5;0 'a seconds_max'=6.000s;5;;0 \
                 'a transactions'=3;;;0 'a bytes'=41000B;;16777216;0 'a undecoded'=0B;16777216;;0 \
                 'a retained'=123456B;;;0"
            )
        );
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn an_unknown_figure_is_not_a_number() {
        let limits = Limits::default();
        let text = render(&answer(&limits, vec![bounded("a", None, None)]), &limits);
        assert!(text.starts_with("WALGATE OK - a is ? behind|'a seconds'=U;;;0 'a seconds_max'=U;;;0 "), "{text}");
    }

    #[test]
    fn nothing_but_performance_data_follows_a_bar() {
        let limits = Limits::default();
        let mut nothing = answer(&limits, Vec::new());
        nothing.trouble = Some("a|b\nc".into());
        assert_eq!(render(&nothing, &limits), "WALGATE UNKNOWN - a/b c\n");
    }
}
