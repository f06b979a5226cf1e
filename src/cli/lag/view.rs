//! The live view: a row for each consumer, and below it all there is to say of the selected one.

use std::collections::BTreeMap;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState, Wrap};

use super::figures::{UNKNOWN, age, behind, count, eta, exact, many, size};
use super::limits::{Judgement, Limits, Verdict};
use super::probe::Answer;
use super::spark::Spark;
use super::table::notes;
use crate::ident::SlotName;
use crate::lag::{ConsumerReport, State};
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// The columns in their order: the heading, whether it holds numbers, and what goes first where the terminal is narrow
/// (the highest).
const COLUMNS: [(&str, bool, u8); 9] = [
    ("slot", false, 0),
    ("state", false, 2),
    ("stage", false, 3),
    ("behind", true, 1),
    ("transactions", true, 6),
    ("rows", true, 7),
    ("bytes", true, 5),
    ("eta", true, 8),
    ("last minutes", false, 4),
];

/// Which column is the spark line; it takes what width is left.
const SPARK: usize = COLUMNS.len() - 1;

/// The least height that has room for the details.
const DETAILED: u16 = 14;

/// What is shown, and what was done to it by keys.
pub(super) struct View {
    target: String,
    limits: Limits,
    newest: Option<(Answer, PgTimestamp)>,
    /// What was the newest when the view was paused.
    paused: Option<(Answer, PgTimestamp)>,
    sparks: BTreeMap<SlotName, Spark>,
    selected: Option<SlotName>,
}

impl View {
    /// A view of a source of which nothing is known yet.
    pub(super) fn new(target: String, limits: Limits) -> View {
        let (newest, paused, sparks, selected) = (None, None, BTreeMap::new(), None);
        View { target, limits, newest, paused, sparks, selected }
    }

    /// Takes what is known now.
    pub(super) fn show(&mut self, answer: Answer, time: PgTimestamp) {
        self.newest = Some((answer, time));
    }

    /// Notes the newest in the spark lines. To be called once a second.
    pub(super) fn sample(&mut self) {
        let Some((answer, _)) = &self.newest else { return };
        // While the source does not answer its consumers are not known; their lines go on.
        if answer.trouble.is_none() {
            self.sparks.retain(|slot, _| answer.consumers.iter().any(|report| report.slot == *slot));
        }
        for report in &answer.consumers {
            self.sparks.entry(report.slot.clone()).or_default();
        }
        for (slot, spark) in &mut self.sparks {
            let report = answer.consumers.iter().find(|report| report.slot == *slot);
            spark.push(report.and_then(|report| report.lag.seconds_max.or(report.lag.seconds)));
        }
    }

    /// Moves the selection, by slot: a slot that comes or goes does not move it.
    pub(super) fn select(&mut self, step: isize) {
        let Some((answer, _)) = self.shown() else { return };
        let last = answer.consumers.len().saturating_sub(1);
        let index = self.selected_index(answer).saturating_add_signed(step).min(last);
        self.selected = answer.consumers.get(index).map(|report| report.slot.clone());
    }

    /// Freezes what is shown, or lets it go on.
    pub(super) fn pause(&mut self) {
        match self.paused.take() {
            Some(paused) => self.newest = self.newest.take().or(Some(paused)),
            None => self.paused = self.newest.take(),
        }
    }

    /// The newest verdict, paused or not.
    pub(super) fn verdict(&self) -> Verdict {
        self.newest.as_ref().or(self.paused.as_ref()).map_or(Verdict::Unknown, |(answer, _)| answer.verdict)
    }

