//! Keeps a gate: gathers its evidence while somebody asks, holds its fences, and tells everyone who waits.
//!
//! What passes on the streams and what the poller sees is in the models of the two servers at every moment; the rest is
//! asked for in rounds, by one session a server, however many ask the gate. A verdict is put together anew when somebody
//! asks, and a waiting one whenever a stream, a look or a round has brought something new. A fence lives here and nowhere
//! else: with the process it is gone.

mod answer;
mod assemble;
mod data;
mod fences;
mod parts;
mod positions;
mod rounds;
mod waiting;
mod witness;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;

pub use answer::{Answer, FenceError, GateEvent};
pub use assemble::{consumer, consumers, standing};

use crate::config;
use crate::gate::{Asked, Case, Evidence, Fence, Phase, Piece, Receipt, Settling, Side, Status, Terms, Verdict};
use crate::ident::SlotName;
use crate::lag::Observe;
use crate::lsn::Lsn;
use crate::source::evidence::activity::Reach;
use crate::source::evidence::replica::Replica;
use crate::source::{self, Source, lock};
use crate::time::PgTimestamp;
use assemble::Lists;
use data::Comparing;
use positions::Positions;
use waiting::Waiting;
use witness::Witness;

/// How old a round may be that answers a question.
const REUSED: Duration = Duration::from_millis(500);

/// How long a verdict is shared.
const SHARED: Duration = Duration::from_millis(10);

/// How long a round may take before those who ask are told what is known.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two ticks, which need no server.
const TICK: Duration = Duration::from_secs(1);

/// What is said once nobody keeps it any more.
const ENDED: &str = "the gate was changed, or walgate ends: ask again";

/// Events that a listener may be behind.
const EVENTS: usize = 64;

/// A gate that is kept.
pub struct Keeper {
    /// What is configured now. What it is about stays: see [`Keeper::is_of`].
    config: RwLock<Arc<config::Gate>>,
    source: Witness,
    target: Option<Witness>,
    replica: Option<Replica>,
    replica_seen: Mutex<Piece<Lsn>>,
    data: Comparing,
    lists: Mutex<BTreeMap<Way, Lists>>,
    fences: Mutex<BTreeMap<Way, Fence>>,
    /// One fence is taken at a time.
    fencing: tokio::sync::Mutex<()>,
    demand: Mutex<BTreeMap<Phase, Instant>>,
    demanded: Notify,
    waiting: AtomicUsize,
    /// Nobody keeps it any more.
    ended: AtomicBool,
    /// The last round: what it was for, and when it was begun.
    rounds: watch::Sender<Option<(BTreeSet<Phase>, Instant)>>,
    settling: Mutex<BTreeMap<Way, Settling>>,
    positions: Positions,
    shared: Mutex<HashMap<Asked, (Instant, Arc<Answer>)>>,
    states: Mutex<BTreeMap<Phase, Status>>,
    receipt: Mutex<Option<Receipt>>,
    events: broadcast::Sender<GateEvent>,
}

/// Which of the two servers is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Way {
    Forward,
    Back,
}

impl Way {
    fn of(phase: Phase) -> Way {
        if phase.is_back() { Way::Back } else { Way::Forward }
    }
}

impl Keeper {
    /// A keeper of this gate, which is over this source.
    pub fn new(config: config::Gate, source: Arc<Source>) -> Keeper {
        let terms = Arc::clone(&config.terms);
        let reach = Reach::of(terms.kind);
        let target = config.target.clone().map(|connector| {
            let stale_after = source.lag().stale_after();
            let observe = if terms.reverse.is_some() { Observe::Slot } else { Observe::Poll };
            let target = Source::new(format!("target of {}", terms.name), connector, observe, stale_after);
            if let Some(reverse) = &terms.reverse {
                let mut lag = target.lag();
                lag.copy_only(reverse.consumers.iter().cloned());
                lag.keep_copies(reverse.consumers.iter().cloned());
            }
            Witness::new(Arc::new(target), reach)
        });
        let replica = config.statz.clone().map(|statz| Replica::new(statz.url, statz.password));
        Keeper {
            config: RwLock::new(Arc::new(config)),
            receipt: Mutex::default(),
            source: Witness::new(source, reach),
            target,
            replica,
            replica_seen: Mutex::default(),
            data: Comparing::default(),
            lists: Mutex::default(),
            fences: Mutex::default(),
            fencing: tokio::sync::Mutex::default(),
            demand: Mutex::default(),
            demanded: Notify::new(),
            waiting: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            rounds: watch::Sender::new(None),
            settling: Mutex::default(),
            positions: Positions::default(),
            shared: Mutex::default(),
            states: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
        }
    }

