//! The commits that a consumer has been sent and has not acknowledged, in bounded memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::SubAssign;
use std::time::{Duration, Instant};

use crate::ident::Oid;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;

use super::Volume;
use super::transactions::PublishedCommit;

/// Pending commits in the order of their LSNs, with their sums kept as they come and go.
///
/// At most `limit` commits, and `limit` changes of one table by one commit, are held one by one. Beyond that
/// neighbours merge into spans, which halves what is held: sums stay exact, and of a span that is acknowledged in part
/// the ends bound what is left. Spans that are older have been merged more often.
#[derive(Clone, Debug)]
pub struct Timeline {
    limit: usize,
    changes_limit: usize,
    spans: VecDeque<Span>,
    /// What the spans change, one behind the other.
    changes: VecDeque<Change>,
    /// Candidates for the oldest commit timestamp: of the spans those that are older than all behind them, with their
    /// last LSNs. Commit timestamps are not in the order of LSNs.
    oldest: VecDeque<(PgTimestamp, Lsn)>,
    all: Figures,
    /// Sums by table. One that has nothing pending any more mostly stays: it will be back.
    tables: BTreeMap<Oid, TablePending>,
    /// The highest commit ever added; what comes again after a reconnect is not above it.
    newest: Lsn,
    acked: Lsn,
    /// The furthest position that the consumer was told to have everything up to.
    reached: Lsn,
    /// Commits pending whose timestamps are of another server's clock.
    foreign: u64,
    /// Bytes of all commits ever added, and of all ever acknowledged.
    added_bytes: u64,
    acked_bytes: u64,
}

/// Neighbouring commits; mostly one.
#[derive(Clone, Debug)]
struct Span {
    first: Lsn,
    last: Lsn,
    /// When the first was sent.
    sent_at: Instant,
    /// The oldest commit timestamp in it, and the last commit's.
    oldest: PgTimestamp,
    last_ts: PgTimestamp,
    transactions: u32,
    foreign: u32,
    /// How many of `changes` are its own.
    changes: u32,
    /// An acknowledgement of where `last` begins may be of what ended there.
    adjoins: bool,
}

/// What a span changes in one table.
#[derive(Clone, Copy, Debug)]
struct Change {
    relation: Oid,
    transactions: u32,
    volume: Volume,
}

/// What is pending in one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TablePending {
    /// Commits that change the table.
    pub transactions: u64,
    /// Their rows in it.
    pub volume: Volume,
}

/// What is pending in all tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Commits.
    pub transactions: u64,
    /// Their rows.
    pub volume: Volume,
}

/// What is pending: the least and the most that it can be. They differ only where a span was acknowledged in part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// No less is pending.
    pub least: Figures,
    /// No more is pending.
    pub most: Figures,
    /// The oldest commit timestamp that is certainly pending.
    pub oldest: Option<PgTimestamp>,
    /// The oldest that may be.
    pub oldest_possible: Option<PgTimestamp>,
}

impl SubAssign for Figures {
    fn sub_assign(&mut self, other: Figures) {
        self.transactions -= other.transactions;
        self.volume -= other.volume;
    }
}

impl Pending {
    /// Whether the bounds meet.
    pub fn is_exact(&self) -> bool {
        self.least == self.most && self.oldest == self.oldest_possible
    }
}

impl Timeline {
    /// What a timeline holds by default before neighbours merge.
    pub const LIMIT: usize = 65_536;

    /// An empty timeline that holds at most `limit` commits, at least 2, before neighbours merge.
    pub fn new(limit: usize) -> Timeline {
        Timeline {
            limit: limit.max(2),
            changes_limit: limit.max(2),
            spans: VecDeque::new(),
            changes: VecDeque::new(),
            oldest: VecDeque::new(),
            all: Figures::default(),
            tables: BTreeMap::new(),
            newest: Lsn::INVALID,
            acked: Lsn::INVALID,
            reached: Lsn::INVALID,
            foreign: 0,
            added_bytes: 0,
            acked_bytes: 0,
        }
    }

