//! What was seen. Every piece says when, and by which way; one that is missing says why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::fence::Writer;
use super::sequence::Sequence;
use crate::ident::{SlotName, TableName};
use crate::identity::Finding;
use crate::lag::{ConsumerReport, Followed, History, SlotLife, SlotRow};
use crate::lsn::Lsn;
use crate::units::age;

/// A piece of evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece<T> {
    /// It was seen.
    Seen {
        /// What.
        value: T,
        /// When the look at it was begun.
        at: Instant,
        /// Whom walgate asked, for people: `pg_stat_activity of blue`.
        from: &'static str,
    },
    /// It was not, and why.
    Unseen(String),
}

impl<T> Default for Piece<T> {
    fn default() -> Piece<T> {
        Piece::Unseen("it has not been looked at yet".into())
    }
}

impl<T> Piece<T> {
    /// What was seen, while it counts: not earlier than `staleness` before `now`. Else why nothing can be said.
    ///
    /// # Errors
    /// If it is missing or too old.
    pub fn fresh(&self, now: Instant, staleness: Duration) -> Result<&T, String> {
        match self {
            Piece::Seen { value, at, from } => {
                // What claims to be from later than now is from another clock.
                let seen = now.checked_duration_since(*at).filter(|seen| *seen <= staleness);
                seen.map(|_| value).ok_or_else(|| {
                    let seen = now.saturating_duration_since(*at).as_secs_f64();
                    format!("{from} was last looked at {} ago, which is too long to count", age(seen))
                })
            }
            Piece::Unseen(why) => Err(why.clone()),
        }
    }

    /// What was seen, however old.
    pub fn value(&self) -> Option<&T> {
        match self {
            Piece::Seen { value, .. } => Some(value),
            Piece::Unseen(_) => None,
        }
    }

    /// When it was seen.
    pub fn at(&self) -> Option<Instant> {
        match self {
            Piece::Seen { at, .. } => Some(*at),
            Piece::Unseen(_) => None,
        }
    }

    /// What follows from it, if anything does.
    pub fn and_then<U>(self, follows: impl FnOnce(T) -> Result<U, String>) -> Piece<U> {
        match self {
            Piece::Seen { value, at, from } => match follows(value) {
                Ok(value) => Piece::Seen { value, at, from },
                Err(why) => Piece::Unseen(why),
            },
            Piece::Unseen(why) => Piece::Unseen(why),
        }
    }

    /// The same evidence of a part of it.
    pub fn map<U>(self, part: impl FnOnce(T) -> U) -> Piece<U> {
        match self {
            Piece::Seen { value, at, from } => Piece::Seen { value: part(value), at, from },
            Piece::Unseen(why) => Piece::Unseen(why),
        }
    }
}

/// Everything that a verdict rests on.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The side that is written to: in a rollback the target of the gate.
    pub source: Side,
    /// By slot of the source, those that must have everything.
    pub consumers: BTreeMap<SlotName, ConsumerSide>,
    /// The side that is to be written to.
    pub target: Side,
    /// How far zero-cache's SQLite replica is: the `commit_lsn` of what it has applied last.
    pub replica: Piece<Lsn>,
    /// How the data of both sides compare.
    pub data: Piece<DataEvidence>,
}

impl Evidence {
    /// When the oldest was seen of what counts, and changes from moment to moment.
    pub fn observed(&self, now: Instant, staleness: Duration) -> Option<Instant> {
        let sides = [&self.source, &self.target].into_iter();
        let of_sides = sides
            .flat_map(|side| [side.standing.at(), side.activity.at(), side.subscriptions.at(), side.receiver.at()]);
        let of_consumers = self.consumers.values().flat_map(|consumer| [consumer.slot.at(), consumer.stream.at()]);
        let counts = |at: &Instant| now.saturating_duration_since(*at) <= staleness;
        of_sides.chain(of_consumers).flatten().filter(counts).min()
    }
}

