//! What goes wrong.

use std::time::{Duration, Instant};

use walgate::gate::Kind;
use walgate::lsn::Lsn;

use crate::agent::Agent;
use crate::server::{Content, Server, Set, What};
use crate::stream::Way;
use crate::world::{Standby, World};

impl World {
    pub(crate) fn fault(&mut self) {
        match self.dice.below(16) {
            0 | 1 => self.crash_source(),
            2 => self.crash_walgate(),
            3..=5 => self.break_stream(),
            6 | 7 => self.renew_slot(),
            8 | 9 => self.fail_over(),
            10 | 15 => self.exchange(),
            11 => self.skew(),
            12 => {
                self.say(|_| "sessions of walgate's are cut".into());
                self.agent.cut_sessions();
            }
            _ => self.let_a_stranger_read(),
        }
    }

    fn crash_source(&mut self) {
        let at = self.name;
        self.say(|world| format!("source {at} crashes, and loses what is behind {}", world.servers[at].flushed));
        self.servers[at].crash();
        if self.dice.once_in(2) {
            self.servers[at].alive = false;
        }
        // Often everybody is back before walgate looks again.
        if self.dice.once_in(2) {
            for _ in 0..8 {
                self.pump();
            }
        }
    }

    fn crash_walgate(&mut self) {
        self.say(|_| "walgate is started anew".into());
        self.agent = Agent::new(self.setup.observe, self.agent.slot.clone(), self.mutant);
        self.excused |= self.missed;
        for stream in &mut self.streams {
            if matches!(stream.way, Way::Proxied | Way::Copy) {
                stream.attachment = None;
                stream.cut();
                if std::mem::take(&mut stream.consumer_side) && stream.way == Way::Proxied {
                    self.consumer.restart();
                }
            }
        }
    }

    fn break_stream(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        let which = self.dice.place(self.streams.len());
        let whole = self.dice.once_in(2);
        let stream = &mut self.streams[which];
        if !std::mem::take(&mut stream.consumer_side) {
            return;
        }
        stream.up[0].clear();
        if whole {
            stream.cut();
        }
        let (pid, way) = (stream.pid, stream.way);
        if matches!(way, Way::Proxied | Way::Direct) {
            self.consumer.restart();
        }
        self.say(|_| format!("the consumer's side of {pid} breaks"));
    }

    /// The slot is dropped and created again, with its consumer set up anew or not.
    fn renew_slot(&mut self) {
        let at = self.name;
        if self.setup.kind == Kind::Standby || !self.servers[at].alive {
            return;
        }
        let reader = self.servers[at].slot.and_then(|slot| slot.reader);
        for stream in &mut self.streams {
            if Some(stream.pid) == reader && stream.server == at {
                stream.server_side = false;
            }
        }
        // Creating one waits for what is under way.
        while !self.servers[at].transactions.is_empty() {
            self.servers[at].kill(0, self.now, &mut self.dice);
        }

        self.servers[at].create_slot(self.now, &mut self.dice);
        let server = &self.servers[at];
        let (all, confirmed, system) = (server.committed(Lsn::INVALID, self.now), server.flushed, server.system);
        let anew = self.dice.once_in(3);
        if anew {
            self.set_up_anew(all, confirmed);
        }
        let missed = all & !self.consumer.stored;
        self.missed |= missed;
        // While a slot is made, nothing is made of who takes it.
        let watched = |since: &Instant| self.instant().saturating_duration_since(*since) > Duration::from_secs(5);
        if !self.agent.seen_slot.get(&system).is_some_and(watched) {
            self.unseen |= missed;
            self.excuse_unseen();
        }
        self.say(|_| format!("a slot is created at {confirmed}, set up anew {anew}: {missed:b} missed"));
    }

