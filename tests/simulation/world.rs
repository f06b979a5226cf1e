//! A schedule: everything there is, and what happens next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use walgate::gate::{Kind, Piece, Receiver, Standing, Status, Subscription, Terms, Verdict};
use walgate::ident::TableName;
use walgate::lag::{Observe, SlotKind};
use walgate::lsn::Lsn;

use crate::agent::{Agent, Took, passes};
use crate::consumer::{Consumer, Habits};
use crate::dice::Dice;
use crate::mutant::Mutant;
use crate::server::{Content, SERIALS, Server, Set, What};
use crate::stream::{Stream, Way};

/// What a schedule is about; it stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) observe: Observe,
    /// How the consumer reaches the server.
    pub(crate) way: Way,
    pub(crate) habits: Habits,
    /// The consumer asks for IDENTIFY_SYSTEM first, as most do.
    pub(crate) identifies: bool,
    /// The consumer asks for messages.
    pub(crate) messages: bool,
    /// The server sends transactions that hold nothing, as before PostgreSQL 15.
    pub(crate) empty_too: bool,
    /// A fence is taken with a barrier.
    pub(crate) barrier: bool,
    /// zero-cache is asked for its replica's position.
    pub(crate) asks_replica: bool,
    /// The caller names a position instead of setting a fence.
    pub(crate) caller: bool,
    /// Writers are stopped before the fence, and stay so.
    pub(crate) careful: bool,
    pub(crate) faults: bool,
    /// Nobody else writes once writers are stopped: neither autovacuum nor other databases.
    pub(crate) alone: bool,
}

/// What came of a schedule.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) passes: u32,
    pub(crate) asked: u32,
    /// A pass that is known to be wrong, and why.
    pub(crate) wrong: Option<String>,
    pub(crate) last: Option<Verdict>,
    pub(crate) steps: u32,
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) setup: Setup,
    terms: Terms,
    table: TableName,
    base: Instant,
    pub(crate) now: Duration,
    pub(crate) servers: Vec<Server>,
    /// The server behind the name.
    pub(crate) name: usize,
    pub(crate) agent: Agent,
    pub(crate) mutant: Mutant,
    pub(crate) streams: Vec<Stream>,
    pub(crate) consumer: Consumer,
    pub(crate) standby: Standby,
    target_look: Option<(Instant, Target)>,
    pub(crate) serials: u32,
    /// What will never be sent to the consumer any more.
    pub(crate) missed: Set,
    /// What of that no walgate that is there could have known.
    pub(crate) excused: Set,
    /// What was missed while walgate had not looked at the slot yet.
    pub(crate) unseen: Set,
    writing: bool,
    stage: Stage,
    caller: Option<Lsn>,
    pub(crate) log: Option<Vec<String>>,
    outcome: Outcome,
}

/// A standby: how far it has received and replayed the WAL of which server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standby {
    pub(crate) of: usize,
    pub(crate) received: Lsn,
    pub(crate) replayed: Lsn,
}

/// What a look at the target has seen.
struct Target {
    subscription: Option<Lsn>,
    received: Option<Lsn>,
    replica: Lsn,
    standby: Standby,
}

/// How far the operator is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Business as usual for so many steps.
    Usual(u64),
    Stopping,
    Fencing,
    Fenced,
}

impl Setup {
    fn any(dice: &mut Dice) -> Setup {
        let kinds = [Kind::Slot, Kind::Zero, Kind::Subscription, Kind::Subscription, Kind::Standby];
        let kind = dice.pick(&kinds);
        let (observe, way) = match kind {
            Kind::Standby => (Observe::Poll, Way::Direct),
            _ => dice.pick(&[
                (Observe::Proxy, Way::Proxied),
                (Observe::Proxy, Way::Proxied),
                (Observe::Proxy, Way::Direct),
                (Observe::Slot, Way::Direct),
                (Observe::Poll, Way::Direct),
            ]),
        };
        let zero = kind == Kind::Zero;
        Setup {
            kind,
            observe,
            way,
            habits: Habits { by_commit: zero || kind == Kind::Slot && dice.once_in(2), applies_later: zero },
            identifies: !dice.once_in(4),
            messages: zero,
            empty_too: dice.once_in(4),
            barrier: !dice.once_in(3),
            asks_replica: zero && dice.once_in(2),
            caller: dice.once_in(8),
            careful: dice.once_in(3),
            faults: true,
            alone: dice.once_in(2),
        }
    }
}

