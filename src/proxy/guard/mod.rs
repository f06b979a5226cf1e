//! The guard: a consumer that is about to begin while a table would break it is warned of, or refused.
//!
//! A [`Sentry`] stands in front of what a client on a logical replication session sends. It looks for the two commands that
//! begin a consumer, `CREATE_REPLICATION_SLOT … LOGICAL pgoutput` and `START_REPLICATION … LOGICAL` with publications, which
//! a walsender takes as simple queries only. With `block` it holds such a command back until all earlier ones are answered,
//! has it judged on a catalog that is read now, and forwards it, or answers it itself. Where it cannot be judged it is
//! forwarded: data fails open.

mod judge;

use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::session::Shared;
use super::tap::{Tap, Turn};
use crate::source::replication::listed_publications;
use crate::wire::backend::{ErrorFields, put_message};
use crate::wire::command::{Command, CreateReplicationSlot, Mode, StartReplication};
use crate::wire::{HEADER, body_len};
pub(super) use judge::Judge;
use judge::{Verdict, count};

/// The longest command that is judged, as the tap reads none that is longer.
const MAX_COMMAND: usize = 64 * 1024;

/// What is done with a consumer that begins while a table would break it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    Off,
    /// It is logged.
    #[default]
    Warn,
    /// The consumer is refused, with the SQL that mends the table.
    Block,
}

impl Guard {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Guard::Off => "off",
            Guard::Warn => "warn",
            Guard::Block => "block",
        }
    }
}

impl FromStr for Guard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Guard, Self::Err> {
        let known = [Guard::Off, Guard::Warn, Guard::Block];
        known.into_iter().find(|guard| guard.as_str() == text).ok_or("expected off, warn or block")
    }
}

/// A command that begins a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Beginning {
    command: &'static str,
    slot: String,
    /// What it asks for; everything, where that is not known yet.
    publications: Vec<String>,
}

impl Beginning {
    /// What this command begins, if it is a consumer of publications.
    fn of(command: Command) -> Option<Beginning> {
        match command {
            Command::CreateReplicationSlot(CreateReplicationSlot { slot, plugin: Some(plugin), .. })
                if plugin == "pgoutput" =>
            {
                Some(Beginning { command: "CREATE_REPLICATION_SLOT", slot, publications: Vec::new() })
            }
            Command::StartReplication(StartReplication { slot: Some(slot), mode, .. }) => {
                let Mode::Logical { .. } = &mode else { return None };
                let publications = listed_publications(mode.option("publication_names")??);
                let begins = !publications.is_empty();
                begins.then_some(Beginning { command: "START_REPLICATION", slot, publications })
            }
            _ => None,
        }
    }
}

/// The guard of one session.
pub(super) struct Sentry<'a> {
    shared: &'a Shared,
    /// The database that the client has named.
    database: &'a str,
    /// Bytes still to come of a message that may pass.
    passing: usize,
    /// The header of one that passes, as far as it has come.
    header: Vec<u8>,
    /// What may not pass yet: the beginning of a message; or a command, and what came behind it.
    held: BytesMut,
    watch: Watch<'a>,
    /// The client has ended its side of a stream.
    ending: bool,
    answer: Option<BytesMut>,
}

enum Watch<'a> {
    /// For commands.
    Looking,
    /// It holds a command of so many bytes until the earlier ones are answered.
    Holding(Beginning, usize),
    /// It waits for the verdict on it.
    Judging(usize, Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>),
    /// Message borders are lost: everything passes.
    Blind,
}

/// What is at the front of what a client has sent.
enum Front {
    /// A message that may pass.
    Other,
    /// One that must be seen whole, and is not.
    Part,
    /// A command of so many bytes that is to be judged.
    Command(Beginning, usize),
}

