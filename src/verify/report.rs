//! What a verification has seen: a state for each table, and of the differences the keys, bounded.

use std::fmt;
use std::time::Instant;

use serde::{Serialize, Serializer};

use crate::gate::DataEvidence;
use crate::ident::TableName;
use crate::time::PgTimestamp;

/// One of the two databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Where the rows come from.
    Source,
    /// Where they are to be.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Source => "source",
            Side::Target => "target",
        })
    }
}

/// What was seen of all tables.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What all of it comes to.
    pub outcome: Outcome,
    /// When it began, by this machine's clock.
    pub began_at: PgTimestamp,
    /// When it ended.
    pub ended_at: PgTimestamp,
    /// What a sample was chosen by, where there was one: the same seed over the same rows gives the same sample.
    pub seed: Option<u64>,
    /// By name.
    pub tables: Vec<TableReport>,
}

/// What a verification comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every row was looked at, and all are equal. What was accepted as not replicated does not count.
    Equal,
    /// Something differs.
    Different,
    /// Nothing that was looked at differs, and not everything was looked at.
    Incomplete,
}

/// What was seen of one table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableReport {
    /// Which one.
    pub table: TableName,
    /// How it stands.
    pub state: State,
    /// Why, in words; none where it is equal.
    pub reason: Option<String>,
    /// The rows that were counted on the source; none where not all of them were.
    pub source_rows: Option<u64>,
    /// The same on the target.
    pub target_rows: Option<u64>,
    /// The rows looked at by a sample, and about how many there are.
    pub sample: Option<Sampled>,
    /// Columns that are not the same on both sides.
    pub columns: Vec<ColumnDifference>,
    /// Rows that are not the same.
    pub rows: Option<RowDifferences>,
    /// Rows that were not the same at first, and were when they were looked at again: they were under way.
    pub settled: u64,
    /// What to know about how it was compared.
    pub notes: Vec<String>,
}

/// How a table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All rows were looked at, and are equal.
    Equal,
    /// Something differs.
    Different,
    /// No difference in a sample. The rest was not looked at.
    Sampled,
    /// It could not be looked at, or not at all of it.
    Unknown,
    /// It was not looked at, as was accepted before.
    Skipped,
}

/// How much of a table a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sampled {
    /// Rows looked at.
    pub rows: u64,
    /// About how many rows the source has, as its statistics say; none where they do not.
    pub of_about: Option<u64>,
}

/// A column that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnDifference {
    /// Its name.
    pub column: Box<str>,
    /// Its type on the source; none where it is not there.
    pub source: Option<Box<str>>,
    /// Its type on the target; none where it is not there.
    pub target: Option<Box<str>>,
}

/// Rows that are not the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowDifferences {
    /// How many ranges of keys there are, by hash, and in how many of them something differs.
    pub ranges: Ranges,
    /// Rows that are missing on the target, of those ranges that were looked into.
    pub missing: u64,
    /// Rows that are on the target only.
    pub extra: u64,
    /// Rows with the same key and other values.
    pub changed: u64,
    /// Ranges that differ and were not looked into: each holds at least one more difference.
    pub not_narrowed: u64,
    /// The keys of the first of them.
    pub keys: Vec<KeyDifference>,
}

impl RowDifferences {
    /// How many rows are known to differ.
    pub fn known(&self) -> u64 {
        self.missing + self.extra + self.changed
    }
}

/// Ranges of keys, by hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ranges {
    /// How many there are.
    pub all: u64,
    /// How many differ.
    pub different: u64,
}

/// A row that differs, by its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyDifference {
    /// The columns of the key with their values, as text.
    #[serde(serialize_with = "as_object")]
    pub key: Vec<(Box<str>, Box<str>)>,
    /// How it differs.
    pub kind: Kind,
}

/// How a row differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is missing on the target.
    Missing,
    /// It is on the target only.
    Extra,
    /// Its values differ, or how often it is there.
    Changed,
}

fn as_object<S: Serializer>(key: &[(Box<str>, Box<str>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(key.iter().map(|(column, value)| (column, value)))
}

impl fmt::Display for KeyDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (column, value)) in self.key.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{column} = {value}")?;
        }
        Ok(())
    }
}

impl Report {
    /// What it is to a gate, begun under the fence that was set at `under`. What was accepted as not replicated is left out.
    pub fn evidence(&self, under: Option<Instant>) -> DataEvidence {
        let mut evidence = DataEvidence { under, ..DataEvidence::default() };
        for table in &self.tables {
            let told = (table.table.clone(), table.told());
            match table.state {
                State::Equal => evidence.equal += 1,
                State::Different => evidence.different.push(told),
                State::Sampled | State::Unknown => evidence.unseen.push(told),
                State::Skipped => {}
            }
        }
        evidence
    }
}

impl TableReport {
    /// How it stands, in a line; without keys, which are data.
    fn told(&self) -> String {
        let mut told = self.reason.clone().unwrap_or_default();
        if let Some(sample) = self.sample {
            told = format!("{} rows were looked at {told}", sample.rows).trim_end().to_owned();
        }
        told
    }

    /// A table of which nothing was looked at.
    pub(super) fn unseen(table: TableName, state: State, reason: impl Into<String>) -> TableReport {
        TableReport { reason: Some(reason.into()), ..TableReport::new(table, state) }
    }

    pub(super) fn new(table: TableName, state: State) -> TableReport {
        TableReport {
            table,
            state,
            reason: None,
            source_rows: None,
            target_rows: None,
            sample: None,
            columns: Vec::new(),
            rows: None,
            settled: 0,
            notes: Vec::new(),
        }
    }
}

impl Outcome {
    /// What the states of tables come to. Of no table nothing can be said.
    pub(super) fn of(tables: &[TableReport]) -> Outcome {
        let has = |state| tables.iter().any(|table| table.state == state);
        if has(State::Different) {
            Outcome::Different
        } else if has(State::Unknown) || has(State::Sampled) || !has(State::Equal) {
            Outcome::Incomplete
        } else {
            Outcome::Equal
        }
    }
}
