//! From what is known of a consumer to what is said of it: the figures, how far they can be trusted, where the delay
//! is, and when it will be over.

use std::time::{Duration, Instant};

use crate::lsn::Lsn;
use crate::time::PgTimestamp;

use super::clock::WalClock;
use super::consumer::Consumer;
use super::poll::{SlotRow, SourcePoll};
use super::reading::{Copied, Reading, Untapped};
use super::report::{Lag, Observe, SlotKind, Stage, State};
use super::timeline::Pending;
use super::transactions::Transactions;

/// How long a look at the source vouches that nothing is undecoded: the poller looks once a second.
const VOUCHES: Duration = Duration::from_secs(3);

/// How long what the server has sent, or what it has asked for, may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Every position there is.
const EVERYTHING: Lsn = Lsn(u64::MAX);

/// A look at the source that is not too old to count.
pub(super) struct Look<'a> {
    pub(super) poll: &'a SourcePoll,
    /// The consumer's own slot.
    pub(super) row: Option<&'a SlotRow>,
    /// When it was asked for.
    pub(super) at: Instant,
    pub(super) age: Duration,
    pub(super) wal: &'a WalClock,
}

impl Look<'_> {
    /// Seconds at this server time since WAL did not reach beyond `position`: nothing behind it is older.
    fn age_of(&self, position: Lsn, now: PgTimestamp) -> Option<f64> {
        self.wal.last_within(position).map(|time| now.since(time).as_secs_f64())
    }

    fn server_now(&self) -> PgTimestamp {
        self.poll.server_time.plus(self.age)
    }
}

/// What is said of a consumer.
#[derive(Debug)]
pub(super) struct Estimate {
    pub(super) state: State,
    pub(super) stage: Option<Stage>,
    pub(super) lag: Lag,
    pub(super) eta_seconds: Option<f64>,
    /// How old the evidence is.
    pub(super) age: Option<Duration>,
    pub(super) observe: Observe,
    /// Why it was not observed any better.
    pub(super) reason: Option<String>,
}

impl Estimate {
    /// From what was seen on its stream or its copy's, and in the last look that counts.
    pub(super) fn of(consumer: &Consumer, look: Option<&Look<'_>>, stale_after: Duration, now: Instant) -> Estimate {
        if let Some(row) = look.and_then(|look| look.row).filter(|row| row.is_lost()) {
            let why = row.invalidation_reason.as_deref().unwrap_or("it fell too far behind");
            let reason = format!("the slot is lost ({why}): its consumer must be set up anew");
            return Estimate { age: look.map(|look| look.age), ..unknown(State::Unknown, Observe::Poll, Some(reason)) };
        }
        if let Some(look) = look.filter(|_| consumer.is_doubtful()) {
            return by_positions(consumer, look);
        }
        let known_up_to = consumer.decoded.max(consumer.acked().unwrap_or_default()).valid();
        match (&consumer.reading, look, known_up_to) {
            (Reading::Stream(..), _, Some(decoded)) => by_stream(consumer, look, decoded, stale_after, now),
            // Its stream has ended; what it has not acknowledged by then is still known.
            (Reading::Nowhere, _, Some(decoded))
                if consumer.last_frame.is_some()
                    && (look.is_none() || consumer.timeline.pending(EVERYTHING).most.transactions > 0) =>
            {
                by_stream(consumer, look, decoded, stale_after, now)
            }
            (Reading::Copy(_, copied, transactions), Some(look), Some(decoded)) if look.at >= copied.at => {
                by_copy(consumer, look, decoded, *copied, transactions)
            }
            (_, Some(look), _) => by_positions(consumer, look),
            (Reading::Stream(..), None, _) => unknown(State::Unknown, Observe::Proxy, None),
            (_, None, _) => {
                let age = consumer.last_look.map(|at| now.saturating_duration_since(at));
                let state = if age.is_some() { State::Stale } else { State::Unknown };
                Estimate { age, ..unknown(state, Observe::Poll, why_poll(consumer, None)) }
            }
        }
    }
}

/// Nothing is said but why.
fn unknown(state: State, observe: Observe, reason: Option<String>) -> Estimate {
    Estimate { state, stage: None, lag: Lag::default(), eta_seconds: None, age: None, observe, reason }
}