    /// A standby of the source takes over, with all WAL or not, with the slot or not.
    fn fail_over(&mut self) {
        let old = self.name;
        let server = &self.servers[old];
        let ends: Vec<Lsn> = server.wal.iter().map(|record| record.end).filter(|end| *end <= server.flushed).collect();
        let Some(last) = ends.last() else { return };
        let end = if self.dice.once_in(2) { *last } else { ends[self.dice.place(ends.len())] };
        let slot = server.synced_slot(end).filter(|_| self.dice.once_in(2));
        let promoted = server.promoted(end, slot);
        if self.servers.iter().any(|other| (other.system, other.timeline) == (promoted.system, promoted.timeline)) {
            return;
        }
        self.servers.push(promoted);
        self.name = self.servers.len() - 1;
        self.servers[old].alive = self.dice.once_in(3);
        if self.setup.kind == Kind::Standby && self.dice.once_in(2) {
            let position = |is: Lsn| is.min(end);
            let Standby { received, replayed, .. } = self.standby;
            // What has more than that cannot follow, nor what is of another history already.
            if received <= end && self.standby.of == old {
                self.standby = Standby { of: self.name, received: position(received), replayed: position(replayed) };
            }
        }
        self.say(|_| format!("fails over at {end}, with the slot {slot:?}"));
        if slot.is_none() && self.dice.once_in(2) {
            self.renew_slot();
        }
    }

    /// Another server stands behind the name, with a consumer that was set up for it.
    fn exchange(&mut self) {
        if self.setup.kind == Kind::Standby {
            return;
        }
        let old = self.name;
        self.servers[old].alive = self.dice.once_in(2);
        let mut server = Server::new(self.servers.len() as u64 + 10, &mut self.dice);
        if self.dice.once_in(2) {
            // Its positions and transaction ids are about the same.
            server.begin_like(&self.servers[old], &mut self.dice);
        }

        server.create_slot(self.now, &mut self.dice);
        let at = server.flushed;
        self.servers.push(server);
        self.name = self.servers.len() - 1;
        self.set_up_anew(0, at);
        self.say(|_| format!("source {old} is exchanged for another, at {at}"));
    }

    /// The consumer leaves its streams, and gets a copy of what was committed before that position.
    fn set_up_anew(&mut self, all: Set, at: Lsn) {
        for stream in &mut self.streams {
            if matches!(stream.way, Way::Proxied | Way::Direct) {
                stream.consumer_side = false;
                stream.up[0].clear();
            }
        }
        self.consumer.copy_all(all, at);
    }

    fn skew(&mut self) {
        let at = self.name;
        let by = self.dice.below(7_200_000_000) as i64 - 3_600_000_000;
        self.servers[at].skew += by;
        self.say(|_| format!("the clock of source {at} jumps by {by}"));
    }

    /// Somebody else reads the slot while it is free, and acknowledges what is the consumer's.
    fn let_a_stranger_read(&mut self) {
        let at = self.name;
        let free = self.servers[at].slot.is_some_and(|slot| slot.reader.is_none());
        if !free || !self.servers[at].alive || self.setup.kind == Kind::Standby {
            return;
        }
        let server = &mut self.servers[at];
        // `pg_logical_slot_get_changes()`: all at once.
        let (from, until) = (server.slot.map_or(Lsn::INVALID, |slot| slot.confirmed), server.flushed);
        let taken = server.wal.iter().filter(|record| record.start >= from && record.end <= until);
        let taken = taken.filter_map(|record| match record.what {
            What::Commit(Content { serial, .. }) | What::CommitPrepared(Content { serial, .. }) => serial,
            _ => None,
        });
        let taken = taken.fold(0, |set, serial| set | 1 << serial) & !self.consumer.stored;
        server.confirm(until, until);
        self.missed |= taken;
        // Who reads the slot is the consumer: only its own word on what it has, and what walgate has seen, can tell.
        let tells = self.setup.kind == Kind::Subscription || self.setup.asks_replica;
        self.excused |= if tells { taken & !self.agent.tapped } else { taken };
        self.say(|_| format!("a stranger takes {taken:b} up to {until}"));
    }
}
