//! Reads along with a replication session and feeds what it sees into the lag model.
//!
//! The tap is shown every byte after it was forwarded, in both directions, and never touches one; only while the
//! session is drained it reads ahead, to find where the stream may end. It finds the command that starts a stream,
//! and inside a pgoutput stream the messages and the acknowledgements. Where it cannot follow it says so
//! ([`Untapped`]) and the bytes go on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use crate::ident::SlotName;
use crate::lag::{Attachment, Consumer, History, Observe, SlotKind, Untapped};
use crate::source::dsn::Host;
use crate::source::{self, Source};
use crate::telemetry::StreamMetrics;
use crate::time::PgTimestamp;
use crate::wire::backend::put_message;
use crate::wire::command::{Command, Mode, StartReplication};
use crate::wire::copy_both::{ReceiverMessage, StatusUpdate, WalMessage, XLOG_DATA_HEADER};
use crate::wire::{Cursor, DecodeError, Frame, FrameReader};

/// Bytes kept of a server's message: the longest head of a pgoutput message is a Relation with two names of
/// 63 bytes, or a Prepare with a gid of 200.
const KEEP_DOWNSTREAM: usize = XLOG_DATA_HEADER + 487;

/// Bytes kept of a client's message: a command with a long list of publications.
const KEEP_UPSTREAM: usize = 64 * 1024;

/// Commands a client may send ahead of the answers. No known one sends more than one.
const MAX_AHEAD: usize = 64;

/// The tap of one replication session.
pub struct Tap {
    downstream: FrameReader,
    upstream: FrameReader,
    session: Session,
}

struct Session {
    source: Arc<Source>,
    /// The session as it is listed.
    listed: Option<Arc<source::Session>>,
    server: Box<str>,
    /// The client is in, and the ReadyForQuery that ends the start-up is still to come.
    greeting: bool,
    /// The process that serves the session, once the server has told.
    process: Option<i32>,
    metrics: StreamMetrics,
    /// What the client has asked for and the server has not finished answering.
    asked: VecDeque<Asked>,
    /// The transaction status in the latest ReadyForQuery; `None` before the first one.
    status: Option<u8>,
    streaming: Streaming,
    /// What the client has acknowledged last on the stream, while it may be repeated.
    acknowledged: Option<StatusUpdate>,
    /// How often proof was asked of the stream's slot, as far as that was done; and whether more was asked since.
    proven: u64,
    proof_due: bool,
    /// Message borders are lost: nothing can be read any more.
    blind: bool,
}

enum Asked {
    IdentifySystem,
    Start(Result<StartReplication, Untapped>),
    Other,
}

enum Streaming {
    No,
    Followed(Attachment),
    /// Relayed only; of a consumer, where the slot is known.
    Unfollowed(Option<Attachment>),
}

/// Whose turn it is, as far as the server's messages that were forwarded tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The server waits for a command, and nothing of it is under way; with the transaction status that it gave.
    Client(u8),
    /// The server is to answer.
    Server,
    /// Both: a replication stream runs.
    Both,
    /// That cannot be told any more.
    Unknown,
}

/// How far reading a stream got.
enum Read {
    /// All bytes are used up.
    Through,
    /// At a place where it may be cut.
    ToCut,
    /// To its end.
    ToEnd,
    /// To something that cannot be followed.
    ToFault(Untapped, DecodeError),
}

impl Tap {
    /// The tap of a session with `source` that has not begun, on this of its servers.
    pub fn new(source: Arc<Source>, server: &Host) -> Tap {
        Tap {
            downstream: FrameReader::new(KEEP_DOWNSTREAM),
            upstream: FrameReader::new(KEEP_UPSTREAM),
            session: Session {
                metrics: StreamMetrics::new(source.name()),
                source,
                listed: None,
                server: server.to_string().into(),
                greeting: false,
                process: None,
                asked: VecDeque::new(),
                status: None,
                streaming: Streaming::No,
                acknowledged: None,
                proven: 0,
                proof_due: false,
                blind: false,
            },
        }
    }

    /// The same, which tells the list of sessions what slot is streamed.
    pub(super) fn listed(source: Arc<Source>, server: &Host, session: Arc<source::Session>) -> Tap {
        let mut tap = Tap::new(source, server);
        tap.session.listed = Some(session);
        tap
    }

