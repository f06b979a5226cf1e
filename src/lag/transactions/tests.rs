use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::pgoutput::{Commit, CommitPrepared, Origin, StreamAbort, StreamCommit, StreamStart};

const TS: PgTimestamp = PgTimestamp(7);

fn begin() -> Head<'static> {
    Head::Begin(Begin { final_lsn: Lsn(100), commit_ts: TS, xid: Xid(1) })
}

fn commit() -> Head<'static> {
    Head::Commit(Commit { commit_lsn: Lsn(100), end_lsn: Lsn(108), commit_ts: TS })
}

fn insert(xid: Option<u32>, table: u32) -> Head<'static> {
    Head::Insert { xid: xid.map(Xid), relation: Oid(table) }
}

fn start(xid: u32) -> Head<'static> {
    Head::StreamStart(StreamStart { xid: Xid(xid), first: true })
}

fn abort(xid: u32, subxid: u32) -> Head<'static> {
    Head::StreamAbort(StreamAbort { xid: Xid(xid), subxid: Xid(subxid), abort: None })
}

fn stream_commit(xid: u32) -> Head<'static> {
    Head::StreamCommit(StreamCommit { xid: Xid(xid), commit_lsn: Lsn(100), end_lsn: Lsn(108), commit_ts: TS })
}

