//! What a look at a source through an SQL session sees: its WAL position, its clock, its slots and who reads them.

use std::collections::BTreeMap;
use std::fmt;

use crate::ident::SlotName;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::wire::command::StartReplication;

use super::report::{SlotKind, SlotReport};

/// Which history of WAL a position belongs to: positions of two histories cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// The cluster's system identifier.
    pub system: u64,
    /// Its timeline, where that is certain: a standby's is not to be had by SQL.
    pub timeline: Option<u32>,
}

impl History {
    /// Whether positions of the one say nothing about the other.
    pub fn contradicts(self, other: History) -> bool {
        let timelines = self.timeline.zip(other.timeline);
        self.system != other.system || timelines.is_some_and(|(own, other)| own != other)
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system {}", self.system)?;
        self.timeline.map_or(Ok(()), |timeline| write!(f, ", timeline {timeline}"))
    }
}

/// A look at a source.
#[derive(Clone, Debug)]
pub struct SourcePoll {
    /// The server that was looked at, in the same words as the streams' own.
    pub server: Box<str>,
    /// The database of the session.
    pub database: String,
    /// Which history.
    pub history: History,
    /// Since when it runs.
    pub running_since: PgTimestamp,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// How far its WAL is flushed (on a standby: replayed).
    pub flushed: Lsn,
    /// The server's clock at that moment.
    pub server_time: PgTimestamp,
    /// Slots and walsenders that are free, whichever are fewer.
    pub spare: u32,
    /// While nobody holds a transaction id, and none is in progress: behind the last one that has ended. As long as it stays so,
    /// nothing is committed.
    pub still: Option<u64>,
    /// Whether `synchronous_standby_names` would count a stream of walgate's own.
    pub counts_us: bool,
    /// The rows of `pg_replication_slots`, but for walgate's own.
    pub slots: BTreeMap<SlotName, SlotRow>,
}

impl SourcePoll {
    /// Every slot, in the order of their names, as a slot of the source of this name.
    pub fn slot_reports(&self, source: &str) -> Vec<SlotReport> {
        self.slots.iter().map(|(slot, row)| self.slot_report(source, slot, row)).collect()
    }

    fn slot_report(&self, source: &str, slot: &SlotName, row: &SlotRow) -> SlotReport {
        SlotReport {
            source: source.to_owned(),
            slot: slot.clone(),
            kind: row.kind,
            plugin: row.plugin.clone(),
            database: row.database.clone(),
            temporary: row.temporary,
            two_phase: row.two_phase,
            active: row.active,
            active_pid: row.active_pid,
            application_name: row.reader.application_name.clone(),
            client_addr: row.reader.client_addr.clone(),
            inactive_since: row.inactive_since,
            restart_lsn: row.restart_lsn,
            confirmed_flush_lsn: row.confirmed_flush,
            retained_wal_bytes: row.restart_lsn.map(|restart| self.flushed.bytes_since(restart)),
            wal_status: row.wal_status.clone(),
            safe_wal_bytes: row.safe_wal_size,
            invalidation_reason: row.invalidation_reason.clone(),
        }
    }
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug)]
pub struct SlotRow {
    /// `slot_type`
    pub kind: SlotKind,
    /// `plugin`
    pub plugin: Option<String>,
    /// `database`
    pub database: Option<String>,
    /// `temporary`
    pub temporary: bool,
    /// `two_phase`
    pub two_phase: bool,
    /// `active`
    pub active: bool,
    /// `active_pid`
    pub active_pid: Option<i32>,
    /// `restart_lsn`
    pub restart_lsn: Option<Lsn>,
    /// `confirmed_flush_lsn`
    pub confirmed_flush: Option<Lsn>,
    /// `wal_status`
    pub wal_status: Option<String>,
    /// `safe_wal_size`, in bytes
    pub safe_wal_size: Option<i64>,
    /// `invalidation_reason`, from PostgreSQL 17 on
    pub invalidation_reason: Option<String>,
    /// `inactive_since`, from PostgreSQL 17 on
    pub inactive_since: Option<PgTimestamp>,
    /// `total_txns` of `pg_stat_replication_slots`, from PostgreSQL 15 on: before, counts outlive their slot for a while.
    pub decoded_transactions: Option<u64>,
    /// Who reads it, as far as walgate's role may see.
    pub reader: Reader,
}

/// What `pg_stat_replication` and `pg_stat_activity` say of the walsender that holds a slot.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// `application_name`
    pub application_name: Option<String>,
    /// `client_addr`
    pub client_addr: Option<String>,
    /// `sent_lsn`: how far the WAL has been read, and sent or found to hold nothing to be sent.
    pub sent: Option<Lsn>,
    /// `flush_lsn`
    pub flush: Option<Lsn>,
    /// `replay_lsn`
    pub replay: Option<Lsn>,
    /// The command that started the stream.
    pub command: Option<StartReplication>,
}

impl SlotRow {
    /// Whether the slot has lost WAL that its consumer needs, or was invalidated: nothing will come of it any more.
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.invalidation_reason.is_some()
    }

    /// What the consumer has acknowledged: of a logical slot what it has flushed, of a standby what it has replayed.
    pub(super) fn acked(&self) -> Option<Lsn> {
        match self.kind {
            SlotKind::Logical => self.confirmed_flush,
            SlotKind::Physical if self.active => self.reader.replay.or(self.reader.flush).or(self.restart_lsn),
            SlotKind::Physical => self.restart_lsn,
        }
    }
}