    /// Whose turn it is.
    pub(super) fn turn(&self) -> Turn {
        let Session { blind, streaming, asked, status, .. } = &self.session;
        match (streaming, status) {
            _ if *blind => Turn::Unknown,
            (Streaming::Followed(_) | Streaming::Unfollowed(_), _) => Turn::Both,
            (Streaming::No, Some(status)) if asked.is_empty() && self.downstream.at_boundary() => Turn::Client(*status),
            (Streaming::No, _) => Turn::Server,
        }
    }

    /// Somebody has asked a stream of the source for proof, perhaps this one.
    pub(super) fn want_proof(&mut self) {
        if let Streaming::Followed(stream) = &self.session.streaming {
            self.session.proof_due = self.session.source.proofs_asked(stream.slot()) != self.session.proven;
        }
    }

    /// The status update that asks the server how far it is, if a gate wants to know that of this stream, and the client is
    /// between two messages. It repeats the client's own last one: nothing is acknowledged that the client has not.
    pub(super) fn take_proof(&mut self) -> Option<BytesMut> {
        if !self.session.proof_due || !self.upstream.at_boundary() {
            return None;
        }
        let Streaming::Followed(stream) = &self.session.streaming else { return None };
        let update = StatusUpdate { reply_requested: true, ..self.session.acknowledged? };
        self.session.proven = self.session.source.proofs_asked(stream.slot());
        self.session.proof_due = false;
        let mut message = BytesMut::new();
        put_message(&mut message, b'd', |body| update.encode(body));
        Some(message)
    }

    /// Reads what was forwarded to the client.
    pub fn read_downstream(&mut self, mut bytes: &[u8], now: Instant) {
        self.read_frames(&mut bytes, now, false);
        self.session.metrics.flush();
    }

    /// Notes whether the client takes what is written to it, or has left its socket full.
    #[inline]
    pub(super) fn client_takes(&self, takes: bool) {
        if let Streaming::Followed(stream) = &self.session.streaming {
            stream.set_full(!takes);
        }
    }

    /// Reads what is about to be forwarded to the client, up to the first place where a stream may be cut:
    /// between messages, and on a stream that is followed after a commit. Returns how many bytes lie before
    /// it; `None` where there is no such place in `bytes` (then all of them were read), and always while
    /// nothing is streamed.
    pub(super) fn read_to_cut(&mut self, bytes: &[u8], now: Instant) -> Option<usize> {
        let mut rest = bytes;
        let cut = self.read_frames(&mut rest, now, true);
        self.session.metrics.flush();
        cut.then_some(bytes.len() - rest.len())
    }

    /// Reads what was forwarded to the server.
    pub fn read_upstream(&mut self, mut bytes: &[u8], now: Instant) {
        while !self.session.blind {
            match self.upstream.next(&mut bytes) {
                Ok(Some(frame)) => self.session.client_message(frame, now),
                Ok(None) => break,
                Err(error) => self.session.lose_borders(error),
            }
        }
        self.session.metrics.flush();
    }

