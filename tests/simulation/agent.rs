//! walgate: the real models and the real judge, and around them what the poller, the keeper and the proxy do, one step at
//! a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use walgate::gate::{
    Activity, Asked, Barrier, Case, Evidence, Fence, Fork, Phase, Piece, Receiver, Settling, Standing, Status, Stray,
    Subscription, Taken, Terms, Verdict, judge,
};
use walgate::ident::SlotName;
use walgate::keeper;
use walgate::lag::{History, Observe, SlotKind, SourceLag, SourcePoll};
use walgate::lsn::Lsn;
use walgate::time::PgTimestamp;

use crate::dice::Dice;
use crate::mutant::Mutant;
use crate::server::{Server, Set};

pub(crate) struct Agent {
    pub(crate) lag: SourceLag,
    pub(crate) slot: SlotName,
    pub(crate) fence: Option<Fence>,
    poller: Option<Session>,
    keeper: Option<Session>,
    poll: Option<Poll>,
    activity_look: Option<Look>,
    fencer: Option<Session>,
    taking: Option<Taking>,
    activity: Piece<Activity>,
    pub(crate) target: TargetPieces,
    /// The systems on which a look has shown the slot, and when the first did.
    pub(crate) seen_slot: BTreeMap<u64, Instant>,
    /// The commits that it has seen on a stream.
    pub(crate) tapped: Set,
    mutant: Mutant,
}

#[derive(Default)]
pub(crate) struct TargetPieces {
    pub(crate) subscriptions: Piece<Vec<Subscription>>,
    pub(crate) replica: Piece<Lsn>,
    pub(crate) standing: Piece<Standing>,
    pub(crate) forks: Piece<Vec<Fork>>,
    pub(crate) receiver: Piece<Receiver>,
}

/// A session to a server, through the life of that server.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Session {
    server: usize,
    life: u32,
}

/// The poller's look: the position first, the slots later.
struct Poll {
    begun: Instant,
    seen: SourcePoll,
    slots: bool,
}

/// A look at who is at work: sessions, then prepared transactions, then a snapshot.
#[derive(Clone)]
struct Look {
    begun: Instant,
    seen: Activity,
    done: u8,
}

/// How far a fence is.
enum Taking {
    Before(Look),
    Written { before: Activity, barrier: Barrier },
    After { before: Activity, barrier: Barrier, flushed: Lsn, look: Box<Look> },
}

/// What came of a step of taking a fence.
pub(crate) enum Took {
    Nothing,
    Stepped,
    Refused,
    Set(Lsn),
}

impl Agent {
    pub(crate) fn new(observe: Observe, slot: SlotName, mutant: Mutant) -> Agent {
        Agent {
            lag: SourceLag::new("main", observe, Duration::from_secs(15)),
            slot,
            fence: None,
            poller: None,
            keeper: None,
            poll: None,
            activity_look: None,
            fencer: None,
            taking: None,
            activity: Piece::default(),
            target: TargetPieces::default(),
            seen_slot: BTreeMap::new(),
            tapped: 0,
            mutant,
        }
    }

    /// A session that goes on, or a new one to the server behind the name.
    fn session(session: &mut Option<Session>, servers: &[Server], name: usize) -> Option<usize> {
        let alive = |session: &Session| {
            let server = &servers[session.server];
            server.alive && server.lives == session.life
        };
        if session.is_some_and(|session| !alive(&session)) {
            // It is noticed, and tried again later.
            *session = None;
            return None;
        }
        if session.is_none() && servers[name].alive {
            *session = Some(Session { server: name, life: servers[name].lives });
        }
        session.map(|session| session.server)
    }

    /// The sessions end: a load balancer has cut them.
    pub(crate) fn cut_sessions(&mut self) {
        (self.poller, self.keeper) = (None, None);
    }

