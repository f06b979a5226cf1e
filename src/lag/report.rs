//! What is shown of a source: `/v1/lag` for each consumer, `/v1/slots` for each slot. Every unknown figure is null.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ident::{SlotName, TableName};
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// `/v1/lag`, and what `walgate lag --format json` prints.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LagReport {
    /// By source and slot.
    pub consumers: Vec<ConsumerReport>,
}

/// One consumer of a source.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConsumerReport {
    /// The source's name.
    pub source: String,
    /// The slot that the consumer reads.
    pub slot: SlotName,
    /// Logical or physical.
    pub kind: SlotKind,
    /// The output plugin of a logical slot.
    pub plugin: Option<String>,
    /// Whether somebody reads the slot.
    pub active: Option<bool>,
    /// How far the figures can be trusted.
    pub state: State,
    /// Where the delay is.
    pub stage: Option<Stage>,
    /// How far behind.
    pub lag: Lag,
    /// WAL that the slot keeps the server from removing, in bytes.
    pub retained_wal_bytes: Option<u64>,
    /// `pg_replication_slots.wal_status`.
    pub wal_status: Option<String>,
    /// WAL that may still be written before the slot is lost, in bytes; null where there is no limit.
    pub safe_wal_bytes: Option<i64>,
    /// Positions in the WAL.
    pub positions: Positions,
    /// Bytes of published change per second.
    pub rates: Rates,
    /// Seconds until the consumer has caught up, at these rates.
    pub eta_seconds: Option<f64>,
    /// What is pending, by table, most rows first.
    pub tables: Vec<TableReport>,
    /// Seconds since the newest evidence that all this rests on.
    pub observed_age_seconds: Option<f64>,
    /// How it was observed.
    pub observe: Observe,
    /// Why it was not observed any better; null where it was observed as well as can be.
    pub observe_reason: Option<String>,
}

/// `/v1/slots`, and what `walgate slots list --format json` prints.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SlotsReport {
    /// By source and slot.
    pub slots: Vec<SlotReport>,
}

/// One row of `pg_replication_slots`, with who reads it.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SlotReport {
    /// The source's name.
    pub source: String,
    /// The slot's name.
    pub slot: SlotName,
    /// Logical or physical.
    pub kind: SlotKind,
    /// The output plugin of a logical slot.
    pub plugin: Option<String>,
    /// The database of a logical slot.
    pub database: Option<String>,
    /// Whether it goes with the session that made it.
    pub temporary: bool,
    /// Whether prepared transactions are decoded when they are prepared.
    pub two_phase: bool,
    /// Whether somebody reads it.
    pub active: bool,
    /// The process id of the walsender that holds it.
    pub active_pid: Option<i32>,
    /// The `application_name` of who holds it.
    pub application_name: Option<String>,
    /// The address of who holds it; null for a Unix-domain socket.
    pub client_addr: Option<String>,
    /// Since when nobody reads it (PostgreSQL 17 and later).
    pub inactive_since: Option<PgTimestamp>,
    /// The oldest WAL that it keeps.
    pub restart_lsn: Option<Lsn>,
    /// What its consumer has acknowledged as flushed; null for a physical slot.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// WAL that it keeps the server from removing, in bytes.
    pub retained_wal_bytes: Option<u64>,
    /// `wal_status`: reserved, extended, unreserved or lost.
    pub wal_status: Option<String>,
    /// WAL that may still be written before it is lost, in bytes; null where there is no limit.
    pub safe_wal_bytes: Option<i64>,
    /// Why it cannot be used any more (PostgreSQL 17 and later).
    pub invalidation_reason: Option<String>,
}

/// How far behind a consumer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Lag {
    /// Age of the oldest commit that was sent and not acknowledged, by the server's clock.
    pub seconds: Option<f64>,
    /// The most that it can be, counting WAL that the server has not decoded yet.
    pub seconds_max: Option<f64>,
    /// Commits sent and not acknowledged.
    pub transactions: Option<u64>,
    /// Their rows.
    pub rows: Option<u64>,
    /// The bytes of those rows' messages.
    pub bytes: Option<u64>,
    /// The most that `bytes` can be.
    #[serde(skip)]
    pub bytes_max: Option<u64>,
    /// WAL that the server has not decoded for this consumer, in bytes.
    pub undecoded_wal_bytes: Option<u64>,
    /// Transactions that are being streamed and are not committed.
    pub open_transactions: Option<u64>,
    /// The bytes of their rows' messages.
    pub open_bytes: Option<u64>,
}

/// Positions in the WAL, in the order that a change passes them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Positions {
    /// The source's flush position.
    pub server: Option<Lsn>,
    /// What the server has decoded and put on the wire.
    pub decoded: Option<Lsn>,
    /// The position of the newest message sent.
    pub sent: Option<Lsn>,
    /// What the consumer has acknowledged as flushed.
    pub acked: Option<Lsn>,
    /// What it has acknowledged as applied.
    pub applied: Option<Lsn>,
}

/// Bytes of published change per second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rates {
    /// Committed and sent.
    pub in_bytes_per_second: Option<f64>,
    /// Acknowledged.
    pub acked_bytes_per_second: Option<f64>,
}

/// What is pending in one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TableReport {
    /// `schema.table`, quoted as SQL needs it.
    pub table: TableName,
    /// Commits that change it.
    pub transactions: u64,
    /// Their rows in it.
    pub rows: u64,
    /// The bytes of those rows' messages.
    pub bytes: u64,
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SlotKind {
    /// Decoded changes.
    Logical,
    /// WAL as it is.
    Physical,
}

/// How far the figures can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Exact.
    Live,
    /// `seconds` and the counts are the least, `seconds_max` is the most that it can be.
    Bounded,
    /// The evidence is too old.
    Stale,
    /// Never seen, or not to be followed.
    Unknown,
}

impl State {
    /// Every state.
    pub const ALL: [State; 4] = [State::Live, State::Bounded, State::Stale, State::Unknown];

    /// The state's name in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Live => "live",
            State::Bounded => "bounded",
            State::Stale => "stale",
            State::Unknown => "unknown",
        }
    }
}

/// Where the delay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// There is none.
    None,
    /// The server has not decoded it yet.
    Walsender,
    /// The server has sent it, and it has not arrived.
    Network,
    /// The consumer has it and has not acknowledged it.
    Consumer,
}

/// How a consumer is observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Observe {
    /// Its stream passes the proxy, which sees both directions.
    #[default]
    Proxy,
    /// A temporary copy of its slot is read, and acknowledgements are seen once a second in `pg_replication_slots`.
    Slot,
    /// Only its positions are seen, once a second: what lies between them is not decoded.
    Poll,
}

impl Stage {
    /// The stage's name in JSON and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::None => "none",
            Stage::Walsender => "walsender",
            Stage::Network => "network",
            Stage::Consumer => "consumer",
        }
    }
}

impl FromStr for Observe {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Observe, Self::Err> {
        let known = [Observe::Proxy, Observe::Slot, Observe::Poll];
        known.into_iter().find(|observe| observe.as_str() == text).ok_or("expected proxy, slot or poll")
    }
}

impl Observe {
    /// Its name in JSON and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Observe::Proxy => "proxy",
            Observe::Slot => "slot",
            Observe::Poll => "poll",
        }
    }
}

impl SlotKind {
    /// The kind's name in JSON and in `pg_replication_slots`.
    pub fn as_str(self) -> &'static str {
        match self {
            SlotKind::Logical => "logical",
            SlotKind::Physical => "physical",
        }
    }
}
