//! How bad something is, for people.

use ratatui::crossterm::style::Stylize as _;
use ratatui::prelude::IntoCrossterm as _;
use ratatui::style::Color;

use crate::identity::Severity;

/// How many there are of each severity, the worst first.
pub(super) fn counts(severities: impl Iterator<Item = Severity> + Clone) -> String {
    let of = |severity| severities.clone().filter(|one| *one == severity).count();
    let parts = Severity::ALL.map(|severity| (severity, of(severity)));
    let parts = parts.iter().filter(|(_, count)| *count > 0).map(|(severity, count)| match (severity, count) {
        (Severity::Info, count) => format!("{count} for information"),
        (severity, 1) => format!("1 {severity}"),
        (severity, count) => format!("{count} {severity}s"),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// The colour of a severity.
pub(super) fn color(severity: Severity) -> Color {
    match severity {
        Severity::Error => Color::Red,
        Severity::Warning => Color::Yellow,
        Severity::Info => Color::DarkGray,
    }
}

/// A text in a colour, where there are colours.
pub(super) fn paint(text: &str, color: Color, coloured: bool) -> String {
    if coloured { text.with(color.into_crossterm()).to_string() } else { text.to_owned() }
}