impl Setup {
    /// Every kind of gate by every way to observe, with an operator who is careful and nothing that goes wrong.
    pub(crate) fn all_careful() -> impl Iterator<Item = Setup> {
        let ways =
            [(Observe::Proxy, Way::Proxied), (Observe::Slot, Way::Direct), (Observe::Poll, Way::Direct)].into_iter();
        let kinds = [Kind::Slot, Kind::Zero, Kind::Subscription, Kind::Standby];
        let each = ways.flat_map(move |way| kinds.map(|kind| (kind, way)));
        each.filter(|(kind, (observe, _))| match kind {
            // Nobody decodes for it.
            Kind::Standby => *observe == Observe::Poll,
            // What it must have applied is known from decoding only.
            Kind::Subscription => *observe != Observe::Poll,
            _ => true,
        })
        .flat_map(|(kind, (observe, way))| {
            [true, false].map(|barrier| {
                let zero = kind == Kind::Zero;
                Setup {
                    kind,
                    observe,
                    way,
                    habits: Habits { by_commit: zero, applies_later: zero },
                    identifies: true,
                    messages: zero,
                    empty_too: barrier,
                    barrier,
                    // Of a fence without a barrier its replica says nothing until something is published.
                    asks_replica: zero && observe == Observe::Proxy && barrier,
                    caller: false,
                    careful: true,
                    faults: false,
                    // Without decoding only a server on which nothing happens is known to be still.
                    alone: observe == Observe::Poll,
                }
            })
        })
    }
}

impl World {
    pub(crate) fn new(seed: u64, setup: Option<Setup>, mutant: Mutant, base: Instant, logged: bool) -> World {
        let mut dice = Dice::new(seed);
        let setup = setup.unwrap_or_else(|| Setup::any(&mut dice));
        let slot = "s".parse().expect("it names a slot");
        let agent = Agent::new(setup.observe, slot, mutant);
        let mut server = Server::new(1, &mut dice);
        let now = Duration::from_secs(100);
        server.create_slot(now, &mut dice);
        let at = server.flushed;
        let terms = Terms {
            name: "g".into(),
            source: "main".into(),
            consumers: vec![agent.slot.clone()],
            kind: setup.kind,
            limits: Default::default(),
            accept_unreplicated: Default::default(),
            accept_stopped_source: false,
            data: false,
            asks_replica: setup.asks_replica,
            reverse: None,
        };
        let usual = 5 + dice.below(30);
        World {
            dice,
            setup,
            terms,
            table: TableName { schema: "public".into(), name: "t".into() },
            base,
            now,
            servers: vec![server],
            name: 0,
            agent,
            mutant,
            streams: Vec::new(),
            consumer: Consumer::new(setup.habits),
            standby: Standby { of: 0, received: at, replayed: at },
            target_look: None,
            serials: 0,
            missed: 0,
            excused: 0,
            unseen: 0,
            writing: true,
            stage: Stage::Usual(usual),
            caller: None,
            log: logged.then(Vec::new),
            outcome: Outcome::default(),
        }
    }

    /// Lets so many things happen, unless a pass is wrong.
    pub(crate) fn run(mut self, steps: u32, until_pass: bool) -> (Outcome, Vec<String>) {
        for step in 0..steps {
            self.outcome.steps = step + 1;
            self.step();
            if self.outcome.wrong.is_some() || until_pass && self.outcome.passes > 0 {
                break;
            }
        }
        (self.outcome, self.log.unwrap_or_default())
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + self.now
    }

    pub(crate) fn say(&mut self, what: impl FnOnce(&World) -> String) {
        if self.log.is_some() {
            let line = format!("{:>9.3} {}", self.now.as_secs_f64(), what(self));
            self.log.iter_mut().for_each(|log| log.push(line.clone()));
        }
    }