    /// The gate.
    pub fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.config().terms)
    }

    fn config(&self) -> Arc<config::Gate> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this is the keeper of that gate, over that source: limits and what is accepted may be others.
    pub fn is_of(&self, config: &config::Gate, source: &Arc<Source>) -> bool {
        self.config().is_about_the_same(config) && Arc::ptr_eq(self.source.source(), source)
    }

    /// Takes what was read again of its gate: limits, what is accepted, and the target's certificates and passwords. Its fences
    /// stand.
    pub fn take(&self, config: &config::Gate) {
        if let Some((target, connector)) = self.target.as_ref().zip(config.target.clone()) {
            target.source().set_connector(connector);
        }
        let mut config = config.clone();
        let mut known = self.config.write().unwrap_or_else(PoisonError::into_inner);
        // What was compared was compared for these.
        if known.terms == config.terms {
            config.terms = Arc::clone(&known.terms);
        }
        let (was, is) = (Arc::clone(&known), Arc::new(config));
        *known = Arc::clone(&is);
        drop(known);
        lock(&self.shared).clear();
        let is_stricter = (is.terms.data && !was.terms.data)
            || !was.terms.accept_unreplicated.is_subset(&is.terms.accept_unreplicated);
        if is_stricter {
            // It has passed by less than is asked for now.
            lock(&self.fences).values_mut().for_each(|fence| fence.passed = false);
        }
        if is_stricter || was.receipt != is.receipt {
            lock(&self.receipt).take();
        }
    }

    /// The receipt of the latest pass of a switch: that all may begin is no proof to be kept.
    pub fn receipt(&self) -> Option<Receipt> {
        lock(&self.receipt).clone()
    }

    /// What happens to it from now on.
    pub fn events(&self) -> broadcast::Receiver<GateEvent> {
        self.events.subscribe()
    }

    /// The state in which each phase was when it was last asked about.
    pub fn states(&self) -> BTreeMap<Phase, Status> {
        lock(&self.states).clone()
    }

    /// The verdict now, on evidence that was gathered at most half a second before the question.
    pub async fn check(&self, asked: Asked) -> Arc<Answer> {
        let asked_at = Instant::now();
        self.gathered_for(asked, asked_at).await;
        self.judge(asked, asked_at)
    }

    /// The verdict as soon as it is a pass or a fail, and at `until` whatever it is. What fails it may have been mended just before
    /// the question: only what was seen after that counts.
    pub async fn wait(&self, asked: Asked, until: tokio::time::Instant) -> Arc<Answer> {
        let _waiting = Waiting::begin(&self.waiting);
        let asked_at = Instant::now();
        self.gathered_for(asked, asked_at).await;
        let mut rounds = self.rounds.subscribe();
        let audits = self.source.source().audits();
        loop {
            // By then every part was read again, and so were the tables.
            let round_anew = rounds.borrow().as_ref().is_some_and(|(_, round)| *round >= asked_at + parts::SLOW);
            let seen_anew = round_anew && audits.borrow().as_ref().is_none_or(|audit| audit.begun >= asked_at);
            // Before the verdict, so that what comes meanwhile is not missed.
            let progress = self.source.source().progress();
            let elsewhere = self.target.as_ref().map(|target| target.source().progress());
            let answer = self.judge(asked, asked_at);
            let is_final = match answer.verdict.state {
                Status::Pass => true,
                Status::Fail => seen_anew,
                _ => false,
            };
            if is_final || self.ended.load(Ordering::Relaxed) {
                return answer;
            }
            lock(&self.demand).insert(asked.phase, Instant::now());
            self.demanded.notify_one();
            let news = async {
                tokio::select! {
                    () = progress => {}
                    () = async { if let Some(elsewhere) = elsewhere { elsewhere.await } else { pending().await } } => {}
                    _ = rounds.changed() => {}
                }
                // What is shared until then is not judged again.
                sleep(SHARED).await;
            };
            if timeout_at(until, news).await.is_err() {
                return self.judge(asked, asked_at);
            }
        }
    }

    /// Keeps the gate until `stop`.
    pub async fn keep(self: Arc<Keeper>, stop: CancellationToken) {
        let keep = async {
            let look = async {
                match &self.target {
                    Some(target) => source::look(target.source(), &stop).await,
                    None => pending().await,
                }
            };
            tokio::join!(look, self.tick(), self.gather(), self.begin());
        };
        stop.run_until_cancelled(keep).await;
        self.ended.store(true, Ordering::Relaxed);
        // Wakes who waits.
        self.rounds.send_replace(None);
    }

    /// Notes once a second what needs no server: how far behind consumers are, and what has happened to a fence.
    async fn tick(&self) {
        loop {
            let now = Instant::now();
            for way in [Way::Forward, Way::Back] {
                let phase = if way == Way::Back { Phase::Rollback } else { Phase::Cutover };
                let Some((side, _)) = self.sides(phase) else { continue };
                let reports = side.source().lag().reports(now);
                let of = |slot: &SlotName| reports.iter().find(|report| report.slot == *slot);
                let terms = self.terms();
                let consumers = terms.consumers_of(phase);
                lock(&self.settling).entry(way).or_default().note(consumers.iter().map(of), now);
                self.watch_fence(phase);
            }
            sleep(TICK).await;
        }
    }

    /// Waits for a round for this phase that is young enough, and not for long.
    async fn gathered_for(&self, Asked { phase, target_lsn, .. }: Asked, asked: Instant) {
        // Writes may have been stopped only just before a position of the caller's was taken.
        let reused = if target_lsn.is_some() { Duration::ZERO } else { REUSED };
        let fenced = lock(&self.fences).get(&Way::of(phase)).and_then(|fence| fence.taken);
        if let Some(position) = target_lsn {
            self.positions.since(Way::of(phase), position, asked);
        }
        lock(&self.demand).insert(phase, asked);
        let mut rounds = self.rounds.subscribe();
        let young = |round: &Option<(BTreeSet<Phase>, Instant)>| {
            round.as_ref().is_some_and(|(phases, begun)| {
                phases.contains(&phase)
                    && asked.saturating_duration_since(*begun) <= reused
                    && fenced.is_none_or(|fenced| *begun >= fenced)
            })
        };
        let answered = async {
            if !young(&rounds.borrow_and_update()) {
                self.demanded.notify_one();
                // The sender lives as long as this.
                let _ = rounds.wait_for(young).await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, answered).await;
    }

    fn judge(&self, asked: Asked, asked_at: Instant) -> Arc<Answer> {
        let mut shared = lock(&self.shared);
        let now = Instant::now();
        let young = |at: &Instant| now.saturating_duration_since(*at) < SHARED;
        let is_shared = asked.target_lsn.is_none();
        if let Some((_, answer)) = shared.get(&asked).filter(|(at, _)| is_shared && young(at)) {
            return Arc::clone(answer);
        }
        self.watch_fence(asked.phase);
        let (way, config) = (Way::of(asked.phase), self.config());
        let terms = &config.terms;
        let fence = lock(&self.fences).get(&way).cloned();
        let until = asked.target_lsn.or(fence.as_ref().map(|fence| fence.target_lsn));
        let issued_at = PgTimestamp::now();
        let evidence = self.evidence(asked.phase, until, now);
        let mut settling = lock(&self.settling);
        let case = Case {
            terms,
            asked,
            asked_at: Some(asked_at),
            named_at: asked.target_lsn.map(|position| self.positions.since(way, position, now)),
            evidence: &evidence,
            fence: fence.as_ref(),
            settling: settling.entry(way).or_default(),
            now: Instant::now(),
        };
        let mut verdict = crate::gate::judge(&case);
        if self.ended.load(Ordering::Relaxed) {
            // Its evidence is not renewed, and it was asked by what no longer holds.
            verdict.state = Status::Unknown;
            verdict.reason = ENDED.into();
        }
        let oldest = evidence.observed(case.now, terms.limits.staleness);
        let age = oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest));
        if let Some(taken) = fence.as_ref().and_then(|fence| fence.taken).filter(|_| case.wants_data(&verdict)) {
            self.compare_data(asked.phase, taken);
        }
        let receipt = (verdict.state == Status::Pass).then(|| Receipt::issue(&case, &config.receipt, issued_at));
        drop(settling);
        if receipt.is_some() {
            if asked.phase != Phase::Preflight {
                lock(&self.receipt).clone_from(&receipt);
            }
            if matches!(asked.phase, Phase::Cutover | Phase::Rollback) && asked.target_lsn.is_none() {
                // The fence that was judged, unless another has taken its place.
                let mut fences = lock(&self.fences);
                let standing =
                    fences.get_mut(&way).filter(|standing| fence.as_ref().is_some_and(|it| it.taken == standing.taken));
                standing.into_iter().for_each(|standing| standing.passed = true);
            }
        }
        self.note_state(asked.phase, &verdict);
        let consumers = evidence.consumers.into_values().filter_map(|consumer| consumer.report).collect();
        let observed_at = issued_at.minus(age);
        let answer = Arc::new(Answer { verdict, consumers, observed_at, receipt });
        shared.retain(|_, (at, _)| young(at));
        if is_shared {
            shared.insert(asked, (Instant::now(), Arc::clone(&answer)));
        }
        answer
    }

    /// Everything that is known for a phase at this moment.
    fn evidence(&self, phase: Phase, until: Option<Lsn>, now: Instant) -> Evidence {
        let Some((source, target)) = self.sides(phase) else { return Evidence::default() };
        let terms = self.terms();
        let mut evidence = Evidence {
            replica: lock(&self.replica_seen).clone(),
            data: self.data.seen(Way::of(phase), &terms),
            ..Evidence::default()
        };
        {
            let lag = source.source().lag();
            evidence.source = Side { standing: standing(&lag), ..source.side() };
            evidence.consumers = consumers(&lag, terms.consumers_of(phase), until, now);
        }
        if let Some(target) = target {
            evidence.target = Side { standing: standing(&target.source().lag()), ..target.side() };
        }
        // No check of the phase post asks for them.
        if phase != Phase::Post {
            let audited = match phase.is_back() {
                true => (source.catalog(), Piece::default()),
                false => assemble::audited(source.source(), now),
            };
            let mut lists = lock(&self.lists);
            let lists = lists.entry(Way::of(phase)).or_default();
            assemble::add_published(&mut evidence, audited, source.source(), terms.kind, lists);
        }
        evidence
    }

    /// Which server the phase takes for the source, and which for the target.
    fn sides(&self, phase: Phase) -> Option<(&Witness, Option<&Witness>)> {
        match (phase.is_back(), &self.target) {
            (false, target) => Some((&self.source, target.as_ref())),
            (true, Some(target)) if self.terms().reverse.is_some() => Some((target, Some(&self.source))),
            (true, _) => None,
        }
    }

    /// Compares the data of both sides, unless that is under way, or was done under this fence.
    fn compare_data(&self, phase: Phase, under: Instant) {
        let Some((source, Some(target))) = self.sides(phase) else { return };
        let connectors = (source.source().connector(), target.source().connector());
        self.data.begin(&self.terms(), (phase, Way::of(phase)), under, connectors);
    }

    fn note_state(&self, phase: Phase, verdict: &Verdict) {
        let from = lock(&self.states).insert(phase, verdict.state);
        if from != Some(verdict.state) {
            let (gate, state, reason) = (&self.terms().name, verdict.state, &verdict.reason);
            tracing::info!(gate, %phase, %state, reason, "verdict");
            self.tell(GateEvent::Verdict { phase, from, to: verdict.state, reason: verdict.reason.clone() });
        }
    }

    fn tell(&self, event: GateEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}