    /// Draws all of it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let Some((answer, time)) = self.shown() else { return };
        let (area, is_detailed) = (frame.area(), frame.area().height >= DETAILED);
        let remarks: Vec<Line<'_>> = answer.remarks().map(|remark| Line::from(remark).fg(Color::Red)).collect();
        let wrapped = remarks.iter().map(|remark| remark.width().div_ceil(area.width.max(1).into())).sum::<usize>();
        let length = |lines: usize, most: u16| Constraint::Length(u16::try_from(lines).unwrap_or(most).min(most));
        let (table, details) = match is_detailed {
            true => (length(answer.consumers.len() + 1, area.height / 2), Constraint::Fill(1)),
            false => (Constraint::Fill(1), Constraint::Length(0)),
        };
        let one = Constraint::Length(1);
        let layout = Layout::vertical([one, length(wrapped, area.height / 3), table, details, one]);
        let [header, trouble, table, details, footer] = layout.areas(area);
        frame.render_widget(self.header(answer, *time, header.width), header);
        frame.render_widget(Paragraph::new(remarks).wrap(Wrap { trim: true }), trouble);
        self.draw_table(frame, table, answer);
        if let Some((report, judgement)) = answer.judged().nth(self.selected_index(answer)) {
            frame.render_widget(detail(report, judgement), details);
        }
        let keys = if self.paused.is_some() {
            "PAUSED   p go on   ↑↓ select   q quit"
        } else {
            "p pause   ↑↓ select   q quit"
        };
        frame.render_widget(Line::from(keys).dim(), footer);
    }

    fn shown(&self) -> Option<&(Answer, PgTimestamp)> {
        self.paused.as_ref().or(self.newest.as_ref())
    }

    fn selected_index(&self, answer: &Answer) -> usize {
        let selected = |slot: &SlotName| answer.consumers.iter().position(|report| report.slot == *slot);
        self.selected.as_ref().and_then(selected).unwrap_or(0)
    }

    fn header(&self, answer: &Answer, time: PgTimestamp, width: u16) -> Line<'_> {
        // Whole seconds: the view is not drawn more often than a few times each.
        let time = time.to_string().replace('T', " ").split('.').next().map(|time| format!("{time} UTC"));
        let verdict = format!("{}{}", answer.verdict.as_str(), self.limits);
        let name = concat!("walgate ", env!("CARGO_PKG_VERSION"));
        let parts = [
            Span::from(verdict).fg(answer.verdict.color()).add_modifier(Modifier::BOLD),
            Span::from(answer.server.clone().unwrap_or_else(|| self.target.clone())),
            Span::from(time.unwrap_or_default()),
            Span::from(name).dim(),
        ];
        let mut line = Line::default();
        for part in parts {
            let separator = if line.spans.is_empty() { "" } else { "   " };
            if line.width() + separator.len() + part.width() > usize::from(width) && !line.spans.is_empty() {
                break;
            }
            line.push_span(separator);
            line.push_span(part);
        }
        line
    }

    fn draw_table(&self, frame: &mut Frame<'_>, area: Rect, answer: &Answer) {
        let rows: Vec<[String; SPARK]> = answer.consumers.iter().map(cells).collect();
        let mut widths = COLUMNS.map(|(heading, _, _)| heading.len());
        for row in &rows {
            widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.chars().count().max(*width));
        }
        let shown = fitting(&widths, area.width.into());
        let taken: usize = shown.iter().filter(|column| **column != SPARK).map(|column| widths[*column] + 2).sum();
        let left = usize::from(area.width).saturating_sub(taken);
        let pad = |column: usize, text: String| match COLUMNS[column].1 {
            true => Cell::from(Text::from(text).right_aligned()),
            false => Cell::from(text),
        };
        let heading = Row::new(shown.iter().map(|column| pad(*column, COLUMNS[*column].0.to_owned()))).dim();
        let body = rows.into_iter().zip(answer.judged()).map(|(cells, (report, judgement))| {
            let spark = self.sparks.get(&report.slot).map(|spark| spark.bars(left)).unwrap_or_default();
            let cells: Vec<String> = cells.into_iter().chain([spark]).collect();
            let style = match (judgement.verdict, report.state) {
                (Verdict::Ok, State::Live) => Style::new(),
                (Verdict::Ok, _) => Style::new().fg(Color::DarkGray),
                (verdict, _) => Style::new().fg(verdict.color()),
            };
            Row::new(shown.iter().map(|column| pad(*column, cells[*column].clone())).collect::<Vec<_>>()).style(style)
        });
        let constraints = shown.iter().map(|column| match *column {
            SPARK => Constraint::Fill(1),
            column => Constraint::Length(u16::try_from(widths[column]).unwrap_or(u16::MAX)),
        });
        let table = Table::new(body, constraints)
            .header(heading)
            .column_spacing(2)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected(Some(self.selected_index(answer)));
        frame.render_stateful_widget(table, area, &mut state);
    }
}

