//! The gate never opens wrongly: seeded schedules of everything that can happen around it.
//!
//! The real models (`walgate::lag`), the real way to put evidence together (`walgate::keeper`) and the real judge
//! (`walgate::gate`) run against a model of all the rest, one small step at a time and without sockets, tasks or clocks:
//! servers ([`server`]: WAL, flushes, transaction ids, prepared and asynchronous commits, slots, crash recovery, promotion),
//! walsenders and both legs through the proxy ([`stream`]), consumers that acknowledge what they have stored, by the end of a
//! commit or by where it begins ([`consumer`]), the looks of the poller and of the keeper, which are begun, read and taken in
//! different steps ([`agent`]), and an operator, careful or not ([`world`]). Between any two steps something may go wrong
//! ([`faults`]).
//!
//! # What is wrong
//!
//! A pass of the phase `cutover` says: *everything that was published and committed on this history of the source has
//! arrived, and nothing was since the fence*. It speaks of a moment: that of the older of the two looks at the source that it
//! rests on (where its WAL was, and who was at work), but of none that is further back than `max_staleness`, as that is
//! promised whatever it rests on. So it is wrong if a published transaction
//!
//! - whose commit record had been written by that moment (flushed or not, and though nobody may have been told yet),
//! - on the server whose system and timeline the evidence names (a promoted one has what it had replayed before, and lacks
//!   what was lost with the old one),
//! - is not stored for good at the consumer when the answer is given: what it has applied, where its kind can show that (a
//!   subscription, zero-cache with `/statz`); what it has stored and acknowledges, else; what it has replayed, of a standby;
//!   or that was committed behind the fence, whether or not it has arrived.
//!
//! Strangers that read a slot, and slots that are dropped and created again, lose commits for their consumer. Such a pass is
//! wrong as well, unless no walgate could tell: the process that was there has ended since; it had not seen the slot yet,
//! and no position was fixed that the slot must hold; or somebody reads the slot who is as good as the consumer, where it alone
//! says what it has.
//!
//! # What is left out
//!
//! Consumers that lie, or that lose what they have acknowledged; servers whose disk loses what was flushed, or that are
//! rewound to a snapshot on the same timeline; two-phase decoding; large transactions whose parts are rolled back; several
//! consumers of one gate; pglogical; sequences, schemas and data; the phases `preflight`, `post` and `rollback`; for
//! standbys other databases than the gate's.
//!
//! # What is broken on purpose
//!
//! Each check, and each guard within one, is broken to see that a pass becomes wrong ([`mutant`]). Not among them are second
//! lines of defence, without which others have held so far: a fence that is tied to its history, and that remembers its loss
//! or a stray (a slot that may be another holds the gate shut then, and a stream shows the stray by itself), writers
//! that are seen while a fence is taken (they are seen later, or in transaction ids), doubtful timelines, and whose sessions
//! were looked at.
//!
//! # Running it
//!
//! `WALGATE_SCHEDULES` sets how many schedules are tried: 50,000 without it. A failure prints its seed and what happened;
//! `WALGATE_SEED` shows a schedule again. A million takes half a minute on two cores, with walgate's own code optimized:
//!
//! ```text
//! WALGATE_SCHEDULES=1000000 cargo test --config 'profile.dev.package.walgate.opt-level=2' --test simulation -- --include-ignored
//! ```

mod agent;
mod consumer;
mod dice;
mod faults;
mod mutant;
mod server;
mod stream;
mod world;

use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use mutant::Mutant;
use world::{Outcome, Setup, World};

/// Things that happen in a schedule.
const STEPS: u32 = 200;

/// Things that happen, at the most, until the gate opens where nothing goes wrong.
const LONG: u32 = 1500;

fn schedule(seed: u64, mutant: Mutant, base: Instant, logged: bool) -> (Outcome, Vec<String>) {
    World::new(seed, None, mutant, base, logged).run(STEPS, false)
}

