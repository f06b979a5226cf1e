//! From messages to commits: adds up what each transaction changes until it is committed, prepared or
//! rolled back.

use std::collections::{BTreeMap, HashMap};

use crate::ident::{Oid, Xid};
use crate::lsn::Lsn;
use crate::pgoutput::{Begin, Head, Prepare};
use crate::time::PgTimestamp;

use super::Volume;

/// A transaction as the output plugin published it, once the consumer could acknowledge it. Of a two-phase
/// transaction its Prepare is one, with the rows, and its Commit Prepared another, without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedCommit<'a> {
    /// Where the commit (or prepare) record starts.
    pub commit_lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// When it was written, by the clock of the server where it was first committed.
    pub commit_ts: PgTimestamp,
    /// That was another server than the one it is sent from, whose clock may differ. Also set where `tables` may hold
    /// rows of sub-transactions that were rolled back (see [`Transactions::PARTS`]): the commit is not exact.
    pub foreign: bool,
    /// What it changes, each table once.
    pub tables: &'a [(Oid, Volume)],
}

/// What the transaction that is being sent, or was finished last, has changed.
#[derive(Clone, Debug, Default)]
struct Changes {
    /// It carries anything at all: a row, a Truncate or a transactional message.
    published: bool,
    tables: Vec<(Oid, Volume)>,
    /// Where each table is in `tables`, once they are many.
    places: HashMap<Oid, usize>,
}

/// Tables that are found by going through them.
const FEW: usize = 16;

impl Changes {
    fn row(&mut self, relation: Oid, bytes: u64) {
        self.published = true;
        self.add(relation, Volume { rows: 1, bytes });
    }

    fn add(&mut self, relation: Oid, volume: Volume) {
        // Backwards: a row mostly goes where the one before it went.
        if let Some((_, sum)) = self.tables.iter_mut().rev().take(FEW).find(|(table, _)| *table == relation) {
            *sum += volume;
        } else if let Some((_, sum)) = self.places.get(&relation).and_then(|place| self.tables.get_mut(*place)) {
            *sum += volume;
        } else {
            self.tables.push((relation, volume));
            if self.tables.len() > FEW {
                let known = self.places.len();
                let new = self.tables.iter().enumerate().skip(known).map(|(place, (table, _))| (*table, place));
                self.places.extend(new);
            }
        }
    }

    fn clear(&mut self) {
        self.published = false;
        self.tables.clear();
        self.places.clear();
    }
}

/// A transaction that is streamed while in progress.
#[derive(Clone, Debug, Default)]
struct Streamed {
    /// What each (sub-)transaction changes in each table; without rows where it carries only a Truncate or a
    /// transactional message. One flat map, as there may be hundreds of thousands of sub-transactions of a row each:
    /// it takes some 50 bytes for each, a map of maps several times that.
    changes: BTreeMap<(Xid, Oid), Volume>,
    /// How many of `changes` are of sub-transactions.
    parts: usize,
    /// Bytes of all `changes`.
    bytes: u64,
    /// The newest sub-transaction whose changes were added to the top-level transaction's, as its distance from that
    /// one: a sub-transaction's xid is always the later one, though it may have wrapped around.
    folded: Option<u32>,
    /// It may count rows of sub-transactions that were rolled back.
    inexact: bool,
    /// It was replicated from elsewhere.
    foreign: bool,
}

impl Streamed {
    /// Adds changes of a (sub-)transaction; `true` where that takes memory for one part more.
    fn add(&mut self, top: Xid, xid: Xid, relation: Oid, volume: Volume) -> bool {
        let before = self.changes.len();
        *self.changes.entry((xid, relation)).or_default() += volume;
        self.bytes += volume.bytes;
        let grown = xid != top && self.changes.len() > before;
        self.parts += usize::from(grown);
        grown
    }

    /// Takes out what a sub-transaction that was rolled back has changed. Each is named on its own: those within it
    /// have messages of their own.
    fn abort(&mut self, top: Xid, subxid: Xid) {
        let of_it = (subxid, Oid(0))..=(subxid, Oid(u32::MAX));
        while let Some((&key, _)) = self.changes.range(of_it.clone()).next() {
            self.bytes -= self.changes.remove(&key).unwrap_or_default().bytes;
            self.parts -= 1;
        }
        self.inexact |= self.folded.is_some_and(|newest| distance(top, subxid) <= newest);
    }

    /// Adds the changes of all sub-transactions to the top-level transaction's.
    fn fold(&mut self, top: Xid) {
        let newest = self.changes.keys().map(|(xid, _)| distance(top, *xid)).max();
        self.folded = self.folded.max(newest);
        for ((_, relation), volume) in std::mem::take(&mut self.changes) {
            *self.changes.entry((top, relation)).or_default() += volume;
        }
        self.parts = 0;
    }
}

/// How much later than the top-level transaction's a sub-transaction's xid is.
fn distance(top: Xid, xid: Xid) -> u32 {
    xid.0.wrapping_sub(top.0)
}

/// The transactions under way on one stream.
#[derive(Clone, Debug, Default)]
pub struct Transactions {
    /// The one between Begin and Commit, or Begin Prepare and Prepare; then the last that was finished, whose
    /// memory the next one takes over.
    current: Changes,
    /// When it was committed, while it is being sent.
    begun: Option<PgTimestamp>,
    /// Those streamed while in progress, by top-level transaction.
    streamed: HashMap<Xid, Streamed>,
    /// The top-level transaction of the chunk that is being streamed.
    chunk: Option<Xid>,
    /// The current transaction was replicated from elsewhere, or is not exact.
    foreign: bool,
}