    pub(crate) fn step_poll(
        &mut self,
        servers: &[Server],
        name: usize,
        kind: SlotKind,
        now: Instant,
        since: Duration,
    ) -> bool {
        let before = self.poller;
        let server = Agent::session(&mut self.poller, servers, name);
        if self.poller != before {
            self.poll = None;
            self.lag.lost();
        }
        let Some(server) = server.map(|server| &servers[server]) else { return false };
        match &mut self.poll {
            None => {
                let seen = SourcePoll {
                    server: "here".into(),
                    database: "app".into(),
                    history: server.history(),
                    running_since: PgTimestamp(0),
                    in_recovery: false,
                    flushed: server.flushed,
                    server_time: server.clock(since),
                    spare: 8,
                    still: None,
                    counts_us: false,
                    slots: BTreeMap::new(),
                };
                self.poll = Some(Poll { begun: now, seen, slots: false });
            }
            Some(poll) if !poll.slots => {
                poll.seen.slots.extend(server.slot_row(kind).map(|row| (self.slot.clone(), row)));
                poll.slots = true;
            }
            Some(_) => {
                let poll = self.poll.take().expect("it is there");
                if !poll.seen.slots.is_empty() {
                    self.seen_slot.entry(poll.seen.history.system).or_insert(poll.begun);
                }
                self.lag.poll(poll.seen, poll.begun);
                return true;
            }
        }
        false
    }

    pub(crate) fn step_look(&mut self, servers: &[Server], name: usize, now: Instant) {
        let before = self.keeper;
        let server = Agent::session(&mut self.keeper, servers, name);
        if self.keeper != before {
            self.activity_look = None;
        }
        let Some(server) = server.map(|server| &servers[server]) else { return };
        let look = self.activity_look.get_or_insert_with(|| Look::begin(now));
        if !look.step(server, self.mutant) {
            let look = self.activity_look.take().expect("it is there");
            self.activity = Piece::Seen { value: look.seen, at: look.begun, from: "pg_stat_activity" };
        }
    }

    /// Goes on with a fence, or begins one.
    pub(crate) fn step_fence(
        &mut self,
        servers: &mut [Server],
        name: usize,
        (written, published): (bool, bool),
        (now, since): (Instant, Duration),
        dice: &mut Dice,
    ) -> Took {
        // A session of its own for each fence.
        if self.taking.is_none() {
            self.fencer = None;
        }
        let before = self.fencer;
        let server = Agent::session(&mut self.fencer, servers, name);
        if self.fencer != before {
            self.taking = None;
        }
        let Some(server) = server.map(|server| &mut servers[server]) else { return Took::Nothing };
        let mutant = self.mutant;
        self.taking = Some(match self.taking.take() {
            None => Taking::Before(Look::begin(now)),
            Some(Taking::Before(mut look)) => match look.step(server, mutant) {
                true => Taking::Before(look),
                false => {
                    let barrier = match written {
                        true => {
                            let at = server.inserted;
                            Barrier::Written { nonce: "n".into(), xid: server.barrier(published, since, dice), at }
                        }
                        false => Barrier::Unwritten(server.inserted),
                    };
                    Taking::Written { before: look.seen, barrier }
                }
            },
            Some(Taking::Written { before, barrier }) => {
                let look = Box::new(Look::begin(now));
                Taking::After { before, barrier, flushed: server.flushed, look }
            }
            Some(Taking::After { before, barrier, flushed, mut look }) => match look.step(server, mutant) {
                true => Taking::After { before, barrier, flushed, look },
                false => {
                    let mut taken = Taken {
                        before,
                        barrier,
                        flushed,
                        after: look.seen,
                        history: server.history(),
                        forks: Some(server.forks.clone()),
                        in_recovery: false,
                        at: PgTimestamp(0),
                    };
                    mutant.falsify_fence(&mut taken);
                    if self.lag.history().is_some_and(|watched| watched.contradicts(taken.history)) {
                        return Took::Refused;
                    }
                    return match Fence::take(taken) {
                        Ok(fence) => {
                            let at = fence.target_lsn;
                            self.fence = Some(fence);
                            Took::Set(at)
                        }
                        Err(_) => Took::Refused,
                    };
                }
            },
        });
        Took::Stepped
    }

