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
    assert_eq!((timeline.pending(EVERYTHING).least.volume.rows, timeline.pending(EVERYTHING).is_exact()), (5, true));
}

#[test]
fn an_ack_of_a_keepalive_leaves_the_commit_that_begins_there_also_after_a_reconnect() {
    let mut timeline = Timeline::new(Timeline::LIMIT);
    timeline.commit(commit(200, 1, &[(1, 2)]).published(), Instant::now());
    // The next stream begins, and says where it is before it repeats the commit.
    timeline.reach(Lsn(200));
    timeline.ack(Lsn(200), Instant::now(), |_, _| {});
    timeline.commit(commit(200, 1, &[(1, 2)]).published(), Instant::now());
    assert_eq!(timeline.pending(EVERYTHING).least.volume.rows, 2);
    timeline.ack(Lsn(208), Instant::now(), |_, _| {});
    assert_eq!(timeline.pending(EVERYTHING), Pending::default());
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
                if let Some((_, adjoins)) = model.get_mut(&(lsn + 8)) {
                    *adjoins = true;
                }
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