/// Which columns fit, in their order; the slot always does.
fn fitting(widths: &[usize; COLUMNS.len()], room: usize) -> Vec<usize> {
    let mut by_rank: Vec<usize> = (0..COLUMNS.len()).collect();
    by_rank.sort_by_key(|column| COLUMNS[*column].2);
    let mut taken = 0;
    let mut shown: Vec<usize> = by_rank
        .into_iter()
        .enumerate()
        .take_while(|(rank, column)| {
            taken += widths[*column] + if *rank == 0 { 0 } else { 2 };
            *rank == 0 || taken <= room
        })
        .map(|(_, column)| column)
        .collect();
    shown.sort_unstable();
    shown
}

fn cells(report: &ConsumerReport) -> [String; SPARK] {
    let number = |figure: u64| figure.to_string();
    [
        report.slot.to_string(),
        report.state.as_str().into(),
        report.stage.map_or(UNKNOWN, |stage| stage.as_str()).into(),
        behind(report),
        count(report, report.lag.transactions, number),
        count(report, report.lag.rows, number),
        count(report, report.lag.bytes, size),
        eta(report),
    ]
}

fn detail<'a>(report: &ConsumerReport, judgement: &Judgement) -> Paragraph<'a> {
    let fact =
        |name: &'static str, text: String| Line::from(vec![Span::from(format!("{name:<11}")).dim(), text.into()]);
    let lsn = |position: Option<Lsn>| exact(position, |position| position.to_string());
    let rate = |rate: Option<f64>| exact(rate, |rate| format!("{}/s", size(rate as u64)));
    let (lag, positions) = (&report.lag, &report.positions);
    let plugin = report.plugin.as_ref().map(|plugin| format!(", {plugin}")).unwrap_or_default();
    let active = match report.active {
        Some(true) => ", active",
        Some(false) => ", nobody reads it",
        None => "",
    };
    let status = report.wal_status.clone().unwrap_or(UNKNOWN.into());
    let safe =
        report.safe_wal_bytes.map(|left| format!(", {} more and it is lost", size(left.try_into().unwrap_or(0))));
    let seen = exact(report.observed_age_seconds, |seconds| format!("{} ago", age(seconds)));
    let mut lines: Vec<Line<'a>> =
        notes(report, judgement).into_iter().map(|note| Line::from(note).fg(judgement.verdict.color())).collect();
    lines.extend([
        fact("slot", format!("{}{plugin}{active}", report.kind.as_str())),
        fact("wal", format!("{status}, keeps {}{}", exact(report.retained_wal_bytes, size), safe.unwrap_or_default())),
        fact("seen by", format!("{}, {seen}", report.observe.as_str())),
        fact(
            "pending",
            format!(
                "{} undecoded, {} open ({})",
                exact(lag.undecoded_wal_bytes, size),
                exact(lag.open_transactions, |open| open.to_string()),
                exact(lag.open_bytes, size)
            ),
        ),
        fact(
            "rates",
            format!(
                "in {}, acked {}",
                rate(report.rates.in_bytes_per_second),
                rate(report.rates.acked_bytes_per_second)
            ),
        ),
        fact(
            "positions",
            format!(
                "server {}, decoded {}, sent {}, acked {}, applied {}",
                lsn(positions.server),
                lsn(positions.decoded),
                lsn(positions.sent),
                lsn(positions.acked),
                lsn(positions.applied)
            ),
        ),
    ]);
    for table in &report.tables {
        let transactions = many(table.transactions.to_string(), "transaction");
        let rows = many(table.rows.to_string(), "row");
        lines.push(fact("table", format!("{}: {transactions}, {rows}, {}", table.table, size(table.bytes))));
    }
    let block = Block::new().borders(Borders::TOP).title(format!(" {} ", report.slot));
    Paragraph::new(lines).wrap(Wrap { trim: false }).block(block)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::samples::{answer, bounded, live, lost, unknown};
    use super::*;

    fn view() -> View {
        let limits = Limits { age: Some(Duration::from_secs(5)), lag: None };
        let mut view = View::new("postgresql://walgate@db:5432/app".into(), limits);
        for second in 0..8 {
            let consumers = vec![
                live("green_sub", f64::from(second)),
                bounded("wal2json", None, Some(180.0)),
                lost("old"),
                unknown("zero_0_a"),
            ];
            view.show(answer(&limits, consumers), PgTimestamp(i64::from(second) * 1_000_000));
            view.sample();
        }
        view
    }

    /// What a terminal of this size shows, without blanks at the ends of lines.
    fn draw(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(width.into());
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn each_consumer_has_a_row_and_the_selected_one_its_details() {
        assert_eq!(
            draw(&view(), 90, 18),
            [
                "CRITICAL (at most 5s)   postgresql://walgate@db:5432/app   2000-01-01 00:00:07 UTC",
                "slot       state    stage       behind  transactions  rows  bytes   eta  last minutes",
                "green_sub  live     consumer       7 s             3    41  40 kB  41 s  ▁▂▃▄▅▆▇█",
                "wal2json   bounded  walsender  ≤ 3 min             ?     ?      ?     -  ████████",
                "old        unknown  ?                ?             ?     ?      ?     -",
                "zero_0_a   unknown  ?                ?             ?     ?      ?     -",
                " green_sub ───────────────────────────────────────────────────────────────────────────────",
                "7 s behind (limit 5s)",
                "slot       logical, pgoutput, active",
                "wal        reserved, keeps 121 kB",
                "seen by    slot, 0.2 s ago",
                "pending    0 bytes undecoded, 0 open (0 bytes)",
                "rates      in 2000 bytes/s, acked 3000 bytes/s",
                "positions  server 0/5A2E4F8, decoded 0/5A2E4F8, sent 0/5A2E4F8, acked 0/5A10000, applied ?",
                "table      public.orders: 3 transactions, 41 rows, 40 kB",
                "",
                "",
                "p pause   ↑↓ select   q quit",
            ]
        );
    }

    #[test]
    fn a_narrow_or_low_terminal_shows_what_matters_most() {
        let shown = draw(&view(), 40, 6);
        assert_eq!(shown[0], "CRITICAL (at most 5s)");
        assert_eq!(shown[1], "slot       state    stage       behind");
        assert_eq!(shown[2], "green_sub  live     consumer       7 s");
        assert_eq!(shown[5], "p pause   ↑↓ select   q quit");
        assert_eq!(draw(&view(), 12, 4)[2], "green_sub");
        for (width, height) in [(1, 1), (2, 40), (200, 2), (5, 14)] {
            draw(&view(), width, height);
        }
    }

    #[test]
    fn the_selection_follows_its_slot_and_stays_within_the_list() {
        let mut view = view();
        view.select(-1);
        assert!(draw(&view, 110, 18).contains(&format!(" green_sub {}", "─".repeat(99))));
        view.select(1);
        view.select(1);
        view.show(answer(&view.limits, vec![lost("old")]), PgTimestamp(0));
        assert!(draw(&view, 110, 18).iter().any(|line| line.starts_with(" old ─")));
        view.select(9);
        assert!(draw(&view, 110, 18).iter().any(|line| line.starts_with(" old ─")));
    }

    #[test]
    fn what_is_paused_stays_and_what_goes_on_is_judged() {
        let mut view = view();
        view.pause();
        view.show(answer(&view.limits, vec![live("green_sub", 0.0)]), PgTimestamp(60_000_000));
        assert!(draw(&view, 110, 18)[0].contains("00:00:07") && view.verdict() == Verdict::Ok);
        view.pause();
        assert!(draw(&view, 110, 18)[0].contains("00:01:00"));
    }

    #[test]
    fn a_source_that_does_not_answer_is_said_so_above_what_was_known() {
        let mut view = view();
        let mut nothing = answer(&view.limits, Vec::new());
        nothing.trouble = Some("db:5432: connection refused".into());
        view.show(nothing, PgTimestamp(0));
        view.sample();
        assert_eq!(draw(&view, 80, 18)[1], "db:5432: connection refused");
        assert_eq!(draw(&View::new(String::new(), Limits::default()), 80, 2), ["", ""]);
    }
}
