//! The consumer, and the target that it writes to.

use walgate::lsn::Lsn;
use walgate::time::PgTimestamp;
use walgate::wire::copy_both::StatusUpdate;

use crate::dice::Dice;
use crate::server::Set;
use crate::stream::Sent;

#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) habits: Habits,
    /// What it has received and not stored; a crash loses it.
    received: Vec<Received>,
    /// What it has stored: it will never ask for it again.
    pub(crate) stored: Set,
    /// What it has applied of that: what its readers see.
    pub(crate) applied: Set,
    /// Of the last that it has stored, and of the last that it has applied.
    stored_to: Reached,
    pub(crate) applied_to: Reached,
    /// The position of the last keepalive.
    told: Lsn,
    /// How far it has heard of the server, since its stream began.
    pub(crate) heard: Lsn,
    answers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Habits {
    /// Acknowledges where the last commit begins, and not where it ends.
    pub(crate) by_commit: bool,
    /// Applies later than it acknowledges.
    pub(crate) applies_later: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) commit: Lsn,
    pub(crate) end: Lsn,
}

#[derive(Clone, Copy, Debug)]
struct Received {
    serial: Option<u32>,
    reached: Reached,
}

impl Consumer {
    pub(crate) fn new(habits: Habits) -> Consumer {
        Consumer {
            habits,
            received: Vec::new(),
            stored: 0,
            applied: 0,
            stored_to: Reached::default(),
            applied_to: Reached::default(),
            told: Lsn::INVALID,
            heard: Lsn::INVALID,
            answers: false,
        }
    }

    /// Where it wants a stream to begin.
    pub(crate) fn wants(&self) -> Lsn {
        if self.habits.by_commit { self.stored_to.commit } else { self.stored_to.end }
    }

    /// It is started anew, or its stream is: what it had not stored is gone.
    pub(crate) fn restart(&mut self) {
        self.received.clear();
        (self.told, self.heard) = (Lsn::INVALID, Lsn::INVALID);
        self.answers = false;
    }

    /// It is set up anew from a copy of everything that was committed before that position.
    pub(crate) fn copy_all(&mut self, all: Set, at: Lsn) {
        self.restart();
        self.stored |= all;
        self.applied |= all;
        self.stored_to = Reached { commit: at, end: at };
        self.applied_to = self.stored_to;
    }

    pub(crate) fn receive(&mut self, sent: &Sent) {
        match *sent {
            Sent::Commit(record, content) | Sent::StreamCommit(record, content) if content.published => {
                let reached = Reached { commit: record.start, end: record.end };
                self.heard = self.heard.max(record.end);
                self.received.push(Received { serial: content.serial, reached });
            }
            Sent::Keepalive { end, reply } => {
                self.told = self.told.max(end);
                self.heard = self.heard.max(end);
                self.answers |= reply;
            }
            _ => {}
        }
    }

    /// Stores what it has received, as far as it comes.
    pub(crate) fn store(&mut self, dice: &mut Dice) -> bool {
        let many = (dice.place(self.received.len() + 1) + 1).min(self.received.len());
        for received in self.received.drain(..many) {
            self.stored |= received.serial.map_or(0, |serial| 1 << serial);
            self.stored_to = received.reached;
        }
        if !self.habits.applies_later {
            self.apply();
        }
        many > 0
    }

    pub(crate) fn apply(&mut self) {
        self.applied = self.stored;
        self.applied_to = self.stored_to;
    }

    /// What it says of itself when it says something.
    pub(crate) fn says(&mut self, dice: &mut Dice) -> StatusUpdate {
        self.answers = false;
        let idle = self.received.is_empty();
        let own = self.wants();
        let position = match dice.below(8) {
            0 => Lsn::INVALID,
            _ if idle => own.max(self.told),
            _ => own,
        };
        let update = StatusUpdate::all(position, PgTimestamp(0));
        StatusUpdate { reply_requested: dice.once_in(4), ..update }
    }
}