    fn step(&mut self) {
        self.now += self.dice.millis(80);
        if self.setup.faults && self.dice.once_in(120) {
            self.now += self.dice.millis(9000);
        }
        let settled = self.stage == Stage::Fenced;
        match self.dice.below(24) {
            0..=2 if settled && !self.dice.once_in(8) => self.pump(),
            0..=2 => self.work(),
            3..=9 => self.pump(),
            10..=12 => self.look_at_slots(),
            13..=16 => self.look_at_source(),
            17 | 18 => self.look_at_target(),
            19 | 20 => self.operate(),
            21 | 22 => self.ask(),
            _ if self.setup.faults && self.dice.once_in(3) => self.fault(),
            _ => self.upkeep(),
        }
    }

    fn look_at_slots(&mut self) {
        let kind = if self.setup.kind == Kind::Standby { SlotKind::Physical } else { SlotKind::Logical };
        let now = self.instant();
        for _ in 0..=self.dice.below(3) {
            if self.agent.step_poll(&self.servers, self.name, kind, now, self.now) && self.log.is_some() {
                let followed = self.agent.lag.followed(&self.agent.slot, Lsn(u64::MAX));
                let look = self.agent.lag.last_look().and_then(|(look, _)| look.slots.values().next().cloned());
                self.say(|_| format!("poll {look:?} {followed:?}"));
            }
        }
    }

    fn look_at_source(&mut self) {
        let now = self.instant();
        for _ in 0..=self.dice.below(4) {
            self.agent.step_look(&self.servers, self.name, now);
        }
    }

    fn look_at_target(&mut self) {
        match self.target_look.take() {
            None => {
                let Consumer { applied_to, heard, .. } = self.consumer;
                let (subscription, replica) = (applied_to.end.valid(), applied_to.commit);
                let target = Target { subscription, received: heard.valid(), replica, standby: self.standby };
                self.target_look = Some((self.instant(), target));
            }
            Some((at, target)) => {
                let from = "the target";
                let pieces = &mut self.agent.target;
                let before = pieces.subscriptions.value().and_then(|all| all[0].received[0]);
                let subscription = Subscription {
                    name: "sub".into(),
                    slot: Some(self.agent.slot.clone()),
                    enabled: true,
                    running: true,
                    tables: BTreeMap::from([(self.table.clone(), "r".into())]),
                    applied: target.subscription,
                    received: [target.received.map(|received| (received, at)), before],
                    ..Subscription::default()
                };
                pieces.subscriptions = Piece::Seen { value: vec![subscription], at, from };
                pieces.replica = Piece::Seen { value: target.replica, at, from };
                let of = &self.servers[target.standby.of];
                let value = Standing {
                    history: of.history(),
                    in_recovery: true,
                    flushed: target.standby.replayed,
                    slots: Default::default(),
                };
                pieces.standing = Piece::Seen { value, at, from };
                pieces.forks = Piece::Seen { value: of.forks.clone(), at, from };
                let receiver = Receiver {
                    status: Some("streaming".into()),
                    timeline: Some(of.timeline),
                    slot: Some(self.agent.slot.clone()),
                    replayed: Some(target.standby.replayed),
                };
                pieces.receiver = Piece::Seen { value: receiver, at, from };
            }
        }
    }

    /// Somebody works on a source: mostly on the one behind the name.
    fn work(&mut self) {
        let at = if self.dice.once_in(8) { self.dice.place(self.servers.len()) } else { self.name };
        if !self.servers[at].alive {
            return;
        }
        let many = self.servers[at].transactions.len();
        if many > 0 && (many > 3 || !self.dice.once_in(3)) {
            let which = self.dice.place(many);
            self.say(|world| format!("source {at}: {:?} goes on", world.servers[at].transactions[which]));
            self.servers[at].advance(which, self.now, &mut self.dice);
            return;
        }
        if self.setup.alone && !self.writing {
            return;
        }
        let (ours, client) = match self.dice.below(5) {
            0 => (false, true),
            1 => (true, false),
            _ => (true, true),
        };
        if ours && client && !self.writing {
            return;
        }
        let published = ours && client && !self.dice.once_in(5);
        let counts = published || ours && client && self.setup.kind == Kind::Standby;
        if counts && self.serials == SERIALS {
            return;
        }
        let serial = counts.then(|| {
            self.serials += 1;
            self.serials - 1
        });
        let content = Content { serial, published, streamed: published && self.dice.once_in(5) };
        let hasty = self.dice.once_in(4);
        self.servers[at].begin(content, ours, client, hasty);
        self.say(|_| format!("source {at}: begin {content:?} ours {ours} client {client} hasty {hasty}"));
    }

