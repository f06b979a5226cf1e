//! The timeline of pending commits: commits and acknowledgements a second, and memory at its limit.

use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use walgate::ident::Oid;
use walgate::lag::{PublishedCommit, Timeline, Volume};
use walgate::lsn::Lsn;
use walgate::time::PgTimestamp;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Commits of one round.
const COMMITS: u64 = 100_000;

/// What pgbench's transaction changes.
const TABLES: [(Oid, Volume); 4] = [
    (Oid(16384), Volume { rows: 1, bytes: 75 }),
    (Oid(16387), Volume { rows: 1, bytes: 75 }),
    (Oid(16390), Volume { rows: 1, bytes: 75 }),
    (Oid(16393), Volume { rows: 1, bytes: 60 }),
];

fn commit(number: u64, tables: &[(Oid, Volume)]) -> PublishedCommit<'_> {
    let (commit_lsn, end_lsn) = (Lsn(number * 100), Lsn(number * 100 + 48));
    PublishedCommit { commit_lsn, end_lsn, commit_ts: PgTimestamp(number as i64), foreign: false, tables }
}

/// Commits that are each acknowledged `behind` commits later.
fn follow(timeline: &mut Timeline, behind: u64) {
    let now = Instant::now();
    for number in 1..=COMMITS {
        timeline.commit(commit(number, &TABLES), now);
        timeline.ack(Lsn(number.saturating_sub(behind) * 100), now, |latency, _| _ = black_box(latency));
    }
}

fn timeline(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timeline");
    group.throughput(Throughput::Elements(COMMITS));
    for behind in [0, 1_000, 1_000_000] {
        group.bench_function(format!("commit and ack, {behind} commits behind"), |bencher| {
            bencher.iter_batched(
                || Timeline::new(Timeline::LIMIT),
                |mut timeline| {
                    follow(&mut timeline, behind);
                    timeline
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();

    println!("commits pending | of one table each | of four tables each");
    for pending in [16_384, 65_536, 1_000_000, 10_000_000] {
        let held = [&TABLES[..1], &TABLES[..]].map(|tables| {
            let region = Region::new(ALLOCATOR);
            let mut timeline = Timeline::new(Timeline::LIMIT);
            (1..=pending).for_each(|number| timeline.commit(commit(number, tables), Instant::now()));
            let held = region.change();
            assert_eq!(timeline.pending(Lsn(u64::MAX)).least.transactions, pending, "sums stay exact");
            (held.bytes_allocated - held.bytes_deallocated) as f64 / f64::from(1 << 20)
        });
        println!("{pending:>15} | {:>13.2} MiB | {:>15.2} MiB", held[0], held[1]);
    }
}

criterion_group!(benches, timeline);
criterion_main!(benches);
