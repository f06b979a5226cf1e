//! Gathers a gate's evidence, in rounds, while somebody asks.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Keeper;
use super::parts::{self, Part};
use super::witness::{Counts, Witness, is_over};
use crate::gate::{Kind, Phase};
use crate::source::lock;

/// Between two rounds while somebody waits, and while somebody asks now and then.
const WAITED_FOR: Duration = Duration::from_millis(50);
const ASKED_FOR: Duration = Duration::from_secs(1);

/// Between two attempts to look before anybody asks, at the most.
const TRIED_AGAIN: Duration = Duration::from_secs(30);

/// How much longer than a round the rest after it is, while somebody waits: a server that takes its time is asked less often.
const REST: u32 = 2;

/// For how long a phase that was asked about is gathered for.
const IN_DEMAND: Duration = Duration::from_secs(10);

/// Between two audits of the source's tables while somebody asks.
const AUDITED: Duration = Duration::from_secs(1);

impl Keeper {
    /// Looks at the subscriptions once before anybody asks: what goes wrong with them from here on is not to be taken for
    /// something of before walgate looked.
    pub(super) async fn begin(&self) {
        let terms = self.terms();
        if !terms.kind.is_database() {
            return;
        }
        let back = terms.reverse.as_ref().map(|_| &self.source);
        let subscriptions = BTreeSet::from([Part::Subscriptions]);
        let seen = async |side: Option<&Witness>| {
            let Some(side) = side else { return };
            let mut pause = ASKED_FOR;
            while side.side().subscriptions.value().is_none() {
                side.ask(&subscriptions, (terms.limits.staleness, None)).await;
                sleep(pause).await;
                pause = (pause * 2).min(TRIED_AGAIN);
            }
        };
        tokio::join!(seen(self.target.as_ref()), seen(back));
    }

    /// Gathers in rounds while somebody asks.
    pub(super) async fn gather(&self) {
        let mut audited: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let phases: BTreeSet<Phase> = {
                let mut demand = lock(&self.demand);
                demand.retain(|_, asked| begun.saturating_duration_since(*asked) < IN_DEMAND);
                demand.keys().copied().collect()
            };
            if phases.is_empty() {
                self.demanded.notified().await;
                continue;
            }
            let terms = self.terms();
            let fenced = |phase| self.standing(phase).and_then(|fence| fence.taken);
            let fenced = fenced(Phase::Cutover).max(fenced(Phase::Rollback));
            // What is of before does not count.
            let since = fenced.max(self.positions.newest());
            if audited.is_none_or(|at| is_over(at, begun, AUDITED, since)) {
                match fenced.filter(|fenced| audited.is_none_or(|at| at < *fenced)) {
                    Some(_) => self.source.source().hurry_audit(),
                    None => self.source.source().want_audit(),
                }
                audited = Some(begun);
            }
            let mut wanted: [BTreeSet<Part>; 2] = Default::default();
            for phase in &phases {
                let [source, target] = &mut wanted;
                let (of_source, of_target) = if phase.is_back() { (target, source) } else { (source, target) };
                of_source.extend(parts::of_source(&terms, *phase));
                of_target.extend(parts::of_target(&terms, *phase));
                if let Some((side, _)) = self.sides(*phase) {
                    side.source().want_proof(terms.consumers_of(*phase));
                }
            }
            let [source, target] = &wanted;
            let sides = [(Some(&self.source), source), (self.target.as_ref(), target)];
            let counts = (terms.limits.staleness, since);
            // What a subscription has received is compared with what the other side had written after that.
            let [of_source, of_target] = sides.map(|(side, wanted)| subscriptions(side, wanted, counts));
            let (source_answers, target_answers) = tokio::join!(of_source, of_target);
            let [of_source, of_target] = sides.map(|(side, wanted)| rest(side, wanted, counts));
            let of_source = async {
                if source_answers {
                    of_source.await
                }
            };
            let of_target = async {
                if target_answers {
                    of_target.await
                }
            };
            let of_replica = async {
                if let Some(replica) = &self.replica {
                    let seen = replica.position().await;
                    *lock(&self.replica_seen) = seen;
                }
            };
            tokio::join!(of_source, of_target, of_replica);
            let least = WAITED_FOR.max(begun.elapsed() * REST).min(ASKED_FOR);
            self.audited_since(since).await;
            self.rounds.send_replace(Some((phases, begun)));
            let pause = if self.waiting.load(Ordering::Relaxed) > 0 { least } else { ASKED_FOR };
            tokio::select! {
                () = sleep(pause) => {}
                // Not at once: many may ask one after the other.
                () = self.demanded.notified() => sleep(least).await,
            }
        }
    }

    /// Waits for an audit of the source that was begun after this, where one counts, and not for long: a large catalog is not
    /// read at once.
    async fn audited_since(&self, since: Option<Instant>) {
        if let Some(since) = since.filter(|_| !matches!(self.terms().kind, Kind::Slot | Kind::Zero)) {
            let mut audits = self.source.source().audits();
            let audited = audits.wait_for(|report| report.as_ref().is_some_and(|report| report.begun >= since));
            let _ = tokio::time::timeout(ASKED_FOR, audited).await;
        }
    }
}

/// Asks one server for its subscriptions, where they are wanted; whether it answers.
async fn subscriptions(witness: Option<&Witness>, wanted: &BTreeSet<Part>, counts: Counts) -> bool {
    match witness.filter(|_| wanted.contains(&Part::Subscriptions)) {
        Some(witness) => witness.ask(&BTreeSet::from([Part::Subscriptions]), counts).await,
        None => true,
    }
}

/// Asks one server for what else is wanted, and has it looked at.
async fn rest(witness: Option<&Witness>, wanted: &BTreeSet<Part>, counts: Counts) {
    let Some(witness) = witness.filter(|_| !wanted.is_empty()) else { return };
    let wanted: BTreeSet<Part> = wanted.iter().copied().filter(|part| *part != Part::Subscriptions).collect();
    let mut looks = witness.source().looks();
    looks.mark_unchanged();
    witness.source().want_look();
    let look = async {
        // If it does not come, what was seen last grows old.
        let _ = tokio::time::timeout(ASKED_FOR, looks.changed()).await;
    };
    tokio::join!(witness.ask(&wanted, counts), look);
}