    /// Reads to the end, or with `to_cut` to where the stream may be cut; returns whether it did the latter.
    fn read_frames(&mut self, bytes: &mut &[u8], now: Instant, to_cut: bool) -> bool {
        let (reader, session) = (&mut self.downstream, &mut self.session);
        loop {
            let between = session.blind || reader.at_boundary();
            if to_cut && between && matches!(session.streaming, Streaming::Unfollowed(_)) {
                return true;
            }
            if session.blind {
                return false;
            }
            match session.read_stream(reader, bytes, now, to_cut) {
                Some(Read::Through) => return false,
                Some(Read::ToCut) => return true,
                Some(Read::ToEnd) => session.answered(),
                Some(Read::ToFault(Untapped::Frame, error)) => session.lose_borders(error),
                Some(Read::ToFault(reason, error)) => session.untap(reason, &error),
                None => match reader.next(bytes) {
                    Ok(Some(frame)) => session.server_message(frame),
                    Ok(None) => return false,
                    Err(error) => session.lose_borders(error),
                },
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.session.end_stream();
    }
}

impl Session {
    /// Reads the messages of a stream that is followed, under one lock; `None` where there is no such stream.
    fn read_stream(&mut self, reader: &mut FrameReader, bytes: &mut &[u8], now: Instant, to_cut: bool) -> Option<Read> {
        let Streaming::Followed(stream) = &self.streaming else { return None };
        let mut lag = self.source.lag();
        let Some(consumer) = lag.stream(stream) else {
            // Another stream, or a new history of the server's, has taken its place.
            self.streaming = Streaming::Unfollowed(None);
            return None;
        };
        let mut heard = None;
        let read = loop {
            if to_cut && reader.at_boundary() && consumer.at_commit_boundary() {
                break Read::ToCut;
            }
            let frame = match reader.next(bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Read::Through,
                Err(error) => break Read::ToFault(Untapped::Frame, error),
            };
            match frame.tag {
                b'd' => match wal_message(frame, consumer, &mut self.metrics, now) {
                    Ok(send_time) => heard = Some(send_time),
                    Err(error) => break Read::ToFault(Untapped::Message, error),
                },
                b'Z' => {
                    self.status = frame.head.first().copied();
                    break Read::ToEnd;
                }
                // CopyDone, CommandComplete, a notice or an error: the ReadyForQuery is still to come.
                _ => {}
            }
        };
        if let Some(send_time) = heard {
            consumer.heard(send_time, now);
        }
        if consumer.take_schema_shown() {
            self.source.want_audit();
        }
        drop(lag);
        self.source.note_progress();
        Some(read)
    }

    /// A message outside a stream that is followed.
    fn server_message(&mut self, frame: Frame<'_>) {
        if frame.tag == b'Z' {
            self.status = frame.head.first().copied();
        }
        match (frame.tag, self.asked.front()) {
            (b'W', Some(Asked::Start(_))) => self.begin_stream(),
            (b'D', Some(Asked::IdentifySystem)) => {
                // System identifier and timeline are the first two columns of its only row.
                if let Ok(Some(history)) = frame.whole().and_then(parse_history) {
                    self.source.lag().identify(history);
                }
            }
            (b'R', _) => self.greeting = true,
            (b'K', _) if self.greeting => {
                let process = frame.whole().ok().and_then(|body| body.first_chunk());
                self.process = process.map(|process| i32::from_be_bytes(*process));
            }
            (b'Z', _) if self.greeting => self.greeting = false,
            (b'Z', _) => self.answered(),
            _ => {}
        }
    }

    fn client_message(&mut self, frame: Frame<'_>, now: Instant) {
        match frame.tag {
            b'd' => self.receiver_message(frame, now),
            // CopyDone, CopyFail: the client's side of the stream has ended.
            b'c' | b'f' => self.acknowledged = None,
            b'Q' => self.ask(parse_query(frame)),
            // These are answered with a ReadyForQuery too, if only because a walsender refuses them.
            b'S' | b'F' => self.ask(Asked::Other),
            _ => {}
        }
    }

    fn ask(&mut self, asked: Asked) {
        if self.asked.len() == MAX_AHEAD {
            self.blind = true;
            self.untap(Untapped::Command, &"too many commands were sent ahead of their answers");
        } else {
            self.asked.push_back(asked);
        }
    }

    /// ReadyForQuery: the command that was asked first is done, and a stream with it.
    fn answered(&mut self) {
        self.asked.pop_front();
        self.end_stream();
    }

    /// CopyBothResponse: the server has accepted a START_REPLICATION.
    fn begin_stream(&mut self) {
        let Some(Asked::Start(start)) = self.asked.front() else { return };
        let slot = start.as_ref().ok().and_then(|start| start.slot.as_deref()?.parse::<SlotName>().ok());
        let (kind, fault) = match start.as_ref().map(|start| &start.mode) {
            Ok(Mode::Physical { .. }) => (SlotKind::Physical, Some(Untapped::Physical)),
            // pgoutput demands this option, and no other plugin has it.
            Ok(logical) if logical.option("proto_version").is_none() => (SlotKind::Logical, Some(Untapped::Plugin)),
            Ok(_) => (SlotKind::Logical, None),
            Err(reason) => (SlotKind::Logical, Some(*reason)),
        };
        let fault = fault.or((self.source.lag().observe() == Observe::Poll).then_some(Untapped::Unwanted));
        if let Some(listed) = &self.listed {
            listed.set_slot(slot.clone());
        }
        self.acknowledged = None;
        // What was asked before is no question to this stream.
        self.proven = slot.as_ref().map_or(0, |slot| self.source.proofs_asked(slot));
        self.proof_due = false;
        let stream = slot.map(|slot| {
            let mut lag = self.source.lag();
            let stream = lag.attach(slot, kind, &self.server, start.as_ref().ok().cloned());
            if let Some(consumer) = lag.stream(&stream) {
                consumer.served_by(self.process);
            }
            stream
        });
        let fault = fault.or(stream.is_none().then_some(Untapped::Command));
        self.streaming = stream.map_or(Streaming::Unfollowed(None), Streaming::Followed);
        if let Some(fault) = fault {
            self.untap(fault, &"as the client asked for it");
        }
    }

    fn end_stream(&mut self) {
        if let Some(listed) = &self.listed {
            listed.set_slot(None);
        }
        if let Streaming::Followed(stream) | Streaming::Unfollowed(Some(stream)) =
            std::mem::replace(&mut self.streaming, Streaming::No)
            && let Some(consumer) = self.source.lag().stream(&stream)
        {
            consumer.detach();
        }
    }

    fn receiver_message(&mut self, frame: Frame<'_>, now: Instant) {
        let Streaming::Followed(stream) = &self.streaming else { return };
        match frame.whole().and_then(ReceiverMessage::parse) {
            Ok(ReceiverMessage::StatusUpdate(update)) => {
                self.metrics.status_update();
                self.acknowledged = Some(update);
                if let Some(consumer) = self.source.lag().stream(stream) {
                    consumer.status_update(&update, now);
                }
                self.source.note_progress();
            }
            Ok(ReceiverMessage::HotStandbyFeedback(_)) => {}
            Err(error) => self.untap(Untapped::Message, &error),
        }
    }

    fn lose_borders(&mut self, error: DecodeError) {
        self.blind = true;
        self.untap(Untapped::Frame, &error);
    }

    fn untap(&mut self, reason: Untapped, why: &dyn fmt::Display) {
        self.streaming = match std::mem::replace(&mut self.streaming, Streaming::No) {
            Streaming::Followed(stream) => {
                if let Some(consumer) = self.source.lag().stream(&stream) {
                    consumer.untap(reason);
                }
                Streaming::Unfollowed(Some(stream))
            }
            other => other,
        };
        self.metrics.untapped(reason);
        let source = self.source.name();
        if matches!(reason, Untapped::Physical | Untapped::Unwanted) {
            tracing::debug!(source, reason = reason.as_str(), "a stream is only relayed");
        } else {
            tracing::warn!(source, reason = reason.as_str(), %why, "a session is relayed but cannot be followed");
        }
    }
}

/// Reads a CopyData of the server's; returns when it was sent.
#[inline]
fn wal_message(
    frame: Frame<'_>,
    consumer: &mut Consumer,
    metrics: &mut StreamMetrics,
    now: Instant,
) -> Result<PgTimestamp, DecodeError> {
    match WalMessage::parse(frame.head)? {
        WalMessage::XLogData(data) => {
            metrics.message(data.data.first());
            consumer.xlog_data(&data, (frame.len - XLOG_DATA_HEADER) as u64, now)?;
            Ok(data.send_time)
        }
        WalMessage::Keepalive(keepalive) => {
            metrics.keepalive();
            consumer.keepalive(&keepalive, now);
            Ok(keepalive.send_time)
        }
    }
}

fn parse_query(frame: Frame<'_>) -> Asked {
    let text = frame.whole().ok().and_then(|body| std::str::from_utf8(body.strip_suffix(b"\0")?).ok());
    match text.map(Command::parse) {
        Some(Ok(Command::IdentifySystem)) => Asked::IdentifySystem,
        Some(Ok(Command::StartReplication(start))) => Asked::Start(Ok(start)),
        Some(Ok(_)) => Asked::Other,
        // If the server takes it for a START_REPLICATION all the same, there is a stream nobody follows.
        Some(Err(_)) | None => Asked::Start(Err(Untapped::Command)),
    }
}

fn parse_history(row: &[u8]) -> Result<Option<History>, DecodeError> {
    let mut cursor = Cursor::new(row);
    cursor.i16("column count")?;
    let mut text = |field| {
        let len = cursor.length(field)?;
        cursor.take(len, field).map(std::str::from_utf8)
    };
    let (system, timeline) = (text("system identifier")?, text("timeline")?);
    let system = system.ok().and_then(|system| system.parse().ok());
    Ok(system.map(|system| History { system, timeline: timeline.ok().and_then(|timeline| timeline.parse().ok()) }))
}