/// What was seen of one of the two servers. Which of it is asked for depends on the phase.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Which history it is of, and how far.
    pub standing: Piece<Standing>,
    /// The identity findings that concern the consumers' publications.
    pub findings: Piece<Vec<Finding>>,
    /// Who is at work on it.
    pub activity: Piece<Activity>,
    /// How it is set up.
    pub settings: Piece<Settings>,
    /// That walgate's role opened a replication connection, and what IDENTIFY_SYSTEM said there.
    pub replication: Piece<History>,
    /// Where the timelines before its own ended, oldest first (`TIMELINE_HISTORY`).
    pub forks: Piece<Vec<Fork>>,
    /// Its tables.
    pub schema: Piece<Arc<Schema>>,
    /// Its sequences.
    pub sequences: Piece<Vec<Sequence>>,
    /// What no publication carries.
    pub unreplicated: Piece<Arc<Vec<Unreplicated>>>,
    /// The subscriptions that it has itself, PostgreSQL's own or pglogical's.
    pub subscriptions: Piece<Vec<Subscription>>,
    /// Its WAL receiver, where it is a standby.
    pub receiver: Piece<Receiver>,
    /// That a transaction was committed there just now, or why not.
    pub writable: Piece<Result<(), String>>,
    /// Whether nothing listens there any more.
    pub stopped: Piece<bool>,
}

impl Side {
    /// A server of which nothing can be said, and why.
    pub fn unseen(why: &str) -> Side {
        Side {
            standing: Piece::Unseen(why.into()),
            findings: Piece::Unseen(why.into()),
            activity: Piece::Unseen(why.into()),
            settings: Piece::Unseen(why.into()),
            replication: Piece::Unseen(why.into()),
            forks: Piece::Unseen(why.into()),
            schema: Piece::Unseen(why.into()),
            sequences: Piece::Unseen(why.into()),
            unreplicated: Piece::Unseen(why.into()),
            subscriptions: Piece::Unseen(why.into()),
            receiver: Piece::Unseen(why.into()),
            writable: Piece::Unseen(why.into()),
            stopped: Piece::Unseen(why.into()),
        }
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which history its positions are of.
    pub history: History,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// How far its WAL is flushed (on a standby: replayed).
    pub flushed: Lsn,
    /// All slots there are.
    pub slots: BTreeMap<SlotName, SlotSummary>,
}

/// A slot that is not a consumer of the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSummary {
    /// Whether somebody reads it.
    pub active: bool,
    /// WAL that it keeps, in bytes.
    pub retained: Option<u64>,
}

/// Who is at work on a database at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Backends of this database that hold a transaction id, and prepared transactions.
    pub writers: Vec<Writer>,
    /// The next transaction id to be given, with its epoch (`pg_snapshot_xmax`).
    pub next_xid: u64,
    /// Whether no transaction id of any database is in progress (`pg_snapshot_xmin` is `pg_snapshot_xmax`).
    pub quiet: bool,
    /// Which history the server was of that was asked.
    pub history: Option<History>,
    /// How far WAL was written then; everything that had been committed lies below. Unknown on a standby.
    pub inserted: Option<Lsn>,
    /// Client sessions of this database, but for walgate's own and the walsenders, as `pid application_name`.
    pub clients: Vec<String>,
    /// The oldest transaction that is open here, and how old.
    pub oldest: Option<(Writer, Duration)>,
    /// Sessions that wait for or hold locks that forbid reading, with what they run: DDL under way.
    pub ddl: Vec<Writer>,
}

/// How a server is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Settings {
    /// `server_version_num / 10000`
    pub major: u32,
    /// `wal_level`
    pub wal_level: String,
    /// `max_replication_slots` and how many are in use.
    pub slots: (u32, u32),
    /// `max_wal_senders` and how many are in use.
    pub senders: (u32, u32),
    /// `max_logical_replication_workers` and how many are in use.
    pub logical_workers: (u32, u32),
    /// `max_worker_processes` and how many are in use.
    pub workers: (u32, u32),
    /// `max_active_replication_origins` (before 18 `max_replication_slots`) and how many are in use.
    pub origins: (u32, u32),
    /// The database's encoding.
    pub encoding: String,
    /// The database's `LC_COLLATE` and provider.
    pub collation: String,
    /// Installed extensions with their versions.
    pub extensions: BTreeMap<String, String>,
}