    /// Adds a commit that was sent at `sent_at`. One that was added before, or that the consumer has
    /// acknowledged already, changes nothing: that is what a stream repeats after a reconnect.
    pub fn commit(&mut self, commit: PublishedCommit<'_>, sent_at: Instant) {
        let adjoins = commit.commit_lsn == self.reached || commit.commit_lsn == self.acked;
        self.reach(commit.end_lsn);
        if commit.commit_lsn <= self.newest || commit.commit_lsn < self.acked {
            return;
        }
        if self.spans.len() >= self.limit || self.changes.len() + commit.tables.len() > self.changes_limit {
            self.merge_neighbours();
        }
        self.newest = commit.commit_lsn;
        self.all.transactions += 1;
        for (relation, volume) in commit.tables {
            self.all.volume += *volume;
            self.added_bytes += volume.bytes;
            let table = self.tables.entry(*relation).or_default();
            table.transactions += 1;
            table.volume += *volume;
            self.changes.push_back(Change { relation: *relation, transactions: 1, volume: *volume });
        }
        let foreign = u32::from(commit.foreign);
        self.foreign += u64::from(foreign);
        self.note_oldest(commit.commit_ts, commit.commit_lsn);
        self.spans.push_back(Span {
            first: commit.commit_lsn,
            last: commit.commit_lsn,
            sent_at,
            oldest: commit.commit_ts,
            last_ts: commit.commit_ts,
            transactions: 1,
            foreign,
            changes: commit.tables.len() as u32,
            adjoins,
        });
    }

    /// The server has said that the consumer has everything up to here.
    pub fn reach(&mut self, position: Lsn) {
        self.reached = self.reached.max(position);
        // Of a commit that is repeated after a reconnect this may be said only now.
        if let Ok(span) = self.spans.binary_search_by_key(&position, |span| span.last) {
            self.spans[span].adjoins = true;
        }
    }

    /// Takes an acknowledgement: a commit is pending while its `commit_lsn` is above it. Where the commit before it ended
    /// there, or a keepalive said so, also while it is equal: a consumer that acknowledges the ends of commits (PostgreSQL's
    /// own) then means those, and the server would send this one again. One that acknowledges `commit_lsn` passes it with
    /// its answer to the next keepalive. 0/0 gives no position, and none takes back an earlier one. `acked` is called with the
    /// time from sending to now and the number of commits for each span that it covers; in a merged one the first commit's
    /// time stands for all.
    pub fn ack(&mut self, ack: Lsn, now: Instant, mut acked: impl FnMut(Duration, u32)) {
        if ack <= self.acked {
            return;
        }
        self.acked = ack;
        while let Some(span) = self.spans.pop_front_if(|span| span.last < ack || (span.last == ack && !span.adjoins)) {
            self.all.transactions -= u64::from(span.transactions);
            self.foreign -= u64::from(span.foreign);
            for change in self.changes.drain(..span.changes as usize) {
                self.all.volume -= change.volume;
                self.acked_bytes += change.volume.bytes;
                if let Some(table) = self.tables.get_mut(&change.relation) {
                    table.transactions -= u64::from(change.transactions);
                    table.volume -= change.volume;
                }
            }
            acked(now.saturating_duration_since(span.sent_at), span.transactions);
        }
        let first = self.spans.front().map(|span| span.last);
        while self.oldest.pop_front_if(|(_, last)| first.is_none_or(|first| *last < first)).is_some() {}
        if self.spans.is_empty() && self.spans.capacity() > IDLE_CAPACITY {
            self.shrink();
        }
    }

    /// The highest acknowledged position; `None` before the first.
    pub fn acked(&self) -> Option<Lsn> {
        self.acked.valid()
    }

    /// The furthest commit ever added.
    pub fn newest(&self) -> Lsn {
        self.newest
    }