/// The first of so many schedules in which a pass is wrong, and how often the gate opened.
fn first_wrong(mutant: Mutant, schedules: u64) -> (Option<u64>, u64) {
    let (next, passes, found) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let done = AtomicBool::new(false);
    let base = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                const BATCH: u64 = 256;
                while !done.load(Ordering::Relaxed) {
                    let from = next.fetch_add(BATCH, Ordering::Relaxed);
                    if from >= schedules {
                        break;
                    }
                    for seed in from..(from + BATCH).min(schedules) {
                        let (outcome, _) = schedule(seed, mutant, base, false);
                        passes.fetch_add(outcome.passes.into(), Ordering::Relaxed);
                        if outcome.wrong.is_some() {
                            found.fetch_min(seed, Ordering::Relaxed);
                            done.store(true, Ordering::Relaxed);
                            break;
                        }
                    }
                }
            });
        }
    });
    let found = found.into_inner();
    ((found < u64::MAX).then_some(found), passes.into_inner())
}

/// What happened in a schedule, step by step.
fn story(seed: u64, mutant: Mutant) -> String {
    let base = Instant::now();
    let setup = World::new(seed, None, mutant, base, false).setup;
    let (outcome, log) = schedule(seed, mutant, base, true);
    format!("WALGATE_SEED={seed}\n{setup:?}\n{}\n{:?}", log.join("\n"), outcome.wrong)
}

fn schedules() -> u64 {
    env::var("WALGATE_SCHEDULES").map_or(50_000, |count| count.parse().expect("WALGATE_SCHEDULES is a number"))
}

#[test]
fn schedules_with_faults_give_no_pass_that_is_wrong() {
    if let Ok(seed) = env::var("WALGATE_SEED") {
        println!("{}", story(seed.parse().expect("WALGATE_SEED is a number"), Mutant::None));
        return;
    }
    let begun = Instant::now();
    let (wrong, passes) = first_wrong(Mutant::None, schedules());
    println!("{} schedules, {passes} passes, {:?}", schedules(), begun.elapsed());
    assert_eq!(wrong, None, "{}", wrong.map_or_else(String::new, |seed| story(seed, Mutant::None)));
    assert!(passes > schedules() / 10, "the gate opened only {passes} times");
}

/// What is broken on purpose.
const MUTANTS: &[Mutant] = &[
    Mutant::Overlooks("writers"),
    Mutant::Overlooks("caught-up"),
    Mutant::Overlooks("applied"),
    Mutant::Overlooks("stray-writes"),
    Mutant::Overlooks("slot"),
    Mutant::NeverStale,
    Mutant::FencedUnflushed,
    Mutant::AlwaysQuiet,
    Mutant::NothingGiven,
    Mutant::SnapshotFirst,
    Mutant::AllDecoded,
    Mutant::NothingPending,
    Mutant::SlotNotRenewed,
    Mutant::FlushedIsAll,
];

/// What matters only where several things go wrong.
const RARELY_NOTICED: &[Mutant] =
    &[Mutant::Overlooks("fence"), Mutant::CopyIsOwn, Mutant::AnyStream, Mutant::SlotIsSame];

#[test]
fn each_check_that_is_broken_on_purpose_is_noticed() {
    notice(MUTANTS, 100_000);
}

#[test]
#[ignore = "it takes a minute, and optimized code"]
fn each_guard_that_is_broken_on_purpose_is_noticed() {
    notice(RARELY_NOTICED, 1_000_000);
}

fn notice(mutants: &[Mutant], within: u64) {
    for mutant in mutants {
        let (noticed, _) = first_wrong(*mutant, within);
        println!("{mutant:?}: {noticed:?}");
        assert!(noticed.is_some(), "{mutant:?} gives no pass that is wrong");
    }
}

#[test]
fn without_faults_the_gate_always_opens() {
    let base = Instant::now();
    for setup in Setup::all_careful() {
        for seed in 0..200 {
            let world = World::new(seed, Some(setup), Mutant::None, base, false);
            let (outcome, _) = world.run(LONG, true);
            if outcome.passes == 0 {
                let (_, log) = World::new(seed, Some(setup), Mutant::None, base, true).run(LONG, true);
                panic!("WALGATE_SEED={seed} {setup:?}: {}\n{:?}", log.join("\n"), outcome.last);
            }
        }
    }
}