/// The tables of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// By name.
    pub tables: BTreeMap<TableName, Table>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// By name.
    pub columns: BTreeMap<String, Column>,
    /// What rows must satisfy, in the words of `pg_get_constraintdef` and `pg_get_indexdef` without names.
    pub constraints: Vec<String>,
}

/// A column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// As `format_type` names it.
    pub type_name: String,
    /// `NOT NULL`
    pub not_null: bool,
    /// `GENERATED … STORED`
    pub generated: bool,
    /// What is put into it where nothing is given.
    pub has_default: bool,
}

impl Subscription {
    /// The errors and conflicts that were counted so far.
    pub fn troubles(&self) -> u64 {
        self.errors.unwrap_or(0) + self.conflicts.unwrap_or(0)
    }
}

/// Something that replication leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreplicated {
    /// `schema.name` as SQL needs it, or `large objects`.
    pub name: String,
    /// What it is, and why it is left out: `unlogged table`.
    pub what: String,
    /// A table without a key, which nothing can replicate: its rows are carried over by hand.
    pub by_hand: bool,
}

/// What was seen of a consumer on the source.
#[derive(Clone, Debug, Default)]
pub struct ConsumerSide {
    /// Its slot; `None` where there is none of the name.
    pub slot: Piece<Option<SlotEvidence>>,
    /// What its stream has shown, its own or a copy's.
    pub stream: Piece<Followed>,
    /// How far behind it is.
    pub report: Option<ConsumerReport>,
    /// Nobody is to decode what is published to it, as the source was configured (`observe = "poll"`).
    pub undecoded: bool,
    /// The tables that are published to it.
    pub published: Piece<Arc<BTreeSet<TableName>>>,
}

/// A slot, and since when it is the same.
#[derive(Clone, Debug)]
pub struct SlotEvidence {
    /// The row of `pg_replication_slots`.
    pub row: SlotRow,
    /// Since when it is the same.
    pub life: SlotLife,
}

/// Where a timeline ended and the next one began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that ended.
    pub timeline: u32,
    /// Its last position.
    pub at: Lsn,
}

/// A subscription on the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subscription {
    /// Its name.
    pub name: String,
    /// The slot on the source that it reads.
    pub slot: Option<SlotName>,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Whether its worker runs.
    pub running: bool,
    /// How its worker is, in words, where that is said.
    pub status: Option<String>,
    /// The publications that it subscribes to; for pglogical the replication sets.
    pub publications: Vec<String>,
    /// The tables that it knows, with their states: `r` is replicated continuously.
    pub tables: BTreeMap<TableName, String>,
    /// The furthest position of the source that it has applied (its replication origin); `None` before the first.
    pub applied: Option<Lsn>,
    /// How far its worker has received what its publisher sends (pglogical's: applied), and by when that was answered, the
    /// last time and the time before.
    #[serde(skip)]
    pub received: [Option<(Lsn, Instant)>; 2],
    /// Errors when applying and copying that were counted so far; `None` where the version does not count.
    pub errors: Option<u64>,
    /// Conflicts that were counted so far (PostgreSQL 18 and later).
    pub conflicts: Option<u64>,
    /// Since when they are counted, as a text that is another one after they were set back.
    #[serde(skip)]
    pub counted_since: Option<String>,
    /// The errors and conflicts that had been counted when the keeper first looked; none once they were set back.
    #[serde(skip)]
    pub baseline: Option<u64>,
    /// The transaction that it is told to skip.
    pub skip: Option<Lsn>,
}

/// The WAL receiver of a standby.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receiver {
    /// `status` of `pg_stat_wal_receiver`; `None` where none runs.
    pub status: Option<String>,
    /// The timeline that it receives.
    pub timeline: Option<u32>,
    /// The slot that it reads on the source.
    pub slot: Option<SlotName>,
    /// How far WAL is replayed.
    pub replayed: Option<Lsn>,
}

/// How the data of both sides compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataEvidence {
    /// Tables that are equal.
    pub equal: usize,
    /// Tables that differ, with how.
    pub different: Vec<(TableName, String)>,
    /// Tables of which not everything was looked at, with why.
    pub unseen: Vec<(TableName, String)>,
    /// When the fence was set that it was begun under; data that were compared before writes stopped prove nothing.
    pub under: Option<Instant>,
}
