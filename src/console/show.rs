//! What each `SHOW` answers: its columns, and its rows as the models hold them at that moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Console;
use super::table::Kind::{Bool, Float8, Int8, PgLsn, Text, Timestamptz};
use super::table::{Column, Kind, Row};
use crate::gate::Phase;
use crate::ident::SlotName;
use crate::identity::Finding;
use crate::keeper::Keeper;
use crate::lag::{ConsumerReport, SlotReport};
use crate::source::{NotAudited, Session, Source, SourceReport};

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Lag,
    Slots,
    Findings,
    Gates,
    Sessions,
    Sources,
    Config,
    Version,
    Help,
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

const LAG: &[Column] = &[
    column("source", Text),
    column("slot", Text),
    column("kind", Text),
    column("state", Text),
    column("stage", Text),
    column("seconds", Float8),
    column("seconds_max", Float8),
    column("transactions", Int8),
    column("rows", Int8),
    column("bytes", Int8),
    column("undecoded_wal_bytes", Int8),
    column("open_transactions", Int8),
    column("open_bytes", Int8),
    column("retained_wal_bytes", Int8),
    column("wal_status", Text),
    column("safe_wal_bytes", Int8),
    column("server_lsn", PgLsn),
    column("decoded_lsn", PgLsn),
    column("sent_lsn", PgLsn),
    column("acked_lsn", PgLsn),
    column("applied_lsn", PgLsn),
    column("eta_seconds", Float8),
    column("observed_age_seconds", Float8),
    column("observe", Text),
    column("observe_reason", Text),
];

const SLOTS: &[Column] = &[
    column("source", Text),
    column("slot", Text),
    column("kind", Text),
    column("plugin", Text),
    column("database", Text),
    column("temporary", Bool),
    column("two_phase", Bool),
    column("active", Bool),
    column("active_pid", Int8),
    column("application_name", Text),
    column("client_addr", Text),
    column("inactive_since", Timestamptz),
    column("restart_lsn", PgLsn),
    column("confirmed_flush_lsn", PgLsn),
    column("retained_wal_bytes", Int8),
    column("wal_status", Text),
    column("safe_wal_bytes", Int8),
    column("invalidation_reason", Text),
];

const FINDINGS: &[Column] = &[
    column("source", Text),
    column("rule", Text),
    column("severity", Text),
    column("table", Text),
    column("publication", Text),
    column("message", Text),
    column("fix", Text),
];

const GATES: &[Column] = &[
    column("gate", Text),
    column("source", Text),
    column("target", Text),
    column("consumers", Text),
    column("phase", Text),
    column("state", Text),
    column("target_lsn", PgLsn),
    column("fenced_at", Timestamptz),
    column("stray_lsn", PgLsn),
    column("lost", Text),
];

const SESSIONS: &[Column] = &[
    column("source", Text),
    column("id", Int8),
    column("kind", Text),
    column("user", Text),
    column("database", Text),
    column("application_name", Text),
    column("client", Text),
    column("started", Timestamptz),
    column("received_bytes", Int8),
    column("sent_bytes", Int8),
    column("server", Text),
    column("slot", Text),
];

const SOURCES: &[Column] = &[
    column("source", Text),
    column("state", Text),
    column("reason", Text),
    column("server", Text),
    column("database", Text),
    column("server_version", Text),
    column("system_identifier", Text),
    column("timeline", Int8),
    column("in_recovery", Bool),
    column("flushed_lsn", PgLsn),
    column("observed_age_seconds", Float8),
    column("observe", Text),
    column("sessions", Int8),
    column("remarks", Text),
];

const CONFIG: &[Column] = &[column("key", Text), column("value", Text)];
const VERSION: &[Column] = &[column("version", Text)];
const HELP: &[Column] = &[column("command", Text), column("shows", Text)];

impl Show {
    /// Everything, in the order that `SHOW HELP` has.
    const ALL: [Show; 9] = [
        Show::Lag,
        Show::Slots,
        Show::Findings,
        Show::Gates,
        Show::Sessions,
        Show::Sources,
        Show::Config,
        Show::Version,
        Show::Help,
    ];

    /// What a word in lower case stands for.
    pub(super) fn named(word: &str) -> Option<Show> {
        Show::ALL.into_iter().find(|show| show.name() == word)
    }

