//! All consumers of one source, and what the poller sees of the source itself.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::ident::SlotName;
use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::wire::command::StartReplication;

use super::clock::WalClock;
use super::consumer::{Consumer, Followed};
use super::estimate::{Estimate, Look};
use super::events::{Conditions, Event};
use super::latency::AckLatency;
use super::life::SlotLife;
use super::poll::{History, SourcePoll};
use super::reading::Copied;
use super::report::{ConsumerReport, Observe, Positions, SlotKind, SlotReport, State};

/// One stream of a consumer or of a copy of its slot, from its start to its end.
#[derive(Clone, Debug)]
pub struct Attachment {
    slot: SlotName,
    id: u64,
    /// Shared with the consumer, so that it can be set without a look into the model.
    full: Arc<AtomicBool>,
}

impl Attachment {
    /// Whose stream it is.
    pub fn slot(&self) -> &SlotName {
        &self.slot
    }

    /// Notes whether the consumer has left its socket full.
    #[inline]
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }
}

/// One source with its consumers.
#[derive(Debug)]
pub struct SourceLag {
    name: String,
    observe: Observe,
    stale_after: Duration,
    consumers: BTreeMap<SlotName, Consumer>,
    history: Option<History>,
    attachments: u64,
    wal: WalClock,
    poll: Option<(SourcePoll, Instant)>,
    /// The furthest WAL that a server was seen to have flushed.
    furthest: Option<(Box<str>, Lsn)>,
    conditions: Conditions,
    publications: Vec<String>,
    /// The slots whose copies are of use; all, without it.
    copied: Option<BTreeSet<SlotName>>,
    /// The slots whose copies are of use even where nothing is pending.
    kept: BTreeSet<SlotName>,
    /// Every slot that was ever seen, by the system that it was seen on: another one may be there for a while only.
    lives: BTreeMap<(u64, SlotName), SlotLife>,
    /// The systems that were ever looked at.
    looked: BTreeSet<u64>,
}

impl SourceLag {
    /// A source of which nothing has been seen, to be observed in this way at best. Evidence older than `stale_after`
    /// does not count.
    pub fn new(name: impl Into<String>, observe: Observe, stale_after: Duration) -> SourceLag {
        SourceLag {
            name: name.into(),
            observe,
            stale_after,
            consumers: BTreeMap::new(),
            history: None,
            attachments: 0,
            wal: WalClock::default(),
            poll: None,
            furthest: None,
            conditions: Conditions::default(),
            publications: Vec::new(),
            copied: None,
            kept: BTreeSet::new(),
            lives: BTreeMap::new(),
            looked: BTreeSet::new(),
        }
    }

    /// Observes in this way at best, and counts evidence up to this age, from now on.
    pub fn set_terms(&mut self, observe: Observe, stale_after: Duration) {
        (self.observe, self.stale_after) = (observe, stale_after);
    }

    /// Takes what the poller has seen in a look that it began at `now`. A consumer that is not streaming goes with its
    /// slot.
    pub fn poll(&mut self, poll: SourcePoll, now: Instant) {
        self.identify(poll.history);
        // WAL that is shorter than it was is of a server that was restored, whatever it calls itself.
        if self.furthest.as_ref().is_some_and(|(server, flushed)| *server == poll.server && poll.flushed < *flushed) {
            self.forget();
        }
        self.furthest = Some((poll.server.clone(), poll.flushed));
        self.wal.sample(poll.flushed, poll.server_time);
        self.consumers.retain(|slot, consumer| {
            consumer.is_attached() || poll.slots.contains_key(slot) || is_elsewhere(consumer, &poll)
        });
        let system = poll.history.system;
        for ((of, slot), life) in &mut self.lives {
            if *of == system && !poll.slots.contains_key(slot) {
                life.gone();
            }
        }
        let looked_before = !self.looked.insert(system);
        for (slot, row) in &poll.slots {
            let renewed = match self.lives.entry((system, slot.clone())) {
                Entry::Occupied(mut known) => !known.get_mut().goes_on(row, poll.flushed, poll.still, now),
                Entry::Vacant(new) => {
                    new.insert(SlotLife::new(row, poll.flushed, poll.still, looked_before, now));
                    false
                }
            };
            let consumer = self.consumers.entry(slot.clone()).or_insert_with(|| Consumer::new(row.kind));
            if !is_elsewhere(consumer, &poll) {
                consumer.polled(row, renewed, poll.flushed, now);
            }
        }
        self.poll = Some((poll, now));
    }

    /// Takes when WAL reached which position before the first look, oldest first, so that what lies behind is dated
    /// too.
    pub fn date(&mut self, history: History, samples: impl IntoIterator<Item = (Lsn, PgTimestamp)>) {
        self.identify(history);
        if self.wal.is_empty() {
            samples.into_iter().for_each(|(flushed, time)| self.wal.sample(flushed, time));
        }
    }