/// Feeds messages of 10 bytes each; for each commit that they complete, table, rows and bytes.
fn feed(transactions: &mut Transactions, messages: &[Head<'static>]) -> Vec<Vec<(u32, u64, u64)>> {
    let mut commits = Vec::new();
    for head in messages {
        if let Head::Insert { xid, relation } | Head::Update { xid, relation } = *head {
            transactions.row(xid, relation, 10);
        } else if let Some(commit) = transactions.steer(head) {
            let rows = commit.tables.iter().map(|(table, sum)| (table.0, sum.rows, sum.bytes));
            commits.push(rows.collect::<BTreeSet<_>>().into_iter().collect());
        }
    }
    commits
}

#[test]
fn a_commit_has_its_rows_and_bytes_by_table() {
    let mut transactions = Transactions::default();
    let update = Head::Update { xid: None, relation: Oid(2) };
    let commits = feed(&mut transactions, &[begin(), insert(None, 1), update, insert(None, 1), commit()]);
    assert_eq!(commits, [vec![(1, 2, 20), (2, 1, 10)]]);
    assert!(transactions.at_commit_boundary());
}

#[test]
fn a_transaction_without_published_change_is_not_a_commit() {
    let mut transactions = Transactions::default();
    assert!(feed(&mut transactions, &[begin(), commit()]).is_empty());
    let message = |transactional| Head::Message { xid: None, transactional, lsn: Lsn(1), prefix: b"p" };
    assert!(feed(&mut transactions, &[message(false), begin(), commit()]).is_empty());
    assert_eq!(feed(&mut transactions, &[begin(), message(true), commit()]).len(), 1);
    assert_eq!(feed(&mut transactions, &[begin(), Head::Truncate { xid: None }, commit()]).len(), 1);
}

#[test]
fn what_an_aborted_sub_transaction_streamed_is_taken_out_again() {
    let mut transactions = Transactions::default();
    let streamed = [start(5), insert(Some(5), 1), insert(Some(6), 1), insert(Some(7), 2), Head::StreamStop];
    assert!(feed(&mut transactions, &streamed).is_empty());
    assert_eq!(transactions.open(), (1, 30));
    let commits = feed(&mut transactions, &[abort(5, 6), stream_commit(5)]);
    assert_eq!(commits, [vec![(1, 1, 10), (2, 1, 10)]]);
    assert_eq!(transactions.open(), (0, 0));
}

#[test]
fn an_aborted_streamed_transaction_leaves_nothing() {
    let mut transactions = Transactions::default();
    let streamed = [start(5), insert(Some(5), 1), insert(Some(6), 1), Head::StreamStop];
    feed(&mut transactions, &streamed);
    assert!(feed(&mut transactions, &[abort(5, 5)]).is_empty());
    assert_eq!(transactions.open(), (0, 0));
}

#[test]
fn chunks_of_two_transactions_and_a_small_one_between_them_keep_apart() {
    let mut transactions = Transactions::default();
    let messages = [
        start(5),
        insert(Some(5), 1),
        Head::StreamStop,
        begin(),
        insert(None, 1),
        commit(),
        start(8),
        insert(Some(8), 3),
        Head::StreamStop,
        start(5),
        insert(Some(5), 1),
        Head::StreamStop,
        stream_commit(8),
        stream_commit(5),
    ];
    let commits = feed(&mut transactions, &messages);
    assert_eq!(commits, [vec![(1, 1, 10)], vec![(3, 1, 10)], vec![(1, 2, 20)]]);
}

#[test]
fn a_prepare_counts_with_rows_and_its_commit_without() {
    let mut transactions = Transactions::default();
    let prepare = Prepare { prepare_lsn: Lsn(50), end_lsn: Lsn(60), prepare_ts: TS, xid: Xid(1), gid: b"g" };
    let messages = [Head::BeginPrepare(prepare), insert(None, 1), Head::Prepare(prepare)];
    assert_eq!(feed(&mut transactions, &messages), [vec![(1, 1, 10)]]);
    let commit = CommitPrepared { commit_lsn: Lsn(70), end_lsn: Lsn(80), commit_ts: TS, xid: Xid(1), gid: b"g" };
    assert_eq!(feed(&mut transactions, &[Head::CommitPrepared(commit)]), [vec![]]);
}

#[test]
fn a_transaction_over_many_tables_is_summed_up_by_table() {
    let mut transactions = Transactions::default();
    let rows = (0..3000).map(|row| insert(None, row % 1000));
    let messages: Vec<_> = [begin()].into_iter().chain(rows).chain([commit()]).collect();
    let commits = feed(&mut transactions, &messages);
    assert_eq!(commits, [(0..1000).map(|table| (table, 3, 30)).collect::<Vec<_>>()]);
    assert_eq!(feed(&mut transactions, &[begin(), insert(None, 7), commit()]), [vec![(7, 1, 10)]]);
}

#[test]
fn what_was_replicated_from_elsewhere_is_marked() {
    let mut transactions = Transactions::default();
    let origin = || Head::Origin(Origin { commit_lsn: Lsn(9), name: b"elsewhere" });
    let mut foreign = |messages: &[Head<'static>]| {
        let commits = messages.iter().filter_map(|head| match *head {
            Head::Insert { xid, relation } => {
                transactions.row(xid, relation, 10);
                None
            }
            ref head => transactions.steer(head).map(|commit| commit.foreign),
        });
        commits.collect::<Vec<_>>()
    };
    assert_eq!(foreign(&[begin(), origin(), insert(None, 1), commit()]), [true]);
    assert_eq!(foreign(&[begin(), insert(None, 1), commit()]), [false]);
    let streamed = [start(5), origin(), insert(Some(5), 1), Head::StreamStop];
    assert!(foreign(&streamed).is_empty());
    assert_eq!(foreign(&[begin(), insert(None, 1), commit(), stream_commit(5)]), [false, true]);
}

#[test]
fn a_boundary_is_outside_of_transactions_and_chunks() {
    let mut transactions = Transactions::default();
    for (message, boundary) in [
        (begin(), false),
        (insert(None, 1), false),
        (commit(), true),
        (start(5), false),
        (insert(Some(5), 1), false),
        (Head::StreamStop, true),
    ] {
        feed(&mut transactions, &[message]);
        assert_eq!(transactions.at_commit_boundary(), boundary, "{message:?}");
    }
}

/// Streams one transaction with this many sub-transactions of a row each, xids from 6.
fn stream_sub_transactions(transactions: &mut Transactions, count: u32) {
    feed(transactions, &[start(5)]);
    for xid in 6..6 + count {
        transactions.row(Some(Xid(xid)), Oid(1), 10);
        // The limit holds at every moment, whatever is streamed.
        assert!(transactions.streamed.values().all(|streamed| streamed.parts <= Transactions::PARTS));
    }
    feed(transactions, &[Head::StreamStop]);
}

fn finished(transactions: &mut Transactions) -> (bool, u64) {
    let commit = transactions.steer(&stream_commit(5)).expect("it has rows");
    (commit.foreign, commit.tables.iter().map(|(_, volume)| volume.rows).sum())
}

#[test]
fn very_many_sub_transactions_take_bounded_memory_and_lose_no_row() {
    let mut transactions = Transactions::default();
    stream_sub_transactions(&mut transactions, 400_000);
    let kept: usize = transactions.streamed.values().map(|streamed| streamed.changes.len()).sum();
    // A full leaf is some 11/6 of what is in it, after insertion in order.
    assert!(kept * size_of::<((Xid, Oid), Volume)>() * 11 / 6 < 20_000_000, "{kept}");
    assert_eq!(transactions.open(), (1, 4_000_000));
    assert_eq!(finished(&mut transactions), (false, 400_000));
}

#[test]
fn a_rollback_among_very_many_sub_transactions_is_exact_or_marked() {
    let mut transactions = Transactions::default();
    stream_sub_transactions(&mut transactions, 400_000);
    feed(&mut transactions, &[abort(5, 400_000)]);
    assert_eq!(finished(&mut transactions), (false, 399_999));
    stream_sub_transactions(&mut transactions, 400_000);
    feed(&mut transactions, &[abort(5, 6)]);
    assert_eq!(finished(&mut transactions), (true, 400_000));
    assert!(transactions.streamed.is_empty());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Rows of one (sub-)transaction in one table; none is a Truncate.
    Chunk {
        top: u32,
        sub: u32,
        table: u32,
        rows: u64,
    },
    Abort {
        top: u32,
        sub: u32,
    },
    Finish {
        top: u32,
        prepare: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // Near the end of the range of xids, so that some wrap around.
    let top = || (0..3u32).prop_map(|n| (u32::MAX - 15).wrapping_add(n * 10));
    prop_oneof![
        6 => (top(), 0..6u32, 1..4u32, 0..4u64).prop_map(|(top, sub, table, rows)| {
            Step::Chunk { top, sub: top.wrapping_add(sub), table, rows }
        }),
        3 => (top(), 0..6u32).prop_map(|(top, sub)| Step::Abort { top, sub: top.wrapping_add(sub) }),
        1 => (top(), any::<bool>()).prop_map(|(top, prepare)| Step::Finish { top, prepare }),
    ]
}

proptest! {
    #[test]
    fn any_stream_adds_up_as_a_map_of_maps_does(steps in prop::collection::vec(step(), 0..80)) {
        type Model = BTreeMap<u32, BTreeMap<u32, BTreeMap<u32, u64>>>;
        let (mut model, mut transactions) = (Model::new(), Transactions::default());
        for step in steps {
            match step {
                Step::Chunk { top, sub, table, rows } => {
                    let part = model.entry(top).or_default().entry(sub).or_default();
                    let mut messages = vec![start(top)];
                    if rows == 0 {
                        messages.push(Head::Truncate { xid: Some(Xid(sub)) });
                    } else {
                        *part.entry(table).or_default() += rows;
                        messages.extend((0..rows).map(|_| insert(Some(sub), table)));
                    }
                    messages.push(Head::StreamStop);
                    prop_assert!(feed(&mut transactions, &messages).is_empty());
                }
                Step::Abort { top, sub } => {
                    if top == sub {
                        model.remove(&top);
                    } else if let Some(parts) = model.get_mut(&top) {
                        parts.remove(&sub);
                    }
                    prop_assert!(feed(&mut transactions, &[abort(top, sub)]).is_empty());
                }
                Step::Finish { top, prepare } => {
                    let parts = model.remove(&top).unwrap_or_default();
                    let mut sums = BTreeMap::<u32, u64>::new();
                    for (table, rows) in parts.values().flatten() {
                        *sums.entry(*table).or_default() += rows;
                    }
                    let sums = sums.into_iter().map(|(table, rows)| (table, rows, rows * 10)).collect::<Vec<_>>();
                    let expected = (!parts.is_empty()).then_some(sums);
                    let ended = Prepare {
                        prepare_lsn: Lsn(50), end_lsn: Lsn(60), prepare_ts: TS, xid: Xid(top), gid: b"g",
                    };
                    let end = if prepare { Head::StreamPrepare(ended) } else { stream_commit(top) };
                    prop_assert_eq!(feed(&mut transactions, &[end]), Vec::from_iter(expected));
                }
            }
            let rows = model.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values).sum::<u64>();
            prop_assert_eq!(transactions.open(), (model.len() as u64, rows * 10));
            for streamed in transactions.streamed.iter() {
                let parts = streamed.1.changes.keys().filter(|(xid, _)| xid != streamed.0).count();
                prop_assert_eq!(streamed.1.parts, parts);
            }
        }
    }
}