    /// What servers do by themselves, and connections.
    fn upkeep(&mut self) {
        let at = self.name;
        match self.dice.below(4) {
            _ if !self.servers[at].alive => self.servers[at].alive = true,
            0 | 1 => self.servers[at].flush(),
            2 => self.servers[at].running_xacts(self.now, &mut self.dice),
            _ => self.servers[at].checkpoint(self.now, &mut self.dice),
        }
    }

    /// The operator does the next thing.
    fn operate(&mut self) {
        let at = self.name;
        if self.caller.is_none() && self.agent.fence.is_none() && self.stage == Stage::Fenced {
            // walgate has forgotten it.
            self.stage = Stage::Stopping;
        }
        match self.stage {
            Stage::Usual(0) => {
                self.writing = !self.setup.careful && self.dice.once_in(3);
                self.stage = Stage::Stopping;
                self.say(|world| format!("operator: stops writers, but for {}", world.writing));
            }
            Stage::Usual(left) => self.stage = Stage::Usual(left.saturating_sub(8)),
            Stage::Stopping if !self.setup.careful && self.dice.once_in(2) => self.stage = Stage::Fencing,
            Stage::Stopping => {
                let alone = self.setup.alone;
                let server = &mut self.servers[at];
                let Some(which) = server.transactions.iter().position(|t| t.ours && t.client || alone) else {
                    self.stage = Stage::Fencing;
                    return;
                };
                match self.dice.once_in(2) {
                    true => server.kill(which, self.now, &mut self.dice),
                    false => server.advance(which, self.now, &mut self.dice),
                }
            }
            Stage::Fencing if self.setup.caller => {
                self.servers[at].flush();
                self.excused |= self.unseen;
                self.caller = Some(self.servers[at].flushed);
                self.stage = Stage::Fenced;
                self.say(|world| format!("operator: names {:?}", world.caller));
            }
            Stage::Fencing => self.fence(),
            Stage::Fenced => {
                if !self.setup.careful {
                    self.writing = self.dice.once_in(2);
                }
                let lost = self.agent.fence.as_ref().is_some_and(|f| f.lost.is_some() || f.stray.is_some());
                // What cannot be told of this fence may be told of the next.
                let untold = self.outcome.last.as_ref().is_some_and(|verdict| verdict.state == Status::Unknown);
                if lost || untold && self.dice.once_in(4) || self.dice.once_in(40) {
                    self.stage = Stage::Stopping;
                }
            }
        }
    }

    fn fence(&mut self) {
        let (now, since) = (self.instant(), self.now);
        for _ in 0..=self.dice.below(4) {
            let how = (self.setup.barrier, self.setup.messages);
            let took = self.agent.step_fence(&mut self.servers, self.name, how, (now, since), &mut self.dice);
            match took {
                Took::Nothing | Took::Stepped => {}
                Took::Refused => {
                    self.stage = Stage::Stopping;
                    self.say(|_| "operator: the fence is refused".into());
                    return;
                }
                Took::Set(at) => {
                    self.excused |= self.unseen;
                    self.stage = Stage::Fenced;
                    self.say(|world| {
                        let quiet = world.agent.fence.as_ref().and_then(|fence| fence.quiet_until);
                        format!("operator: the fence is set at {at}, quiet until {quiet:?}")
                    });
                    return;
                }
            }
        }
    }