    /// The poller has lost its session: what it saw last vouches for nothing any more.
    pub fn lost(&mut self) {
        self.poll = None;
    }

    /// The server says which history it is of. After a failover or a restore nothing that was known holds:
    /// every consumer starts anew, as unknown.
    pub fn identify(&mut self, history: History) {
        if self.history.is_some_and(|known| known.contradicts(history)) {
            self.forget();
        }
        let timeline = history.timeline.or(self.history.and_then(|known| known.timeline));
        self.history = Some(History { timeline, ..history });
    }

    /// Nothing that was seen holds any more.
    fn forget(&mut self) {
        for consumer in self.consumers.values_mut() {
            consumer.forget();
        }
        self.wal = WalClock::default();
        self.poll = None;
        self.furthest = None;
        // A slot that is found on a promoted server may have been created there, behind what its consumer has.
        self.lives.values_mut().for_each(SlotLife::gone);
    }

    /// A stream of a slot has started through the proxy, from this server, by this command where it was understood. It
    /// takes the place of an earlier one that has not ended (the server lets only one read a slot, so that one is dead)
    /// and of a copy.
    pub fn attach(
        &mut self,
        slot: SlotName,
        kind: SlotKind,
        server: &str,
        command: Option<StartReplication>,
    ) -> Attachment {
        self.attachments += 1;
        let id = self.attachments;
        let consumer = self.consumers.entry(slot.clone()).or_insert_with(|| Consumer::new(kind));
        let full = Arc::default();
        consumer.attach(id, kind, server, command, Arc::clone(&full));
        Attachment { slot, id, full }
    }

    /// A copy of a slot was made at `now`, on this server; `assumed` if it is of all publications because the consumer's
    /// are not known. `None` if the consumer's own stream passes the proxy, which is better, or the slot is gone.
    pub fn attach_copy(&mut self, slot: &SlotName, server: &str, assumed: bool, now: Instant) -> Option<Attachment> {
        let consumer = self.consumers.get_mut(slot).filter(|consumer| !consumer.is_attached())?;
        self.attachments += 1;
        consumer.attach_copy(self.attachments, server, Copied { at: now, assumed });
        Some(Attachment { slot: slot.clone(), id: self.attachments, full: Arc::default() })
    }

    /// No copy of a slot can be had, and why.
    pub fn hinder(&mut self, slot: &SlotName, why: String) {
        if let Some(consumer) = self.consumers.get_mut(slot) {
            consumer.hindrance = Some(why);
        }
    }

    /// What has changed since the last time this was asked, of consumers that the last look shows.
    pub fn changes(&mut self, now: Instant) -> Vec<Event> {
        let reports = self.reports(now);
        let Some((poll, _)) = &self.poll else { return Vec::new() };
        self.conditions.take(&reports, &self.name, poll.server_time)
    }

    /// Why no copy of a slot could be had when that was tried last.
    pub fn hindrance(&self, slot: &SlotName) -> Option<&str> {
        self.consumers.get(slot)?.hindrance.as_deref()
    }

