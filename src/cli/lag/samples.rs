//! Consumers for the tests of what shows them.

use super::limits::{Limits, Verdict};
use super::probe::Answer;
use crate::ident::TableName;
use crate::lag::{ConsumerReport, Lag, Observe, Positions, Rates, SlotKind, Stage, State, TableReport};
use crate::lsn::Lsn;

/// One that is exactly so many seconds behind, with 41 rows of 41,000 bytes pending.
pub(super) fn live(slot: &str, seconds: f64) -> ConsumerReport {
    ConsumerReport {
        source: "main".into(),
        slot: slot.parse().unwrap(),
        kind: SlotKind::Logical,
        plugin: Some("pgoutput".into()),
        active: Some(true),
        state: State::Live,
        stage: Some(Stage::Consumer),
        lag: Lag {
            seconds: Some(seconds),
            seconds_max: Some(seconds),
            transactions: Some(3),
            rows: Some(41),
            bytes: Some(41_000),
            bytes_max: Some(41_000),
            undecoded_wal_bytes: Some(0),
            open_transactions: Some(0),
            open_bytes: Some(0),
        },
        retained_wal_bytes: Some(123_456),
        wal_status: Some("reserved".into()),
        safe_wal_bytes: None,
        positions: Positions {
            server: Some(Lsn(0x5A2_E4F8)),
            decoded: Some(Lsn(0x5A2_E4F8)),
            sent: Some(Lsn(0x5A2_E4F8)),
            acked: Some(Lsn(0x5A1_0000)),
            applied: None,
        },
        rates: Rates { in_bytes_per_second: Some(2_000.0), acked_bytes_per_second: Some(3_000.0) },
        eta_seconds: Some(41.0),
        tables: vec![TableReport {
            table: TableName { schema: "public".into(), name: "orders".into() },
            transactions: 3,
            rows: 41,
            bytes: 41_000,
        }],
        observed_age_seconds: Some(0.2),
        observe: Observe::Slot,
        observe_reason: None,
    }
}

/// One of which only bounds are known, with 1,000,000 bytes of WAL between its positions.
pub(super) fn bounded(slot: &str, seconds: Option<f64>, seconds_max: Option<f64>) -> ConsumerReport {
    ConsumerReport {
        state: State::Bounded,
        stage: Some(Stage::Walsender),
        lag: Lag { seconds, seconds_max, undecoded_wal_bytes: Some(1_000_000), ..Lag::default() },
        eta_seconds: None,
        tables: Vec::new(),
        observe: Observe::Poll,
        observe_reason: Some("its output plugin is wal2json, not pgoutput".into()),
        ..live(slot, 0.0)
    }
}

/// One of which nothing is known.
pub(super) fn unknown(slot: &str) -> ConsumerReport {
    ConsumerReport {
        active: None,
        state: State::Unknown,
        stage: None,
        lag: Lag::default(),
        retained_wal_bytes: None,
        wal_status: None,
        positions: Positions::default(),
        rates: Rates::default(),
        observed_age_seconds: None,
        ..bounded(slot, None, None)
    }
}

/// One whose slot has lost WAL.
pub(super) fn lost(slot: &str) -> ConsumerReport {
    ConsumerReport {
        active: Some(false),
        wal_status: Some("lost".into()),
        observe_reason: Some("the slot is lost (it fell too far behind): its consumer must be set up anew".into()),
        ..unknown(slot)
    }
}

/// What a probe says that has seen these.
pub(super) fn answer(limits: &Limits, consumers: Vec<ConsumerReport>) -> Answer {
    let judgements: Vec<_> = consumers.iter().map(|report| limits.judge(report)).collect();
    let verdict = judgements.iter().map(|judgement| judgement.verdict).max().unwrap_or(Verdict::Unknown);
    Answer { consumers, judgements, server: None, trouble: None, missing: Vec::new(), remarks: Vec::new(), verdict }
}