impl<'a> Sentry<'a> {
    /// Of a session in this database.
    pub(super) fn new(shared: &'a Shared, database: &'a str) -> Sentry<'a> {
        Sentry {
            shared,
            database,
            passing: 0,
            header: Vec::new(),
            held: BytesMut::new(),
            watch: Watch::Looking,
            ending: false,
            answer: None,
        }
    }

    /// Takes what may not pass yet off the end of `read`, which was just read from the client.
    pub(super) fn hold(&mut self, read: &mut BytesMut, tap: &Tap) {
        if matches!(self.watch, Watch::Blind) {
            return;
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(read);
            *read = std::mem::take(&mut self.held);
        }
        let mut rest: &[u8] = read;
        loop {
            let (passes, behind) = rest.split_at(self.passing.min(rest.len()));
            self.passing -= passes.len();
            rest = behind;
            if rest.is_empty() {
                return;
            }
            if self.header.is_empty() {
                match self.front(rest, tap) {
                    Front::Other => {}
                    Front::Part => break,
                    Front::Command(beginning, len) => {
                        self.watch = Watch::Holding(beginning, len);
                        break;
                    }
                }
            }
            let (more, behind) = rest.split_at(rest.len().min(HEADER - self.header.len()));
            self.header.extend_from_slice(more);
            rest = behind;
            let Some(header) = self.header.first_chunk::<HEADER>() else { return };
            let Ok(len) = body_len(header) else {
                self.watch = Watch::Blind;
                return;
            };
            self.passing = len;
            self.header.clear();
        }
        self.held = BytesMut::from(rest);
        read.truncate(read.len() - self.held.len());
    }

    /// Whether it holds a command: nothing further is to be read before that is judged.
    pub(super) fn has_command(&self) -> bool {
        matches!(self.watch, Watch::Holding(..) | Watch::Judging(..))
    }

    /// What the client sent last, and will not complete.
    pub(super) fn release(&mut self) -> BytesMut {
        std::mem::take(&mut self.held)
    }

    /// An answer of its own, to be given before anything else that comes from the server.
    pub(super) fn take_answer(&mut self) -> Option<BytesMut> {
        self.answer.take()
    }

    /// Waits until the command is judged. Returns what is to be forwarded of it and of what came behind it. Cancel-safe:
    /// what is held stays held.
    pub(super) fn poll_judged(&mut self, cx: &mut Context<'_>, tap: &Tap) -> Poll<BytesMut> {
        if self.answer.is_some() {
            // The one before it comes first; this was woken for it.
            return Poll::Pending;
        }
        let status = match tap.turn() {
            Turn::Client(status) => Some(status),
            // The server's next message, or the end of its connection, wakes this too.
            Turn::Server => return Poll::Pending,
            Turn::Both if self.ending => return Poll::Pending,
            // What the server makes of a command within a stream is its own affair.
            Turn::Both => None,
            Turn::Unknown => {
                self.passes_unread("the session cannot be followed");
                None
            }
        };
        if let (Watch::Holding(beginning, len), Some(_)) = (&self.watch, status) {
            let judging = self.shared.judge.judge(&self.shared.source, self.database, beginning.clone());
            self.watch = Watch::Judging(*len, Box::pin(judging));
        }
        let passing = match (&mut self.watch, status) {
            (Watch::Judging(len, judging), Some(status)) => match ready!(judging.as_mut().poll(cx)) {
                Verdict::Pass => *len,
                Verdict::Refuse(error) => {
                    self.held.advance(*len);
                    self.answer = Some(answer(&error, status));
                    cx.waker().wake_by_ref();
                    0
                }
            },
            (Watch::Judging(len, _) | Watch::Holding(_, len), _) => *len,
            (Watch::Looking | Watch::Blind, _) => 0,
        };
        (self.watch, self.passing) = (Watch::Looking, passing);
        let mut released = std::mem::take(&mut self.held);
        self.hold(&mut released, tap);
        Poll::Ready(released)
    }

    fn front(&mut self, bytes: &[u8], tap: &Tap) -> Front {
        match bytes.first() {
            Some(b'Q') => {
                let streaming = tap.turn() == Turn::Both;
                self.ending &= streaming;
                if streaming && !self.ending || self.guard() == Guard::Off {
                    return Front::Other;
                }
            }
            // CopyDone, CopyFail.
            Some(b'c' | b'f') => {
                self.ending = tap.turn() == Turn::Both;
                return Front::Other;
            }
            _ => return Front::Other,
        }
        let Some((header, behind)) = bytes.split_first_chunk::<HEADER>() else { return Front::Part };
        match body_len(header) {
            Err(_) => Front::Other,
            Ok(len) if len > MAX_COMMAND => {
                self.passes_unread("it is too long");
                Front::Other
            }
            Ok(len) => match behind.get(..len).map(|body| self.query(body)) {
                None => Front::Part,
                Some(None) => Front::Other,
                Some(Some(beginning)) => Front::Command(beginning, HEADER + len),
            },
        }
    }

    /// What a query begins, if it must wait for a verdict.
    fn query(&self, body: &[u8]) -> Option<Beginning> {
        let text = std::str::from_utf8(body.strip_suffix(b"\0")?).ok()?;
        let beginning = Beginning::of(Command::parse(text).ok()?)?;
        match self.guard() {
            Guard::Off => None,
            Guard::Warn => {
                Judge::warn(&self.shared.source, self.database, beginning);
                None
            }
            Guard::Block => Some(beginning),
        }
    }

    /// What is done by now.
    fn guard(&self) -> Guard {
        let terms = self.shared.terms();
        // Without connections of its own walgate knows no catalog.
        if terms.passive { Guard::Off } else { terms.guard }
    }

    fn passes_unread(&self, reason: &'static str) {
        if self.guard() == Guard::Block {
            let source = self.shared.source.name();
            tracing::warn!(source, reason, "the guard cannot read a command, and lets it pass");
            count(source, "unknown", "unjudged");
        }
    }
}

/// The error, and that the server waits for a command in the state that it is in.
fn answer(error: &ErrorFields<'_>, status: u8) -> BytesMut {
    let mut answer = BytesMut::new();
    error.encode(&mut answer);
    put_message(&mut answer, b'Z', |body| body.put_u8(status));
    answer
}
