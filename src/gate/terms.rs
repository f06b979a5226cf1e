//! What a gate is about, as it was configured.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ident::SlotName;
use crate::units::Size;

/// A gate: a source, its consumers, a target, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its name, in routes and metrics.
    pub name: String,
    /// The source's name.
    pub source: String,
    /// The slots of the consumers that must have everything.
    pub consumers: Vec<SlotName>,
    /// What the target is.
    pub kind: Kind,
    /// How far behind is too far, how old is too old.
    pub limits: Limits,
    /// What may be missing on the target: tables, materialized views, sequences by `schema.name`; `large objects`.
    pub accept_unreplicated: BTreeSet<String>,
    /// After a cutover the old source may be down. Without this, one that cannot be asked is never taken for silent.
    pub accept_stopped_source: bool,
    /// Whether a cutover wants the data of both sides compared.
    pub data: bool,
    /// Whether zero-cache is asked how far its replica is.
    pub asks_replica: bool,
    /// The way back, where there is one.
    pub reverse: Option<Reverse>,
}

/// The way back: who carries the target's changes to the source after a cutover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reverse {
    /// The slots on the target that the source reads.
    pub consumers: Vec<SlotName>,
}

/// How far behind is too far, how old is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most that may be pending, in bytes.
    pub lag: Size,
    /// The most that a consumer may be behind.
    pub age: Duration,
    /// For how long it must have been within both.
    pub settle: Duration,
    /// Evidence older than this does not count.
    pub staleness: Duration,
    /// A transaction that is older stands in the way of a start.
    pub transaction: Duration,
    /// WAL that must be left before a slot is lost, in bytes.
    pub headroom: Size,
}

impl Terms {
    /// The slots of the consumers that must have everything: in a rollback those of the way back.
    pub fn consumers_of(&self, phase: Phase) -> &[SlotName] {
        match (phase.is_back(), &self.reverse) {
            (false, _) => &self.consumers,
            (true, Some(reverse)) => &reverse.consumers,
            (true, None) => &[],
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            lag: Size(16 << 20),
            age: Duration::from_secs(5),
            settle: Duration::from_secs(30),
            staleness: Duration::from_secs(5),
            transaction: Duration::from_secs(15),
            headroom: Size(1 << 30),
        }
    }
}

/// What a target is, and so what it can prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Kind {
    /// Nothing is known of it but what it acknowledges.
    Slot,
    /// zero-cache.
    Zero,
    /// A database with subscriptions of PostgreSQL's own.
    Subscription,
    /// A database with subscriptions of pglogical.
    Pglogical,
    /// A physical standby.
    Standby,
}

/// What is asked of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// May we start; is everything ready.
    Preflight,
    /// May we switch now.
    Cutover,
    /// Did it really happen.
    Post,
    /// May we switch back now.
    Rollback,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 5] = [Kind::Slot, Kind::Zero, Kind::Subscription, Kind::Pglogical, Kind::Standby];

    /// As the configuration spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Slot => "slot",
            Kind::Zero => "zero",
            Kind::Subscription => "subscription",
            Kind::Pglogical => "pglogical",
            Kind::Standby => "standby",
        }
    }

    /// Whether the target is a PostgreSQL server that walgate asks itself.
    pub fn is_server(self) -> bool {
        matches!(self, Kind::Subscription | Kind::Pglogical | Kind::Standby)
    }

    /// Whether the target is another database, which is written to by what applies the changes.
    pub fn is_database(self) -> bool {
        matches!(self, Kind::Subscription | Kind::Pglogical)
    }
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 4] = [Phase::Preflight, Phase::Cutover, Phase::Post, Phase::Rollback];

    /// As routes and flags spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Preflight => "preflight",
            Phase::Cutover => "cutover",
            Phase::Post => "post",
            Phase::Rollback => "rollback",
        }
    }

    /// Whether the roles of source and target are exchanged.
    pub fn is_back(self) -> bool {
        self == Phase::Rollback
    }
}

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Kind, Self::Err> {
        let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or("expected slot, zero, subscription, pglogical or standby")
    }
}

impl FromStr for Phase {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Phase, Self::Err> {
        let known = Phase::ALL.into_iter().find(|phase| phase.as_str() == text);
        known.ok_or("expected preflight, cutover, post or rollback")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