/// From its own stream: exact at this moment, where the last look finds nothing undecoded.
fn by_stream(
    consumer: &Consumer,
    look: Option<&Look<'_>>,
    decoded: Lsn,
    stale_after: Duration,
    now: Instant,
) -> Estimate {
    let heard = consumer.last_frame_age(now);
    let age = look.map(|look| look.age).or(heard);
    if look.is_none() && heard.is_none_or(|heard| heard > stale_after) {
        return Estimate { age, ..unknown(State::Stale, Observe::Proxy, None) };
    }
    // A stream that has said nothing yet has no clock: then the poller's counts.
    let Some(server_now) = consumer.clock.now(now).or_else(|| look.map(Look::server_now)) else {
        return unknown(State::Unknown, Observe::Proxy, None);
    };
    let (open, begun, certain) = match &consumer.reading {
        Reading::Stream(_, transactions) => {
            (Some(transactions.open()), transactions.begun(), transactions.begun_with_changes())
        }
        _ => (None, None, None),
    };
    let pending = consumer.timeline.pending(EVERYTHING);
    let undecoded = look.map(|look| look.poll.flushed.bytes_since(decoded));
    let seconds = ages(&pending, begun, certain, server_now);
    let lag = Lag {
        seconds: seconds.least,
        seconds_max: look.and_then(|look| seconds.most(consumer, look, decoded, server_now)),
        transactions: Some(pending.least.transactions),
        rows: Some(pending.least.volume.rows),
        bytes: Some(pending.least.volume.bytes),
        bytes_max: Some(pending.most.volume.bytes),
        undecoded_wal_bytes: undecoded,
        open_transactions: open.map(|(transactions, _)| transactions),
        open_bytes: open.map(|(_, bytes)| bytes),
    };
    // What was written since the last look is not known yet: a look that is overdue vouches for nothing.
    let exact = undecoded == Some(0)
        && begun.is_none()
        && pending.is_exact()
        && consumer.timeline.foreign() == 0
        && look.is_some_and(|look| look.age <= VOUCHES);
    let overdue = |since: Instant| now.saturating_duration_since(since) >= ON_ITS_WAY;
    let stage = match (pending.most.transactions, undecoded) {
        (1.., _) => Some(Stage::Consumer),
        (0, _) if consumer.is_full_for(ON_ITS_WAY, now) => Some(Stage::Consumer),
        (0, _) if begun.is_some() => Some(Stage::Walsender),
        (0, Some(0)) => Some(Stage::None),
        // The server does not say how far it is while it waits for an answer.
        (0, Some(_)) if consumer.asked.is_some_and(overdue) => Some(Stage::Consumer),
        (0, Some(_)) if consumer.said_sent.is_some_and(|(said, at)| said > decoded && overdue(at)) => {
            Some(Stage::Network)
        }
        (0, Some(_)) => Some(Stage::Walsender),
        (0, None) => None,
    };
    let eta_seconds = eta(consumer, &pending, undecoded);
    let state = if exact { State::Live } else { State::Bounded };
    let ended = matches!(consumer.reading, Reading::Nowhere);
    let reason = ended.then(|| "its stream through the proxy has ended".into());
    Estimate { state, stage, lag, eta_seconds, age, observe: Observe::Proxy, reason }
}

/// From a copy of its slot: exact at the moment of the last look, where the copy is decoded up to there.
fn by_copy(
    consumer: &Consumer,
    look: &Look<'_>,
    decoded: Lsn,
    copied: Copied,
    transactions: &Transactions,
) -> Estimate {
    let server_now = look.poll.server_time;
    let pending = consumer.timeline.pending(look.poll.flushed);
    let undecoded = look.poll.flushed.bytes_since(decoded);
    let [begun, certain] =
        [transactions.begun(), transactions.begun_with_changes()].map(|time| time.filter(|_| undecoded > 0));
    let seconds = ages(&pending, begun, certain, server_now);
    let (open_transactions, open_bytes) = transactions.open();
    let guess = copied.assumed && pending.most.transactions > 0;
    let counted = |figure: u64| (!guess).then_some(figure);
    let lag = Lag {
        seconds: seconds.least.filter(|_| !guess),
        seconds_max: seconds.most(consumer, look, decoded, server_now),
        transactions: counted(pending.least.transactions),
        rows: counted(pending.least.volume.rows),
        bytes: counted(pending.least.volume.bytes),
        bytes_max: Some(pending.most.volume.bytes),
        undecoded_wal_bytes: Some(undecoded),
        open_transactions: counted(open_transactions),
        open_bytes: counted(open_bytes),
    };
    let exact = undecoded == 0 && pending.is_exact() && consumer.timeline.foreign() == 0 && !guess;
    let stage = match (pending.most.transactions, undecoded) {
        (0, 0) => Stage::None,
        (1.., _) => stage_of_row(look.row, look.poll.flushed),
        (0, _) => Stage::Walsender,
    };
    let reason = guess.then(|| {
        format!(
            "the options that its consumer gives are not known; in all publications {} transactions of {} rows wait",
            pending.most.transactions, pending.most.volume.rows
        )
    });
    Estimate {
        state: if exact && look.age <= VOUCHES { State::Live } else { State::Bounded },
        stage: Some(stage),
        lag,
        eta_seconds: eta(consumer, &pending, Some(undecoded)),
        age: Some(look.age),
        observe: Observe::Slot,
        reason,
    }
}

