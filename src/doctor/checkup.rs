//! What was seen of a server at one moment: plain values, as the bundle has them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::gate::{Receiver, Subscription};
use crate::identity::{Finding, RuleSet};
use crate::lag::SlotReport;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// A part of it: what was seen, or why nothing was.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Look<T> {
    /// What was seen.
    Seen(T),
    /// Nothing.
    Unseen(Unseen),
}

/// Why something was not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unseen {
    /// In words.
    #[serde(rename = "unseen")]
    pub why: String,
    /// What lets it be seen, as SQL.
    pub mend: Option<String>,
}

impl<T> Look<T> {
    /// That nothing was seen, and why.
    pub fn missing(why: impl Into<String>, mend: Option<String>) -> Look<T> {
        Look::Unseen(Unseen { why: why.into(), mend })
    }

    /// A part of what was seen.
    pub fn map<U>(self, part: impl FnOnce(T) -> U) -> Look<U> {
        match self {
            Look::Seen(seen) => Look::Seen(part(seen)),
            Look::Unseen(unseen) => Look::Unseen(unseen),
        }
    }

    /// What was seen, if anything was.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Look::Seen(seen) => Some(seen),
            Look::Unseen(_) => None,
        }
    }

    /// Why nothing was seen, if so.
    pub fn unseen(&self) -> Option<&Unseen> {
        match self {
            Look::Seen(_) => None,
            Look::Unseen(unseen) => Some(unseen),
        }
    }
}

/// All that was seen of a server.
#[derive(Clone, Debug, Serialize)]
pub struct Checkup {
    /// Which server, and who asked.
    pub server: Server,
    /// Whether the role that asked may stream: that a replication connection was opened.
    pub replication: Look<bool>,
    /// Roles that may open replication connections, superusers too.
    pub replication_roles: BTreeSet<String>,
    /// Whether there is the role whose members may on Amazon RDS, `rds_replication`.
    pub replication_group: bool,
    /// Settings that matter to replication, as `current_setting` spells them.
    pub settings: BTreeMap<String, String>,
    /// Those of them that are changed in the configuration, and wait for a restart.
    pub pending_restart: BTreeSet<String>,
    /// By setting, what is limited and how much of it is in use.
    pub limits: Look<BTreeMap<&'static str, Limit>>,
    /// `pg_replication_slots`.
    pub slots: Vec<Slot>,
    /// `pg_stat_replication`.
    pub senders: Look<Vec<Sender>>,
    /// Transactions that are open, on any database.
    pub transactions: Look<Vec<Transaction>>,
    /// `pg_prepared_xacts`, of any database.
    pub prepared: Look<Vec<Prepared>>,
    /// Who waits for a lock, on any database.
    pub waits: Look<Vec<Wait>>,
    /// What is in `pg_wal`.
    pub wal: Look<Wal>,
    /// `pg_stat_archiver`.
    pub archiver: Look<Archiver>,
    /// The WAL receiver; null where the server is no standby.
    pub receiver: Option<Look<Receiver>>,
    /// The database's publications.
    pub publications: Look<Vec<Publication>>,
    /// The database's subscriptions.
    pub subscriptions: Look<Vec<Subscribed>>,
    /// What `walgate check` finds.
    pub identity: Look<Identity>,
}

impl Checkup {
    /// What could not be seen, each with what it is.
    pub fn unseen(&self) -> Vec<(&'static str, &Unseen)> {
        let parts = [
            ("limits", self.limits.unseen()),
            ("walsenders", self.senders.unseen()),
            ("transactions", self.transactions.unseen()),
            ("prepared transactions", self.prepared.unseen()),
            ("locks", self.waits.unseen()),
            ("pg_wal", self.wal.unseen()),
            ("the archiver", self.archiver.unseen()),
            ("the WAL receiver", self.receiver.as_ref().and_then(Look::unseen)),
            ("publications", self.publications.unseen()),
            ("subscriptions", self.subscriptions.unseen()),
        ];
        parts.into_iter().filter_map(|(what, unseen)| Some((what, unseen?))).collect()
    }

    /// A setting, where the server has it.
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }
}

