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
    }

    /// Takes an acknowledgement: a commit is pending while its `commit_lsn` is above it. Where the commit before it ended
    /// there, or a keepalive said so, also while it is equal: a consumer that acknowledges the ends of commits (PostgreSQL's
    /// own) then means those, and the server would send this one again. One that acknowledges `commit_lsn` passes it with
    /// its answer to the next keepalive. 0/0 gives no position, and none takes back an earlier one. `acked` is called with the time from sending to now and the number
    /// of commits for each span that it covers; in a merged one the first commit's time stands for all.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERYTHING: Lsn = Lsn(u64::MAX);

    /// A commit that the test owns.
    #[derive(Clone)]
    struct Commit(u64, i64, Vec<(Oid, Volume)>);

    impl Commit {
        fn published(&self) -> PublishedCommit<'_> {
            let (commit_lsn, end_lsn) = (Lsn(self.0), Lsn(self.0 + 8));
            PublishedCommit { commit_lsn, end_lsn, commit_ts: PgTimestamp(self.1), foreign: false, tables: &self.2 }
        }
    }

    fn commit(lsn: u64, ts: i64, tables: &[(u32, u64)]) -> Commit {
        let tables = tables.iter().map(|&(oid, rows)| (Oid(oid), Volume { rows, bytes: rows * 10 }));
        Commit(lsn, ts, tables.collect())
    }

    #[test]
    fn an_ack_of_the_commit_or_of_its_end_clears_it() {
        for ack in [100, 108] {
            let mut timeline = Timeline::new(Timeline::LIMIT);
            timeline.commit(commit(100, 1, &[(1, 2)]).published(), Instant::now());
            timeline.commit(commit(200, 2, &[(1, 3)]).published(), Instant::now());
            let mut count = 0;
            timeline.ack(Lsn(ack), Instant::now(), |_, commits| count += commits);
            let pending = timeline.pending(EVERYTHING);
            let left = Figures { transactions: 1, volume: Volume { rows: 3, bytes: 30 } };
            assert_eq!((count, pending.least, pending.most), (1, left, left));
            assert_eq!((pending.oldest, pending.oldest_possible), (Some(PgTimestamp(2)), Some(PgTimestamp(2))));
        }
    }

    #[test]
    fn an_ack_of_what_ended_where_a_commit_begins_leaves_it() {
        let mut timeline = Timeline::new(Timeline::LIMIT);
        timeline.commit(commit(100, 1, &[(1, 2)]).published(), Instant::now());
        timeline.commit(commit(108, 2, &[(1, 3)]).published(), Instant::now());
        timeline.ack(Lsn(108), Instant::now(), |_, _| {});
        let pending = timeline.pending(EVERYTHING);
        assert_eq!((pending.least.transactions, pending.most.volume.rows), (1, 3));
        assert_eq!((pending.oldest, pending.oldest_possible), (Some(PgTimestamp(2)), Some(PgTimestamp(2))));
        // Of a keepalive, before the commit is there and after it.
        timeline.reach(Lsn(200));
        timeline.ack(Lsn(200), Instant::now(), |_, _| {});
        assert_eq!(timeline.pending(EVERYTHING), Pending::default());
        timeline.commit(commit(200, 3, &[(1, 4)]).published(), Instant::now());
        assert_eq!(timeline.pending(EVERYTHING).least.volume.rows, 4);
        timeline.reach(Lsn(300));
        timeline.commit(commit(300, 4, &[(1, 5)]).published(), Instant::now());
        timeline.ack(Lsn(300), Instant::now(), |_, _| {});
        assert_eq!(
            (timeline.pending(EVERYTHING).least.volume.rows, timeline.pending(EVERYTHING).is_exact()),
            (5, true)
        );
    }

    #[test]
    fn no_position_and_an_earlier_one_change_nothing() {
        let mut timeline = Timeline::new(Timeline::LIMIT);
        timeline.ack(Lsn(150), Instant::now(), |_, _| {});
        timeline.commit(commit(200, 1, &[(1, 1)]).published(), Instant::now());
        for ack in [Lsn::INVALID, Lsn(100)] {
            timeline.ack(ack, Instant::now(), |_, _| panic!("nothing is acked"));
            assert_eq!((timeline.acked(), timeline.pending(EVERYTHING).least.transactions), (Some(Lsn(150)), 1));
        }
    }

    #[test]
    fn what_a_reconnect_repeats_counts_once() {
        let mut timeline = Timeline::new(Timeline::LIMIT);
        for _ in 0..3 {
            for lsn in [100, 200, 300] {
                timeline.commit(commit(lsn, 1, &[(7, 1)]).published(), Instant::now());
            }
            timeline.ack(Lsn(100), Instant::now(), |_, _| {});
        }
        let pending = timeline.pending(EVERYTHING).least;
        assert_eq!((pending.transactions, pending.volume.rows), (2, 2));
    }

    #[test]
    fn what_was_sent_after_a_look_is_left_out_of_it() {
        let mut timeline = Timeline::new(Timeline::LIMIT);
        for (lsn, ts) in [(100, 1), (200, 2), (300, 3)] {
            timeline.commit(commit(lsn, ts, &[(1, 1)]).published(), Instant::now());
        }
        timeline.ack(Lsn(100), Instant::now(), |_, _| {});
        let pending = timeline.pending(Lsn(250));
        assert!(pending.is_exact());
        assert_eq!((pending.least.transactions, pending.oldest), (1, Some(PgTimestamp(2))));
        assert_eq!(timeline.pending(Lsn(150)), Pending::default());
    }

    #[test]
    fn one_commit_that_hides_the_rest_is_noticed() {
        let mut timeline = Timeline::new(Timeline::LIMIT);
        timeline.commit(commit(100, 1, &[(1, 1000)]).published(), Instant::now());
        timeline.commit(commit(200, 2, &[(1, 10)]).published(), Instant::now());
        assert!(timeline.is_mostly_one());
        timeline.ack(Lsn(100), Instant::now(), |_, _| {});
        timeline.commit(commit(300, 2, &[(1, 10)]).published(), Instant::now());
        assert!(!timeline.is_mostly_one());
    }

    #[test]
    fn memory_is_bounded_by_commits_and_by_changes() {
        let mut timeline = Timeline::new(64);
        for lsn in 1..100_000 {
            timeline.commit(commit(lsn, 1, &[(1, 1), (2, 1), (3, 1)]).published(), Instant::now());
            assert!(timeline.spans.len() <= 64 && timeline.changes.len() <= 64 && timeline.oldest.len() <= 64);
        }
        assert_eq!(timeline.pending(EVERYTHING).least.transactions, 99_999);
        // Tables that no two commits share cannot be summed up.
        let mut timeline = Timeline::new(64);
        for lsn in 1..1000 {
            timeline.commit(commit(lsn, 1, &[(lsn as u32, 1)]).published(), Instant::now());
        }
        assert_eq!((timeline.pending(EVERYTHING).least.transactions, timeline.tables().count()), (999, 999));
        timeline.ack(Lsn(1000), Instant::now(), |_, _| {});
        assert_eq!((timeline.pending(EVERYTHING), timeline.tables().count()), (Pending::default(), 0));
    }

    proptest! {
        /// Against a plain list that is summed up anew each time: sums never drift, with memory capped the bounds
        /// hold the exact value, and without they are it.
        #[test]
        fn bounds_hold_under_any_order_of_commits_acks_and_reconnects(
            limit in prop_oneof![Just(Timeline::LIMIT), 2usize..20],
            steps in prop::collection::vec(
                (any::<bool>(), 0u64..60, 0i64..100, prop::collection::vec((0u32..4, 0u64..5), 0..4)), 0..200,
            ),
            look in 0u64..80,
        ) {
            let mut timeline = Timeline::new(limit);
            let mut model: BTreeMap<u64, (Commit, bool)> = BTreeMap::new();
            let (mut acked, mut reached, mut newest, mut added_bytes, mut latencies) = (0, 0, 0, 0, 0);
            for (is_commit, lsn, ts, tables) in steps {
                let tables: Vec<(u32, u64)> = BTreeMap::from_iter(tables).into_iter().collect();
                if is_commit {
                    // Mostly forward, sometimes a repetition.
                    let lsn = newest + lsn.saturating_sub(20) + 1;
                    let lsn = if ts % 7 == 0 { lsn.saturating_sub(30) } else { lsn };
                    let commit = commit(lsn, ts, &tables);
                    timeline.commit(commit.published(), Instant::now());
                    let adjoins = lsn == reached || lsn == acked;
                    reached = reached.max(lsn + 8);
                    if lsn >= acked && lsn > newest {
                        newest = lsn;
                        added_bytes += commit.2.iter().map(|(_, volume)| volume.bytes).sum::<u64>();
                        model.insert(lsn, (commit, adjoins));
                    }
                } else {
                    let ack = acked + lsn;
                    timeline.ack(Lsn(ack), Instant::now(), |_, commits| latencies += u64::from(commits));
                    acked = acked.max(ack);
                    model.retain(|lsn, (_, adjoins)| *lsn > ack || (*lsn == ack && *adjoins));
                }
                for until in [u64::MAX, newest.saturating_sub(look)] {
                    let of = |commits: &mut dyn Iterator<Item = &Commit>| {
                        let mut figures = Figures::default();
                        for commit in commits {
                            figures.transactions += 1;
                            figures.volume += commit.2.iter().map(|(_, volume)| *volume).sum();
                        }
                        figures
                    };
                    let exact = of(&mut model.range(..=until).map(|(_, (commit, _))| commit));
                    let oldest = model.range(..=until).map(|(_, (commit, _))| PgTimestamp(commit.1)).min();
                    let pending = timeline.pending(Lsn(until));
                    let in_bounds = |least: u64, exact: u64, most: u64| least <= exact && exact <= most;
                    let (least, most) = (pending.least, pending.most);
                    prop_assert!(in_bounds(least.transactions, exact.transactions, most.transactions));
                    prop_assert!(in_bounds(least.volume.rows, exact.volume.rows, most.volume.rows));
                    prop_assert!(in_bounds(least.volume.bytes, exact.volume.bytes, most.volume.bytes));
                    // An older one behind the look may stand for it: ages are never too low.
                    prop_assert!(pending.oldest_possible.is_some() || oldest.is_none());
                    prop_assert!(pending.oldest_possible <= oldest || oldest.is_none());
                    prop_assert!(exact.transactions == 0 || until != u64::MAX || pending.oldest >= oldest);
                    if limit == Timeline::LIMIT {
                        prop_assert_eq!((least, most), (exact, exact));
                        prop_assert!(until != u64::MAX || pending.oldest == oldest && pending.is_exact());
                    }
                }
                let mut per_table: BTreeMap<Oid, TablePending> = BTreeMap::new();
                for (relation, volume) in model.values().flat_map(|(commit, _)| commit.2.iter().copied()) {
                    let table = per_table.entry(relation).or_default();
                    table.transactions += 1;
                    table.volume += volume;
                }
                let shown = BTreeMap::from_iter(timeline.tables());
                for (relation, exact) in &per_table {
                    prop_assert!(shown.get(relation).is_some_and(|most| most.transactions >= exact.transactions));
                }
                if limit == Timeline::LIMIT {
                    prop_assert_eq!(shown, per_table);
                    prop_assert_eq!(timeline.added_bytes(), added_bytes);
                    let pending = timeline.pending(EVERYTHING).most.volume.bytes;
                    prop_assert_eq!(timeline.added_bytes() - timeline.acked_bytes(), pending);
                }
            }
            timeline.ack(EVERYTHING, Instant::now(), |_, commits| latencies += u64::from(commits));
            prop_assert_eq!(timeline.pending(EVERYTHING), Pending::default());
            prop_assert_eq!(timeline.added_bytes(), timeline.acked_bytes());
        }
    }
}