    /// The consumer that a stream belongs to; `None` once another stream or a new history took its place.
    pub fn stream(&mut self, stream: &Attachment) -> Option<&mut Consumer> {
        self.consumers.get_mut(&stream.slot).filter(|consumer| consumer.attachment() == Some(stream.id))
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The age at which evidence no longer counts.
    pub fn stale_after(&self) -> Duration {
        self.stale_after
    }

    /// How its consumers are observed at best.
    pub fn observe(&self) -> Observe {
        self.observe
    }

    /// Which history it is of, once that is known.
    pub fn history(&self) -> Option<History> {
        self.history
    }

    /// The last look, while it vouches for anything, and when it was begun.
    pub fn last_look(&self) -> Option<(&SourcePoll, Instant)> {
        self.poll.as_ref().map(|(poll, at)| (poll, *at))
    }

    /// The command that started a consumer's stream, once it was seen.
    pub fn command(&self, slot: &SlotName) -> Option<&StartReplication> {
        self.consumers.get(slot)?.command()
    }

    /// Follows copies of no other slots than these.
    pub fn copy_only(&mut self, slots: impl IntoIterator<Item = SlotName>) {
        self.copied = Some(slots.into_iter().collect());
    }

    /// Follows copies of these slots even while nothing is pending: a gate wants to know what comes.
    pub fn keep_copies(&mut self, slots: impl IntoIterator<Item = SlotName>) {
        self.kept = slots.into_iter().collect();
    }

    /// Whether a copy of this slot is of use even while nothing is pending.
    pub fn keeps_copy(&self, slot: &SlotName) -> bool {
        self.kept.contains(slot)
    }

    /// Takes these for the publications of every consumer that was not seen to start.
    pub fn assume_publications(&mut self, publications: Vec<String>) {
        self.publications = publications;
    }

    /// The publications of every consumer that was not seen to start, where somebody has said so; else none.
    pub fn assumed_publications(&self) -> &[String] {
        &self.publications
    }

    /// Whether a copy of this slot is of any use.
    pub fn wants_copy(&self, slot: &SlotName) -> bool {
        self.copied.as_ref().is_none_or(|copied| copied.contains(slot))
    }

    /// What a consumer's stream has shown up to a position; `None` where nobody reads along.
    pub fn followed(&self, slot: &SlotName, until: Lsn) -> Option<Followed> {
        self.consumers.get(slot)?.followed(until)
    }

    /// Since when a slot is the same.
    pub fn life(&self, slot: &SlotName) -> Option<&SlotLife> {
        self.lives.get(&(self.history?.system, slot.clone()))
    }

    /// Whether there is such a consumer.
    pub fn is_known(&self, slot: &SlotName) -> bool {
        self.consumers.contains_key(slot)
    }

    /// Whether a consumer's changes are seen, on its own stream or a copy's.
    pub fn is_followed(&self, slot: &SlotName) -> bool {
        self.consumers.get(slot).is_some_and(|consumer| consumer.attachment().is_some())
    }

    /// Seconds since each consumer's server was last heard on its stream.
    pub fn last_frame_ages(&self, now: Instant) -> impl Iterator<Item = (&SlotName, Duration)> {
        self.consumers.iter().filter_map(move |(slot, consumer)| Some((slot, consumer.last_frame_age(now)?)))
    }

    /// How long the commits of each consumer have waited for their acknowledgement, where its own stream shows that.
    pub fn ack_latencies(&self) -> impl Iterator<Item = (&SlotName, &AckLatency)> {
        self.consumers.iter().filter_map(|(slot, consumer)| Some((slot, consumer.ack_latency()?)))
    }

    /// Every consumer, in the order of the slots' names.
    pub fn reports(&self, now: Instant) -> Vec<ConsumerReport> {
        self.consumers.iter().map(|(slot, consumer)| self.report(slot, consumer, now)).collect()
    }

    /// Every slot as it was last seen, in the order of their names; none while nothing is fresh.
    pub fn slots(&self, now: Instant) -> Vec<SlotReport> {
        let fresh = self.poll.as_ref().filter(|(_, at)| now.saturating_duration_since(*at) <= self.stale_after);
        fresh.map(|(poll, _)| poll.slot_reports(&self.name)).unwrap_or_default()
    }

    fn report(&self, slot: &SlotName, consumer: &Consumer, now: Instant) -> ConsumerReport {
        let fresh = self.poll.as_ref().and_then(|(poll, at)| {
            let age = now.saturating_duration_since(*at);
            let counts = age <= self.stale_after && !is_elsewhere(consumer, poll);
            counts.then(|| Look { poll, row: poll.slots.get(slot), at: *at, age, wal: &self.wal })
        });
        let row = fresh.as_ref().and_then(|look| look.row);
        let estimate = Estimate::of(consumer, fresh.as_ref(), self.stale_after, now);
        let reason = estimate.reason.or_else(|| match (estimate.observe, self.observe) {
            _ if estimate.state == State::Live => None,
            (Observe::Poll, Observe::Proxy) => Some("its stream does not pass the proxy".into()),
            (Observe::Poll, Observe::Slot) => Some("its slot has not been copied yet".into()),
            _ => None,
        });
        ConsumerReport {
            source: self.name.clone(),
            slot: slot.clone(),
            kind: consumer.kind,
            plugin: row.and_then(|row| row.plugin.clone()),
            active: if consumer.is_attached() { Some(true) } else { row.map(|row| row.active) },
            state: estimate.state,
            stage: estimate.stage,
            retained_wal_bytes: fresh
                .as_ref()
                .zip(row.and_then(|row| row.restart_lsn))
                .map(|(look, restart)| look.poll.flushed.bytes_since(restart)),
            wal_status: row.and_then(|row| row.wal_status.clone()),
            safe_wal_bytes: row.and_then(|row| row.safe_wal_size),
            positions: Positions {
                server: fresh.as_ref().map(|look| look.poll.flushed),
                decoded: consumer.decoded(),
                sent: consumer.sent(),
                acked: consumer.acked(),
                applied: consumer.applied(),
            },
            rates: consumer.rates(),
            eta_seconds: estimate.eta_seconds,
            tables: if estimate.lag.transactions.is_some() { consumer.tables() } else { Vec::new() },
            observed_age_seconds: estimate.age.map(|age| age.as_secs_f64()),
            lag: estimate.lag,
            observe: estimate.observe,
            observe_reason: reason,
        }
    }
}

/// Whether a consumer streams from another server than the one that was looked at: positions of one say nothing about
/// the other.
fn is_elsewhere(consumer: &Consumer, poll: &SourcePoll) -> bool {
    !consumer.server().is_empty() && *consumer.server() != *poll.server
}