    /// Asks the gate, where a pass would be wrong, or now and then.
    fn ask(&mut self) {
        let Some(moment) = self.agent.moment() else { return };
        let Some(history) = self.agent.speaks_of() else { return };
        let since = moment.saturating_duration_since(self.base);
        // Whatever it rests on, an answer is never older than it promises.
        let by = since.max(self.now.saturating_sub(self.terms.limits.staleness));
        let Some(server) = self.servers.iter().find(|server| server.history() == history) else { return };
        let Some(target) = self.caller.or(self.agent.fence.as_ref().map(|fence| fence.target_lsn)) else { return };
        // What was written behind the fence makes a pass wrong though it may have arrived.
        let missing =
            server.committed(Lsn::INVALID, by) & !self.excused & !self.arrived() | server.committed(target, by);
        if missing == 0 && self.setup.faults && !self.dice.once_in(4) {
            return;
        }
        let now = self.instant();
        let Some(verdict) = self.agent.ask(&self.terms, self.caller, now) else { return };
        self.outcome.asked += 1;
        self.say(|_| {
            let checks = verdict.checks.iter().filter(|check| check.status != Status::Skip);
            let checks: Vec<String> =
                checks.map(|check| format!("{} {}: {}", check.id, check.status, check.observed)).collect();
            format!(
                "gate: {} ({}) by {:.3}, missing {missing:b}\n            {}",
                verdict.state,
                verdict.reason,
                by.as_secs_f64(),
                checks.join("\n            ")
            )
        });
        if passes(&verdict) {
            self.outcome.passes += 1;
            if missing != 0 {
                let which: Vec<u32> = (0..SERIALS).filter(|serial| missing >> serial & 1 == 1).collect();
                self.outcome.wrong =
                    Some(format!("{}; but {which:?} have not arrived, or were written since", verdict.reason));
            }
        }
        self.outcome.last = Some(verdict);
    }

    /// A slot that walgate had not seen may have been another, unless a position is known that it must hold.
    pub(crate) fn excuse_unseen(&mut self) {
        if self.agent.fence.is_none() && self.caller.is_none() {
            self.excused |= self.unseen;
        }
    }

    /// What the consumer has, by what its kind can prove.
    pub(crate) fn arrived(&self) -> Set {
        match self.setup.kind {
            Kind::Standby => {
                let of = &self.servers[self.standby.of];
                let replayed = of.wal.iter().filter(|record| record.end <= self.standby.replayed);
                let commits = replayed.filter_map(|record| match record.what {
                    What::Commit(content) | What::CommitPrepared(content) => content.serial,
                    _ => None,
                });
                commits.fold(0, |set, serial| set | 1 << serial)
            }
            _ if self.setup.asks_replica || self.setup.kind == Kind::Subscription => self.consumer.applied,
            _ => self.consumer.stored,
        }
    }

    /// Moves what is under way on the streams.
    pub(crate) fn pump(&mut self) {
        if self.setup.kind == Kind::Standby {
            return self.pump_standby();
        }
        self.connect();
        for which in (0..self.streams.len()).rev() {
            for _ in 0..2 + self.dice.below(8) {
                self.move_one(which);
            }
            self.reap(which);
        }
    }

    fn pump_standby(&mut self) {
        let of = self.standby.of;
        let server = &mut self.servers[of];
        if !server.alive {
            return;
        }
        match self.dice.below(3) {
            0 => {
                let ends = server.wal.iter().filter(|record| record.end <= server.flushed).map(|record| record.end);
                let beyond: Vec<Lsn> = ends.filter(|end| *end > self.standby.received).collect();
                if !beyond.is_empty() {
                    self.standby.received = beyond[self.dice.place(beyond.len())];
                }
            }
            1 => self.standby.replayed = self.standby.received,
            _ => {
                let pid = server.slot.as_ref().and_then(|slot| slot.reader).unwrap_or_else(|| server.pid());
                server.slot.iter_mut().for_each(|slot| slot.reader = Some(pid));
                server.confirm(self.standby.received, self.standby.replayed);
            }
        }
    }

    /// Who is not connected connects.
    fn connect(&mut self) {
        let (now, at) = (self.instant(), self.name);
        if !self.servers[at].alive {
            return;
        }
        if self.setup.observe == Observe::Slot
            && !self.streams.iter().any(|stream| stream.way == Way::Copy)
            && !self.agent.lag.history().is_some_and(|watched| watched.contradicts(self.servers[at].history()))
            && let Some(mut copy) = Stream::start(at, &self.servers[at], Way::Copy, 0, Lsn::INVALID)
        {
            copy.attachment = self.agent.lag.attach_copy(&self.agent.slot.clone(), "here", false, now);
            if copy.attachment.is_some() {
                self.say(|_| "walgate copies the slot".into());
                self.streams.push(copy);
            }
        }
        let free = self.servers[at].slot.is_some_and(|slot| slot.reader.is_none());
        let has = self.streams.iter().any(|s| matches!(s.way, Way::Proxied | Way::Direct) && s.consumer_side);
        if !free || has {
            return;
        }
        let pid = self.servers[at].pid();
        let (wants, way) = (self.consumer.wants(), self.setup.way);
        let Some(mut stream) = Stream::start(at, &self.servers[at], way, pid, wants) else { return };
        self.note_skipped(at, wants);
        if way == Way::Proxied {
            let lag = &mut self.agent.lag;
            if self.setup.identifies {
                lag.identify(self.servers[at].history());
            }
            let attachment = lag.attach(self.agent.slot.clone(), SlotKind::Logical, "here", None);
            lag.stream(&attachment).expect("it was attached").served_by(Some(pid));
            stream.attachment = Some(attachment);
        }
        self.consumer.restart();
        self.servers[at].slot.iter_mut().for_each(|slot| slot.reader = Some(pid));
        self.say(|_| format!("consumer connects to {at} as {pid} from {wants}"));
        self.streams.push(stream);
    }