    fn name(self) -> &'static str {
        match self {
            Show::Lag => "lag",
            Show::Slots => "slots",
            Show::Findings => "findings",
            Show::Gates => "gates",
            Show::Sessions => "sessions",
            Show::Sources => "sources",
            Show::Config => "config",
            Show::Version => "version",
            Show::Help => "help",
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Show::Lag => "How far each consumer is behind, and where the delay is",
            Show::Slots => "Replication slots and the WAL that they keep",
            Show::Findings => "Published tables that will break somebody, and what mends each",
            Show::Gates => "The gates, how each phase stood when it was last asked about, and the fences",
            Show::Sessions => "The clients that are connected, this one too",
            Show::Sources => "The sources, and whether they answer",
            Show::Config => "The running configuration, without its secrets",
            Show::Version => "The version of walgate",
            Show::Help => "This",
        }
    }

    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Show::Lag => LAG,
            Show::Slots => SLOTS,
            Show::Findings => FINDINGS,
            Show::Gates => GATES,
            Show::Sessions => SESSIONS,
            Show::Sources => SOURCES,
            Show::Config => CONFIG,
            Show::Version => VERSION,
            Show::Help => HELP,
        }
    }

    /// What there is to show.
    ///
    /// # Errors
    /// If findings are asked for, of which nothing is known.
    pub(super) fn rows(self, console: &Console) -> Result<Vec<Row>, NotAudited> {
        let now = Instant::now();
        let of_sources = |rows: &dyn Fn(&Source) -> Vec<Row>| {
            console.view.sources().iter().flat_map(|source| rows(source)).collect::<Vec<Row>>()
        };
        Ok(match self {
            Show::Findings => {
                let mut rows = Vec::new();
                for source in console.view.sources() {
                    let report = source.audited(now)?;
                    rows.extend(report.audited.audit.findings.iter().map(|one| finding(source.name(), one)));
                }
                rows
            }
            Show::Gates => console.view.gates().iter().flat_map(|keeper| gate(keeper)).collect(),
            Show::Lag => of_sources(&|source| source.lag().reports(now).into_iter().map(lag).collect()),
            Show::Slots => of_sources(&|source| source.lag().slots(now).into_iter().map(slot).collect()),
            Show::Sessions => of_sources(&|source| {
                source.sessions().list().iter().map(|session| session_row(source.name(), session)).collect()
            }),
            Show::Sources => of_sources(&|source| vec![source_row(source.report(now))]),
            Show::Config => {
                console.setup().settings.into_iter().map(|(key, value)| vec![key.into(), value.into()]).collect()
            }
            Show::Version => vec![vec![concat!("walgate ", env!("CARGO_PKG_VERSION")).into()]],
            Show::Help => Show::ALL
                .into_iter()
                .map(|show| vec![format!("SHOW {}", show.name().to_uppercase()).into(), show.summary().into()])
                .collect(),
        })
    }
}

fn lag(report: ConsumerReport) -> Row {
    let (lag, at) = (report.lag, report.positions);
    vec![
        report.source.into(),
        report.slot.as_str().into(),
        report.kind.as_str().into(),
        report.state.as_str().into(),
        report.stage.map(|stage| stage.as_str()).into(),
        lag.seconds.into(),
        lag.seconds_max.into(),
        lag.transactions.into(),
        lag.rows.into(),
        lag.bytes.into(),
        lag.undecoded_wal_bytes.into(),
        lag.open_transactions.into(),
        lag.open_bytes.into(),
        report.retained_wal_bytes.into(),
        report.wal_status.into(),
        report.safe_wal_bytes.into(),
        at.server.into(),
        at.decoded.into(),
        at.sent.into(),
        at.acked.into(),
        at.applied.into(),
        report.eta_seconds.into(),
        report.observed_age_seconds.into(),
        report.observe.as_str().into(),
        report.observe_reason.into(),
    ]
}

fn slot(report: SlotReport) -> Row {
    vec![
        report.source.into(),
        report.slot.as_str().into(),
        report.kind.as_str().into(),
        report.plugin.into(),
        report.database.into(),
        report.temporary.into(),
        report.two_phase.into(),
        report.active.into(),
        report.active_pid.map(i64::from).into(),
        report.application_name.into(),
        report.client_addr.into(),
        report.inactive_since.into(),
        report.restart_lsn.into(),
        report.confirmed_flush_lsn.into(),
        report.retained_wal_bytes.into(),
        report.wal_status.into(),
        report.safe_wal_bytes.into(),
        report.invalidation_reason.into(),
    ]
}

fn finding(source: &str, finding: &Finding) -> Row {
    vec![
        source.into(),
        finding.rule.into(),
        finding.severity.as_str().into(),
        finding.table.as_ref().map(ToString::to_string).into(),
        finding.publication.as_deref().into(),
        finding.message.as_str().into(),
        finding.mend.as_ref().map(ToString::to_string).into(),
    ]
}

/// A row for each phase.
fn gate(keeper: &Keeper) -> Vec<Row> {
    let (terms, states) = (keeper.terms(), keeper.states());
    let row = |phase: Phase| {
        let fence = matches!(phase, Phase::Cutover | Phase::Rollback).then(|| keeper.standing(phase)).flatten();
        let consumers: Vec<&str> = terms.consumers_of(phase).iter().map(SlotName::as_str).collect();
        vec![
            terms.name.as_str().into(),
            terms.source.as_str().into(),
            terms.kind.as_str().into(),
            consumers.join(", ").into(),
            phase.as_str().into(),
            states.get(&phase).map(|state| state.as_str()).into(),
            fence.as_ref().map(|fence| fence.target_lsn).into(),
            fence.as_ref().and_then(|fence| fence.set_at).into(),
            fence.as_ref().and_then(|fence| fence.stray.as_ref()).map(|stray| stray.commit_lsn).into(),
            fence.as_ref().and_then(|fence| fence.lost.clone()).into(),
        ]
    };
    Phase::ALL.into_iter().map(row).collect()
}

fn session_row(source: &str, session: &Arc<Session>) -> Row {
    vec![
        source.into(),
        session.id.into(),
        session.kind.into(),
        (&*session.user).into(),
        (&*session.database).into(),
        session.application_name.as_deref().into(),
        (&*session.client).into(),
        session.started.into(),
        session.received.load(Ordering::Relaxed).into(),
        session.sent.load(Ordering::Relaxed).into(),
        session.server.get().map(|server| &**server).into(),
        session.slot().as_ref().map(|slot| slot.as_str()).into(),
    ]
}

fn source_row(report: SourceReport) -> Row {
    vec![
        report.source.into(),
        report.state.into(),
        report.reason.into(),
        report.server.into(),
        report.database.into(),
        report.server_version.into(),
        report.system_identifier.into(),
        report.timeline.map(i64::from).into(),
        report.in_recovery.into(),
        report.flushed_lsn.into(),
        report.observed_age_seconds.into(),
        report.observe.as_str().into(),
        report.sessions.values().sum::<u64>().into(),
        (!report.remarks.is_empty()).then(|| report.remarks.join("; ")).into(),
    ]
}