impl Transactions {
    /// How many parts (what one sub-transaction changes in one table) are kept apart, over all transactions: some
    /// 13 MB. Past that, those of the largest transaction become one; if a sub-transaction among them is then rolled
    /// back, its rows cannot be taken out any more, and the commit is marked as not exact.
    pub const PARTS: usize = 1 << 18;

    /// Takes an Insert, Update or Delete, of `len` bytes from its tag to its end.
    #[inline]
    pub fn row(&mut self, xid: Option<Xid>, relation: Oid, len: u64) {
        match (self.chunk, xid) {
            (Some(top), Some(xid)) => self.streamed(top, xid, relation, Volume { rows: 1, bytes: len }),
            _ => self.current.row(relation, len),
        }
    }

    /// Takes any other message. Returns the commit that it completes, unless nothing was published in it.
    pub fn steer(&mut self, head: &Head<'_>) -> Option<PublishedCommit<'_>> {
        match *head {
            Head::Begin(Begin { commit_ts, .. }) | Head::BeginPrepare(Prepare { prepare_ts: commit_ts, .. }) => {
                self.current.clear();
                self.foreign = false;
                self.begun = Some(commit_ts);
                None
            }
            Head::Origin(_) => {
                match self.chunk {
                    Some(top) => self.streamed.entry(top).or_default().foreign = true,
                    None => self.foreign = true,
                }
                None
            }
            Head::Truncate { xid } | Head::Message { xid, transactional: true, .. } => {
                match (self.chunk, xid) {
                    (Some(top), Some(xid)) => self.streamed(top, xid, Oid(0), Volume::default()),
                    _ => self.current.published = true,
                }
                None
            }
            Head::Commit(commit) => self.finish(commit.commit_lsn, commit.end_lsn, commit.commit_ts),
            Head::Prepare(prepare) => self.finish(prepare.prepare_lsn, prepare.end_lsn, prepare.prepare_ts),
            Head::CommitPrepared(commit) => Some(PublishedCommit {
                commit_lsn: commit.commit_lsn,
                end_lsn: commit.end_lsn,
                commit_ts: commit.commit_ts,
                foreign: false,
                tables: &[],
            }),
            Head::StreamStart(start) => {
                self.chunk = Some(start.xid);
                self.streamed.entry(start.xid).or_default();
                None
            }
            Head::StreamStop => {
                self.chunk = None;
                None
            }
            Head::StreamCommit(commit) => {
                self.take_streamed(commit.xid);
                self.finish(commit.commit_lsn, commit.end_lsn, commit.commit_ts)
            }
            Head::StreamPrepare(prepare) => {
                self.take_streamed(prepare.xid);
                self.finish(prepare.prepare_lsn, prepare.end_lsn, prepare.prepare_ts)
            }
            Head::StreamAbort(abort) => {
                if abort.xid == abort.subxid {
                    self.streamed.remove(&abort.xid);
                } else if let Some(streamed) = self.streamed.get_mut(&abort.xid) {
                    streamed.abort(abort.xid, abort.subxid);
                }
                None
            }
            _ => None,
        }
    }

    /// Whether the stream is inside a chunk, so that messages carry an xid.
    pub fn in_stream(&self) -> bool {
        self.chunk.is_some()
    }

    /// The stream is between transactions and between chunks: what has been sent ends with a commit.
    pub fn at_commit_boundary(&self) -> bool {
        self.begun.is_none() && self.chunk.is_none()
    }

    /// When the transaction that is being sent was committed: it may be behind, though its rows are not complete.
    pub fn begun(&self) -> Option<PgTimestamp> {
        self.begun
    }

    /// The same, where it certainly changes something: PostgreSQL 14 sends a Begin also of those that turn out to hold
    /// nothing that is published. Not where another server's clock has dated it.
    pub fn begun_with_changes(&self) -> Option<PgTimestamp> {
        self.begun.filter(|_| self.current.published && !self.foreign)
    }

    /// How many transactions have been streamed while in progress and are not finished, and the bytes of
    /// their rows.
    pub fn open(&self) -> (u64, u64) {
        let bytes = self.streamed.values().map(|streamed| streamed.bytes).sum();
        (self.streamed.len() as u64, bytes)
    }

    fn streamed(&mut self, top: Xid, xid: Xid, relation: Oid, volume: Volume) {
        let grown = self.streamed.entry(top).or_default().add(top, xid, relation, volume);
        if grown
            && self.streamed.values().map(|streamed| streamed.parts).sum::<usize>() > Self::PARTS
            && let Some((top, largest)) = self.streamed.iter_mut().max_by_key(|(_, streamed)| streamed.parts)
        {
            largest.fold(*top);
        }
    }

    /// Makes a streamed transaction the one to be finished. It ends outside of any other.
    fn take_streamed(&mut self, xid: Xid) {
        let streamed = self.streamed.remove(&xid).unwrap_or_default();
        self.current.clear();
        self.foreign = streamed.foreign || streamed.inexact;
        self.current.published = !streamed.changes.is_empty();
        for ((_, relation), volume) in streamed.changes {
            if volume.rows > 0 {
                self.current.add(relation, volume);
            }
        }
    }

    fn finish(&mut self, commit_lsn: Lsn, end_lsn: Lsn, commit_ts: PgTimestamp) -> Option<PublishedCommit<'_>> {
        self.begun = None;
        let (foreign, tables) = (self.foreign, &self.current.tables);
        self.current.published.then_some(PublishedCommit { commit_lsn, end_lsn, commit_ts, foreign, tables })
    }
}

#[cfg(test)]
mod tests;
