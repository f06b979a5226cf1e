//! A replication stream: the walsender that decodes, the two legs through the proxy with what is under way on them, and the
//! tap that reads along.

use std::collections::VecDeque;
use std::time::Instant;

use walgate::lag::{Attachment, SourceLag};
use walgate::lsn::Lsn;
use walgate::time::PgTimestamp;
use walgate::wire::copy_both::{Keepalive, StatusUpdate, XLogData};

use crate::server::{Content, Record, Server, What};

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) server: usize,
    pub(crate) life: u32,
    pub(crate) pid: i32,
    pub(crate) way: Way,
    pub(crate) attachment: Option<Attachment>,
    /// Of the WAL, what is read next.
    next: usize,
    /// `sentPtr` in `walsender.c`
    sent: Lsn,
    /// Commits before it are not sent.
    from: Lsn,
    /// Transactions of which a part was streamed.
    open: Vec<u64>,
    /// From the server to the proxy, from there to the consumer, and the same way back.
    pub(crate) down: [VecDeque<Message>; 2],
    pub(crate) up: [VecDeque<StatusUpdate>; 2],
    /// What the consumer has said last, as it passed the proxy.
    last_said: Option<StatusUpdate>,
    /// The server's side, and the consumer's, are still there.
    pub(crate) server_side: bool,
    pub(crate) consumer_side: bool,
    /// Nothing passes any more.
    cut: bool,
}

/// Who reads, and by which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The consumer, through the proxy.
    Proxied,
    /// The consumer, past the proxy.
    Direct,
    /// walgate, from a copy of the slot.
    Copy,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) what: Sent,
    time: PgTimestamp,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Sent {
    Begin(Record),
    Row,
    /// A transactional message.
    Note,
    Commit(Record, Content),
    Chunk(u64),
    StreamCommit(Record, Content),
    StreamAbort(u64),
    Keepalive {
        end: Lsn,
        reply: bool,
    },
}

const TABLE: [u8; 4] = 7_u32.to_be_bytes();

impl Stream {
    /// Starts at the slot of the server, or where the reader says, if that is further.
    pub(crate) fn start(at: usize, server: &Server, way: Way, pid: i32, from: Lsn) -> Option<Stream> {
        let slot = server.slot?;
        Some(Stream {
            server: at,
            life: server.lives,
            pid,
            way,
            attachment: None,
            next: server.wal.partition_point(|record| record.start < slot.restart),
            sent: slot.confirmed,
            from: from.max(slot.confirmed),
            open: Vec::new(),
            down: Default::default(),
            up: Default::default(),
            last_said: None,
            server_side: true,
            consumer_side: true,
            cut: false,
        })
    }

    /// The walsender reads one record.
    pub(crate) fn decode(&mut self, server: &Server, time: PgTimestamp, empty_too: bool) -> bool {
        let Some(record) = server.wal.get(self.next).filter(|record| record.end <= server.flushed) else {
            return false;
        };
        let record = *record;
        self.next += 1;
        let streamed = self.open.contains(&record.xid);
        let wanted = record.start >= self.from;
        match record.what {
            What::Change { published: true, streamed: true } if wanted => {
                if !streamed {
                    self.open.push(record.xid);
                }
                self.send(Sent::Chunk(record.xid), time);
            }
            What::Commit(content) | What::CommitPrepared(content) if wanted => {
                if streamed {
                    self.send(Sent::StreamCommit(record, content), time);
                } else if content.published || empty_too {
                    self.send(Sent::Begin(record), time);
                    if content.published {
                        self.send(if content.serial.is_some() { Sent::Row } else { Sent::Note }, time);
                    }
                    self.send(Sent::Commit(record, content), time);
                }
            }
            What::Abort { .. } if streamed => self.send(Sent::StreamAbort(record.xid), time),
            _ => {}
        }
        if !matches!(record.what, What::Change { .. }) {
            self.open.retain(|xid| *xid != record.xid);
        }
        self.sent = record.end;
        true
    }

    fn send(&mut self, what: Sent, time: PgTimestamp) {
        if !self.cut {
            self.down[0].push_back(Message { what, time });
        }
    }

    /// The connection is gone, with all that was under way.
    pub(crate) fn cut(&mut self) {
        (self.down, self.up, self.last_said) = Default::default();
        self.cut = true;
    }

    pub(crate) fn keepalive(&mut self, reply: bool, time: PgTimestamp) {
        self.send(Sent::Keepalive { end: self.sent, reply }, time);
    }

