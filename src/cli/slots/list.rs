//! `walgate slots list`, and the table of slots that the other actions show too.

use std::fmt::Write as _;

use ratatui::crossterm::style::Stylize as _;
use ratatui::prelude::IntoCrossterm as _;
use ratatui::style::Color;

use super::SlotsError;
use super::pattern::Pattern;
use crate::cli::columns::{Column, line_up};
use crate::cli::lag::figures::{age, size};
use crate::cli::output::{is_coloured, print};
use crate::lag::{SlotReport, SlotsReport, SourcePoll};
use crate::source::Connector;
use crate::source::slots::SlotSession;
use crate::time::PgTimestamp;

/// The source's name in answers, as a probe has it.
const SOURCE: &str = "main";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which slots [default: all]
    #[arg(value_name = "PATTERN")]
    pattern: Option<Pattern>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// As GET /v1/slots answers
    Json,
}

pub(super) async fn run(args: &Args, connector: &Connector) -> Result<bool, SlotsError> {
    let mut session = SlotSession::open(connector).await?;
    let look = session.look().await?;
    let slots = matching(&look, args.pattern.as_ref());
    if slots.is_empty() {
        eprintln!("walgate: {}", nothing(&look, args.pattern.as_ref()));
    }
    // Why a reader has no name.
    if slots.iter().any(|slot| slot.active && slot.application_name.is_none()) {
        session.remarks().await?.iter().for_each(|remark| eprintln!("walgate: {remark}"));
    }
    if let Some(remark) = args.pattern.as_ref().and_then(|pattern| loosely(pattern, &slots)) {
        eprintln!("walgate: {remark}");
    }
    print(&match args.format {
        Format::Table => table(&slots, look.server_time, is_coloured()),
        Format::Json => format!("{}\n", serde_json::to_string(&SlotsReport { slots }).map_err(std::io::Error::from)?),
    })?;
    Ok(true)
}

/// The slots that a look shows, or those of them that are like a pattern.
pub(super) fn matching(look: &SourcePoll, pattern: Option<&Pattern>) -> Vec<SlotReport> {
    let mut slots = look.slot_reports(SOURCE);
    slots.retain(|report| pattern.is_none_or(|pattern| pattern.matches(&report.slot)));
    slots
}

/// That no slot matches, and which there are.
pub(super) fn nothing(look: &SourcePoll, pattern: Option<&Pattern>) -> String {
    let there: Vec<&str> = look.slots.keys().map(|slot| slot.as_str()).collect();
    match (pattern, there.as_slice()) {
        (_, []) if look.in_recovery => "there are no replication slots on this standby; its primary has its own".into(),
        (_, []) => "there are no replication slots".into(),
        (None, _) => String::new(),
        (Some(pattern), there) => format!("no slot is like {}; there are: {}", pattern.as_str(), there.join(", ")),
    }
}

/// What a pattern matched that its underscores may not have been meant for.
pub(super) fn loosely(pattern: &Pattern, slots: &[SlotReport]) -> Option<String> {
    let slots = slots.iter().map(|report| &report.slot).filter(|slot| pattern.matches_loosely(slot));
    let slots: Vec<&str> = slots.map(|slot| slot.as_str()).collect();
    let escaped = pattern.escaped();
    (!slots.is_empty()).then(|| {
        format!("_ stands for any character, and so {} is matched as well; '{escaped}' would not", slots.join(", "))
    })
}

const COLUMNS: [Column; 10] = [
    ("slot", false),
    ("kind", false),
    ("plugin", false),
    ("database", false),
    ("active", false),
    ("wal_status", false),
    ("retained", true),
    ("headroom", true),
    ("restart_lsn", true),
    ("confirmed_flush_lsn", true),
];

/// A line for each slot, and below it what is special about it.
pub(super) fn table(slots: &[SlotReport], now: PgTimestamp, coloured: bool) -> String {
    let paint = |text: String, color: Option<Color>| match color.filter(|_| coloured) {
        Some(color) => text.with(color.into_crossterm()).to_string(),
        None => text,
    };
    let rows: Vec<[String; COLUMNS.len()]> = slots.iter().map(cells).collect();
    let Some((headings, lines)) = line_up(&COLUMNS, &rows) else { return String::new() };
    let mut text = paint(headings, Some(Color::DarkGray));
    text.push('\n');
    for (slot, line) in slots.iter().zip(lines) {
        let color = match slot.wal_status.as_deref() {
            _ if slot.invalidation_reason.is_some() => Some(Color::Red),
            Some("lost") => Some(Color::Red),
            Some("extended" | "unreserved") => Some(Color::Yellow),
            _ => None,
        };
        let _ = writeln!(text, "{}", paint(line, color));
        let notes = notes(slot, now);
        if !notes.is_empty() {
            let _ = writeln!(text, "  {}", paint(notes.join("; "), Some(Color::DarkGray)));
        }
    }
    text
}

fn cells(slot: &SlotReport) -> [String; COLUMNS.len()] {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let position = |lsn: Option<crate::lsn::Lsn>| lsn.map_or("-".into(), |lsn| lsn.to_string());
    let headroom = match slot.safe_wal_bytes {
        Some(bytes) => size(u64::try_from(bytes).unwrap_or(0)),
        // What is lost has none, and of what keeps nothing there is none to tell.
        None if slot.wal_status.as_deref().is_none_or(|status| status == "lost") => "-".into(),
        None => "no limit".into(),
    };
    [
        slot.slot.to_string(),
        slot.kind.as_str().into(),
        known(&slot.plugin),
        known(&slot.database),
        if slot.active { "yes" } else { "no" }.into(),
        known(&slot.wal_status),
        slot.retained_wal_bytes.map_or("-".into(), size),
        headroom,
        position(slot.restart_lsn),
        position(slot.confirmed_flush_lsn),
    ]
}

/// Who reads a slot, or since when nobody does; why it cannot be used; what else sets it apart.
fn notes(slot: &SlotReport, now: PgTimestamp) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(reader) = reader(slot) {
        notes.push(format!("read by {reader}"));
    } else if let Some(since) = slot.inactive_since {
        let ago = age(now.since(since).as_secs_f64().round());
        notes.push(format!("inactive for {ago}, since {since}"));
    }
    if let Some(reason) = &slot.invalidation_reason {
        notes.push(format!("invalidated ({reason}): its consumer must be set up anew"));
    } else if slot.wal_status.as_deref() == Some("lost") {
        notes.push("lost: its consumer must be set up anew".into());
    }
    if slot.temporary {
        notes.push("temporary".into());
    }
    if slot.two_phase {
        notes.push("two-phase".into());
    }
    notes
}

/// Who holds a slot, as far as walgate's role may see.
pub(super) fn reader(slot: &SlotReport) -> Option<String> {
    if !slot.active {
        return None;
    }
    let name = slot.application_name.as_deref().filter(|name| !name.is_empty());
    let address = slot.client_addr.as_ref().map(|address| format!(" at {address}"));
    let pid = slot.active_pid.map(|pid| format!(" (pid {pid})"));
    let name = name.unwrap_or("somebody");
    Some(format!("{name}{}{}", address.unwrap_or_default(), pid.unwrap_or_default()))
}