/// From positions alone: bounds, but where the consumer has acknowledged all that there is.
fn by_positions(consumer: &Consumer, look: &Look<'_>) -> Estimate {
    let Some(acked) = consumer.acked() else {
        let reason = why_poll(consumer, look.row);
        return Estimate { age: Some(look.age), ..unknown(State::Unknown, Observe::Poll, reason) };
    };
    if consumer.ahead && !look.poll.in_recovery {
        let reason = "it has acknowledged more than the server has: one of them was restored from a backup".to_owned();
        return Estimate { age: Some(look.age), ..unknown(State::Unknown, Observe::Poll, Some(reason)) };
    }
    let behind = look.poll.flushed.bytes_since(acked);
    // Where nothing is left to be seen it cannot be seen any better.
    let reason = if behind == 0 { None } else { why_poll(consumer, look.row) };
    let nothing = (behind == 0).then_some(0);
    let counted = nothing.filter(|_| consumer.kind == SlotKind::Logical);
    let lag = Lag {
        seconds: nothing.map(|_| 0.0),
        seconds_max: if behind == 0 { Some(0.0) } else { look.age_of(acked, look.server_now()) },
        transactions: counted,
        rows: counted,
        bytes: counted,
        bytes_max: counted,
        undecoded_wal_bytes: Some(behind),
        open_transactions: None,
        open_bytes: None,
    };
    Estimate {
        state: if behind == 0 && look.age <= VOUCHES { State::Live } else { State::Bounded },
        stage: Some(if behind == 0 { Stage::None } else { stage_of_row(look.row, look.poll.flushed) }),
        lag,
        eta_seconds: consumer.pace.until_at_end(),
        age: Some(look.age),
        observe: Observe::Poll,
        reason,
    }
}

/// Where the delay is, by what the walsender says of itself: it reads on until it has sent everything.
fn stage_of_row(row: Option<&SlotRow>, flushed: Lsn) -> Stage {
    match row.and_then(|row| row.reader.sent) {
        Some(sent) if sent < flushed => Stage::Walsender,
        _ => Stage::Consumer,
    }
}

/// Why nothing better than positions is known.
fn why_poll(consumer: &Consumer, row: Option<&SlotRow>) -> Option<String> {
    if consumer.kind == SlotKind::Physical {
        return Some("physical replication is not decoded".into());
    }
    if let Some(plugin) = row.and_then(|row| row.plugin.as_deref()).filter(|plugin| *plugin != "pgoutput") {
        return Some(format!("its output plugin is {plugin}, not pgoutput"));
    }
    match &consumer.reading {
        Reading::Untapped(_, Untapped::Unwanted) => None,
        Reading::Untapped(_, Untapped::History) => {
            Some("the server's history has changed under its stream: it is followed again once it reconnects".into())
        }
        Reading::Untapped(_, reason) => Some(format!("its stream cannot be followed ({})", reason.as_str())),
        Reading::Stream(..) if consumer.is_doubtful() => {
            Some("its slot has gone back, by a crash or in another's place; what it had taken is not known".into())
        }
        Reading::Stream(..) => Some("its stream has only begun".into()),
        Reading::Copy(..) => Some("its slot was copied only now".into()),
        Reading::Nowhere => consumer.hindrance.clone(),
    }
}

/// Ages of the oldest that is pending.
struct Ages {
    /// Of the oldest that certainly is; `None` where something may be and nothing is certain.
    least: Option<f64>,
    /// Of the oldest that may be.
    possible: f64,
}

/// Of what is pending and of a transaction that is being sent, which `certain` is if it changes anything.
fn ages(pending: &Pending, begun: Option<PgTimestamp>, certain: Option<PgTimestamp>, now: PgTimestamp) -> Ages {
    let age = |time: Option<PgTimestamp>, sending: Option<PgTimestamp>| {
        time.into_iter().chain(sending).min().map(|time| now.since(time).as_secs_f64())
    };
    let nothing = pending.most.transactions == 0;
    Ages {
        least: age(pending.oldest, certain).or(nothing.then_some(0.0)),
        possible: age(pending.oldest_possible, begun).unwrap_or(0.0),
    }
}

impl Ages {
    /// The most that it can be: what is not decoded, and what another clock has dated, is no older than its position.
    fn most(&self, consumer: &Consumer, look: &Look<'_>, decoded: Lsn, now: PgTimestamp) -> Option<f64> {
        let mut most = self.possible;
        if look.poll.flushed > decoded {
            most = most.max(look.age_of(decoded, now)?);
        }
        if consumer.timeline.foreign() > 0 {
            most = most.max(look.age_of(consumer.acked()?, now)?);
        }
        Some(most)
    }
}

/// Seconds until everything is decoded and acknowledged; `None` where it is not getting less, or one transaction makes
/// up most of it, whose acknowledgement comes all at once.
fn eta(consumer: &Consumer, pending: &Pending, undecoded: Option<u64>) -> Option<f64> {
    let decoded = match undecoded? {
        0 => 0.0,
        _ => consumer.pace.until_decoded()?,
    };
    let acked = match pending.most.transactions {
        0 => 0.0,
        _ if consumer.timeline.is_mostly_one() => return None,
        _ => consumer.pace.until_acked(pending.most.volume.bytes)?,
    };
    Some(decoded.max(acked))
}