/// A server, and who asked.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// As the connection string names it.
    pub host: String,
    /// `server_version`
    pub version: String,
    /// Its major part.
    pub major: u32,
    /// The database of the session.
    pub database: String,
    /// The role of the session.
    pub role: String,
    /// Whether that is a superuser.
    pub superuser: bool,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// The cluster's system identifier, in words as JSON's numbers are not wide enough.
    pub system: String,
    /// Its timeline; null on a standby.
    pub timeline: Option<u32>,
    /// How far its WAL is flushed (on a standby: replayed).
    pub flushed: Lsn,
    /// Its clock.
    pub time: PgTimestamp,
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What the setting says.
    pub most: u32,
    /// How many are in use; null where that is not seen.
    pub used: Option<u32>,
}

/// A slot.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    /// As everywhere.
    #[serde(flatten)]
    pub report: SlotReport,
    /// Whether a standby keeps it in step with its primary's, and nobody is to read it here (PostgreSQL 17 and later).
    pub synced: bool,
}

/// A walsender.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// `pid`
    pub pid: i32,
    /// `application_name`
    pub name: Option<String>,
    /// `usename`
    pub user: Option<String>,
    /// `client_addr`
    pub address: Option<String>,
    /// `state`; null where it is not seen.
    pub state: Option<String>,
    /// `sync_state`; null where it is not seen.
    pub sync_state: Option<String>,
}

/// A transaction that is open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transaction {
    /// The backend.
    pub pid: i32,
    /// `application_name`
    pub name: Option<String>,
    /// `usename`
    pub user: Option<String>,
    /// `datname`
    pub database: Option<String>,
    /// `backend_type`
    pub kind: String,
    /// `state`
    pub state: Option<String>,
    /// What it waits for: `wait_event_type` and `wait_event`.
    pub waits_for: Option<String>,
    /// Whether it has a transaction id: it has changed something, or locked rows.
    pub writes: bool,
    /// For how long it is open.
    pub open_seconds: f64,
    /// The first words of its last statement.
    pub command: Option<String>,
}

/// A transaction that is prepared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// `gid`
    pub gid: String,
    /// `owner`
    pub user: Option<String>,
    /// `database`
    pub database: String,
    /// For how long it is prepared.
    pub open_seconds: f64,
}

/// Somebody who waits for a lock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wait {
    /// The backend.
    pub pid: i32,
    /// `application_name`
    pub name: Option<String>,
    /// `usename`
    pub user: Option<String>,
    /// `datname`
    pub database: Option<String>,
    /// `locktype`
    pub on: String,
    /// `mode`
    pub mode: String,
    /// The table, where it is one of this database.
    pub table: Option<String>,
    /// For how long; null in its first moment.
    pub seconds: Option<f64>,
    /// Who is before it (`pg_blocking_pids`); 0 is a prepared transaction.
    pub behind: Vec<i32>,
    /// Whether it is creating a logical slot.
    pub creates_slot: bool,
    /// The first words of what it runs; null where it is not seen.
    pub command: Option<String>,
}

/// The WAL on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wal {
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// `max_wal_size` in bytes.
    pub max_wal_size: u64,
    /// `wal_keep_size` in bytes.
    pub wal_keep_size: u64,
}

/// The archiver.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Archiver {
    /// Whether `archive_mode` is on.
    pub on: bool,
    /// Whether it is told how, by `archive_command` or `archive_library`.
    pub configured: bool,
    /// `archived_count`
    pub archived: u64,
    /// `failed_count`
    pub failed: u64,
    /// Seconds since it last archived a file.
    pub archived_ago: Option<f64>,
    /// Seconds since it last failed.
    pub failed_ago: Option<f64>,
    /// The file that it failed with.
    pub failed_file: Option<String>,
}

/// A publication.
#[derive(Clone, Debug, Serialize)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// `FOR ALL TABLES`
    pub all_tables: bool,
    /// What it publishes of changes: `insert`, …
    pub operations: Vec<&'static str>,
    /// How many tables it publishes.
    pub tables: usize,
}

/// A subscription.
#[derive(Clone, Debug, Serialize)]
pub struct Subscribed {
    /// As everywhere.
    #[serde(flatten)]
    pub subscription: Subscription,
    /// Whether it is one of the extension pglogical.
    pub pglogical: bool,
    /// Whom it asks, without the rest of its connection string; null where that is not seen.
    pub source: Option<String>,
}

/// What the identity rules find.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    /// The findings.
    pub findings: Vec<Finding>,
    /// How many tables are published; null where that was not seen.
    pub tables: Option<usize>,
    /// By whose rules, besides PostgreSQL's own.
    pub rule_sets: BTreeSet<RuleSet>,
}