    /// The proxy asks the server in the consumer's name where it is.
    pub(crate) fn probe(&mut self) {
        if let Some(said) = self.last_said {
            self.up[1].push_back(StatusUpdate { reply_requested: true, ..said });
        }
    }

    /// A message passes the proxy on its way to the consumer. Says whose commit the tap has seen.
    pub(crate) fn pass_down(&mut self, lag: &mut SourceLag, now: Instant) -> Option<u32> {
        let message = self.down[0].pop_front()?;
        if self.way != Way::Copy {
            self.down[1].push_back(message);
        }
        tap(lag, self.attachment.as_ref()?, &message, now);
        match message.what {
            Sent::Commit(_, content) | Sent::StreamCommit(_, content) => content.serial,
            _ => None,
        }
    }

    /// What the consumer says passes the proxy.
    pub(crate) fn pass_up(&mut self, lag: &mut SourceLag, now: Instant) -> bool {
        let Some(update) = self.up[0].pop_front() else { return false };
        if let Some(consumer) = self.attachment.as_ref().and_then(|attachment| lag.stream(attachment)) {
            consumer.status_update(&update, now);
        }
        self.last_said = Some(update);
        self.up[1].push_back(update);
        true
    }

    /// What the consumer says arrives at the server.
    pub(crate) fn arrive(&mut self, server: &mut Server, time: PgTimestamp) -> bool {
        let Some(update) = self.up[1].pop_front() else { return false };
        server.confirm(update.flush, update.apply);
        if update.reply_requested {
            self.keepalive(false, time);
        }
        true
    }

    /// Nothing is under way.
    pub(crate) fn is_still(&self) -> bool {
        self.down.iter().all(VecDeque::is_empty) && self.up.iter().all(VecDeque::is_empty)
    }
}

/// The tap reads a message in the bytes that the server would have sent.
fn tap(lag: &mut SourceLag, attachment: &Attachment, message: &Message, now: Instant) {
    let Some(consumer) = lag.stream(attachment) else { return };
    let time = message.time;
    let mut bytes = Vec::with_capacity(32);
    let mut take = |bytes: &[u8], at: Lsn| {
        let data = XLogData { wal_start: at, wal_end: at, send_time: time, data: bytes };
        consumer.xlog_data(&data, bytes.len() as u64, now).expect("pgoutput writes it so");
    };
    match message.what {
        Sent::Keepalive { end, reply } => {
            consumer.keepalive(&Keepalive { wal_end: end, send_time: time, reply_requested: reply }, now);
        }
        Sent::Begin(record) => {
            bytes.push(b'B');
            put(&mut bytes, &[record.start.0, time.0 as u64]);
            bytes.extend((record.xid as u32).to_be_bytes());
            take(&bytes, record.start);
        }
        Sent::Row => {
            bytes.push(b'I');
            bytes.extend(TABLE);
            bytes.extend(b"N\0\0");
            take(&bytes, Lsn::INVALID);
        }
        Sent::Note => {
            bytes.extend(b"M\x01");
            put(&mut bytes, &[0]);
            bytes.extend(b"walgate/barrier\0\0\0\0\0");
            take(&bytes, Lsn::INVALID);
        }
        Sent::Commit(record, _) => {
            bytes.extend(b"C\0");
            put(&mut bytes, &[record.start.0, record.end.0, time.0 as u64]);
            take(&bytes, record.end);
        }
        Sent::Chunk(xid) => {
            let xid = (xid as u32).to_be_bytes();
            bytes.push(b'S');
            bytes.extend(xid);
            bytes.push(1);
            take(&bytes, Lsn::INVALID);
            bytes.clear();
            bytes.push(b'I');
            bytes.extend(xid);
            bytes.extend(TABLE);
            bytes.extend(b"N\0\0");
            take(&bytes, Lsn::INVALID);
            take(b"E", Lsn::INVALID);
        }
        Sent::StreamCommit(record, _) => {
            bytes.push(b'c');
            bytes.extend((record.xid as u32).to_be_bytes());
            bytes.push(0);
            put(&mut bytes, &[record.start.0, record.end.0, time.0 as u64]);
            take(&bytes, record.end);
        }
        Sent::StreamAbort(xid) => {
            bytes.push(b'A');
            bytes.extend((xid as u32).to_be_bytes());
            bytes.extend((xid as u32).to_be_bytes());
            take(&bytes, Lsn::INVALID);
        }
    }
    consumer.heard(time, now);
}

fn put(bytes: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        bytes.extend(number.to_be_bytes());
    }
}