    /// What the keeper keeps in mind at a look, whatever is seen later.
    fn latch(&mut self) {
        let Some(fence) = &mut self.fence else { return };
        let then = fence.history;
        let contradicted = then.zip(self.lag.history()).is_some_and(|(then, is)| then.contradicts(is));
        if contradicted {
            fence.lost = Some("the source is of another history".into());
        }
        let behind = self.lag.followed(&self.slot, fence.target_lsn).and_then(|followed| followed.behind);
        if let Some((commit_lsn, _)) = behind {
            fence.stray.get_or_insert(Stray { commit_lsn, table: None });
        }
    }

    /// The evidence, as the keeper puts it together at this moment.
    pub(crate) fn evidence(&self, target: Lsn, now: Instant) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.source.standing = keeper::standing(&self.lag);
        evidence.source.activity = self.activity.clone();
        let from = "the simulation";
        evidence.source.sequences = Piece::Seen { value: Vec::new(), at: now, from };
        evidence.target.sequences = evidence.source.sequences.clone();
        evidence.target.subscriptions = self.target.subscriptions.clone();
        evidence.source.unreplicated = Piece::Seen { value: Default::default(), at: now, from };
        evidence.target.standing = self.target.standing.clone();
        evidence.target.replication = self.target.standing.clone().map(|standing| standing.history);
        evidence.target.forks = self.target.forks.clone();
        evidence.target.receiver = self.target.receiver.clone();
        evidence.replica = self.target.replica.clone();
        let mut consumer = keeper::consumer(&self.lag, &self.slot, Some(target), None);
        consumer.published = Piece::Seen { value: Default::default(), at: now, from };
        evidence.consumers.insert(self.slot.clone(), consumer);
        evidence
    }

    /// Asks the gate.
    pub(crate) fn ask(&mut self, terms: &Terms, caller: Option<Lsn>, now: Instant) -> Option<Verdict> {
        self.latch();
        let target = caller.or(self.fence.as_ref().map(|fence| fence.target_lsn))?;
        let mut evidence = self.evidence(target, now);
        let mut fence = self.fence.clone();
        let mut terms = terms.clone();
        self.mutant.falsify(&mut evidence, &mut fence, &mut terms);
        let asked = Asked { target_lsn: caller, ..Asked::of(Phase::Cutover) };
        let settling = Settling::default();
        let case = Case {
            terms: &terms,
            asked,
            asked_at: None,
            named_at: None,
            evidence: &evidence,
            fence: fence.as_ref(),
            settling: &settling,
            now,
        };
        Some(self.mutant.overlook(judge(&case)))
    }

    /// The moment that a verdict speaks of: that of the older look at the source.
    pub(crate) fn moment(&self) -> Option<Instant> {
        let (_, looked) = self.lag.last_look()?;
        Some(looked.min(self.activity.at()?))
    }

    /// The history that it speaks of.
    pub(crate) fn speaks_of(&self) -> Option<History> {
        self.lag.last_look().map(|(look, _)| look.history)
    }
}

impl Look {
    fn begin(now: Instant) -> Look {
        Look { begun: now, seen: Activity::default(), done: 0 }
    }

    /// Reads on; `false` once everything was read.
    fn step(&mut self, server: &Server, mutant: Mutant) -> bool {
        let order = if mutant == Mutant::SnapshotFirst { [2, 0, 1] } else { [0, 1, 2] };
        match order.get(usize::from(self.done)) {
            Some(0) => self.seen.writers.extend(server.sessions()),
            Some(1) => self.seen.writers.extend(server.prepared()),
            Some(_) => {
                let (xmin, xmax) = server.snapshot();
                (self.seen.next_xid, self.seen.quiet) = (xmax, xmin == xmax);
                self.seen.inserted = Some(server.inserted);
                self.seen.history = Some(server.history());
            }
            None => return false,
        }
        self.done += 1;
        true
    }
}

/// Whether a verdict lets the cutover begin.
pub(crate) fn passes(verdict: &Verdict) -> bool {
    verdict.state == Status::Pass
}