    /// A consumer that begins behind what the server would send will never get that.
    fn note_skipped(&mut self, at: usize, wants: Lsn) {
        for record in self.servers[at].wal.iter().filter(|record| record.start < wants) {
            if let What::Commit(Content { serial: Some(serial), .. })
            | What::CommitPrepared(Content { serial: Some(serial), .. }) = record.what
            {
                self.missed |= (1 << serial) & !self.consumer.stored;
            }
        }
    }

    fn move_one(&mut self, which: usize) {
        let (now, dice) = (self.instant(), &mut self.dice);
        let stream = &mut self.streams[which];
        let at = stream.server;
        let server = &mut self.servers[at];
        let time = server.clock(self.now);
        let serves = stream.server_side && server.alive && server.lives == stream.life;
        let reads = matches!(stream.way, Way::Proxied | Way::Direct) && stream.consumer_side;
        match dice.below(12) {
            0..=2 if serves => {
                stream.decode(server, time, self.setup.empty_too);
            }
            3 | 4 => {
                let message = stream.down[0].front().copied();
                if let Some(serial) = stream.pass_down(&mut self.agent.lag, now) {
                    self.agent.tapped |= 1 << serial;
                }
                if message.is_some() && self.log.is_some() {
                    let followed = self.agent.lag.followed(&self.agent.slot, Lsn(u64::MAX));
                    self.say(|_| format!("stream {which}: {message:?} {followed:?}"));
                }
            }
            5 | 6 => {
                let Some(message) = stream.down[1].pop_front() else { return };
                if reads {
                    self.consumer.receive(&message.what);
                }
            }
            7 if reads => {
                self.consumer.store(dice);
            }
            8 if reads => stream.up[0].push_back(self.consumer.says(dice)),
            9 => {
                let update = stream.up[0].front().copied();
                if stream.pass_up(&mut self.agent.lag, now) {
                    self.say(|_| format!("stream {which}: {update:?}"));
                }
            }
            10 if serves => {
                stream.arrive(server, time);
            }
            11 if serves => match dice.below(3) {
                0 if stream.way == Way::Proxied => stream.probe(),
                1 => self.consumer.apply(),
                _ => stream.keepalive(dice.once_in(2), time),
            },
            _ => {}
        }
    }

    /// What has ended is noticed, by each side in its own time.
    fn reap(&mut self, which: usize) {
        let stream = &mut self.streams[which];
        let server = &mut self.servers[stream.server];
        let ended = !server.alive || server.lives != stream.life;
        if stream.server_side && (ended || !stream.consumer_side && self.dice.once_in(2)) {
            stream.server_side = false;
            if let Some(slot) = server.slot.as_mut().filter(|slot| slot.reader == Some(stream.pid)) {
                slot.reader = None;
            }
        }
        if !stream.server_side
            && self.dice.once_in(2)
            && (!stream.consumer_side || stream.is_still() || self.dice.once_in(3))
        {
            let stream = self.streams.remove(which);
            if let Some(consumer) = stream.attachment.as_ref().and_then(|a| self.agent.lag.stream(a)) {
                consumer.detach();
            }
            if stream.consumer_side && matches!(stream.way, Way::Proxied | Way::Direct) {
                self.consumer.restart();
            }
            self.say(|_| format!("the stream of {} ends", stream.pid));
        }
    }
}