    /// What is pending of the commits up to `until`.
    pub fn pending(&self, until: Lsn) -> Pending {
        let mut pending = Pending { least: self.all, most: self.all, ..Pending::default() };
        // From the newest on: what lies behind `until` is mostly little.
        let mut changes = self.changes.iter().rev();
        for span in self.spans.iter().rev().take_while(|span| span.last > until) {
            let volume: Volume = changes.by_ref().take(span.changes as usize).map(|change| change.volume).sum();
            let part = Figures { transactions: span.transactions.into(), volume };
            pending.least -= part;
            if span.first > until {
                pending.most -= part;
            }
        }
        let torn = self.spans.front().filter(|span| span.transactions > 1 && span.first <= self.acked);
        if let Some(span) = torn.filter(|span| span.last <= until) {
            // Its last commit is pending, or the span were gone.
            let volume = self.changes.iter().take(span.changes as usize).map(|change| change.volume).sum();
            pending.least -= Figures { transactions: u64::from(span.transactions) - 1, volume };
        }
        if pending.most.transactions > 0 {
            pending.oldest_possible = self.oldest.front().map(|(time, _)| *time);
        }
        if pending.least.transactions > 0 {
            pending.oldest = match torn {
                None => pending.oldest_possible,
                Some(torn) => {
                    let others = self.oldest.iter().find(|(_, last)| *last > torn.last).map(|(time, _)| *time);
                    others.into_iter().chain([torn.last_ts]).min()
                }
            };
        }
        pending
    }

    /// What is pending in each table that has anything pending, at most.
    pub fn tables(&self) -> impl Iterator<Item = (Oid, TablePending)> {
        let tables = self.tables.iter().map(|(relation, pending)| (*relation, *pending));
        tables.filter(|(_, pending)| pending.transactions > 0)
    }

    /// Commits pending whose timestamps are of another server's clock.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Bytes of rows of all commits ever added.
    pub fn added_bytes(&self) -> u64 {
        self.added_bytes
    }

    /// Bytes of rows of all commits ever acknowledged.
    pub fn acked_bytes(&self) -> u64 {
        self.acked_bytes
    }

    /// Whether one commit makes up more than half of the bytes pending. Its acknowledgement comes all at once.
    pub fn is_mostly_one(&self) -> bool {
        let mut changes = self.changes.iter();
        self.spans.iter().any(|span| {
            let bytes: u64 = changes.by_ref().take(span.changes as usize).map(|change| change.volume.bytes).sum();
            span.transactions == 1 && bytes * 2 > self.all.volume.bytes
        })
    }

    fn note_oldest(&mut self, time: PgTimestamp, last: Lsn) {
        while self.oldest.pop_back_if(|(other, _)| *other >= time).is_some() {}
        self.oldest.push_back((time, last));
    }

    /// Merges every two neighbours, in place: both queues turn round once.
    fn merge_neighbours(&mut self) {
        let mut merged: Vec<Change> = Vec::new();
        self.oldest.clear();
        let odd = self.spans.len() % 2;
        for _ in 0..self.spans.len() / 2 {
            let (Some(one), Some(other)) = (self.spans.pop_front(), self.spans.pop_front()) else { break };
            merged.extend(self.changes.drain(..(one.changes + other.changes) as usize));
            merged.sort_unstable_by_key(|change| change.relation);
            merged.dedup_by(|next, kept| {
                let same = next.relation == kept.relation;
                if same {
                    kept.transactions += next.transactions;
                    kept.volume += next.volume;
                }
                same
            });
            let span = Span {
                last: other.last,
                adjoins: other.adjoins,
                oldest: one.oldest.min(other.oldest),
                last_ts: other.last_ts,
                transactions: one.transactions + other.transactions,
                foreign: one.foreign + other.foreign,
                changes: merged.len() as u32,
                ..one
            };
            self.changes.extend(merged.drain(..));
            self.note_oldest(span.oldest, span.last);
            self.spans.push_back(span);
        }
        // Of an odd number the newest is left, and has come round to the front.
        for _ in 0..odd {
            let Some(span) = self.spans.pop_front() else { break };
            self.changes.rotate_left(span.changes as usize);
            self.note_oldest(span.oldest, span.last);
            self.spans.push_back(span);
        }
        // Where the tables of neighbours differ, merging saves little; then not to be tried at every commit.
        self.changes_limit = self.limit.max(self.changes.len() + self.changes.len() / 2);
        self.tables.retain(|_, pending| pending.transactions > 0);
    }

    fn shrink(&mut self) {
        self.changes_limit = self.limit;
        self.spans.shrink_to(IDLE_CAPACITY);
        self.changes.shrink_to(IDLE_CAPACITY);
        self.oldest.shrink_to(IDLE_CAPACITY);
        self.tables.clear();
    }
}

/// What the queues of a timeline with nothing pending keep room for.
const IDLE_CAPACITY: usize = 1024;

#[cfg(test)]
mod tests;
