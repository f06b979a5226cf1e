//! Moves bytes between a client and its server, both ways, until one of them is through.
//!
//! One task polls both directions. Each has at most one buffer, held only while bytes wait in it: a receiver
//! that does not read stops the reading from the sender, and an idle session holds none. Bytes are forwarded
//! first and shown to the tap afterwards, from the very same slice; a drain turns that round, to end at a commit, and
//! the guard holds back commands that are to be judged.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use metrics::Counter;
use tokio::io::AsyncWrite as _;
use tokio::time::sleep;
use tokio_util::io::poll_read_buf;

use super::guard::Sentry;
use super::session::Shared;
use super::tap::Tap;
use crate::source::{Session, Stream};

/// What one read asks for. Beside the same HAProxy, reads of 64 KiB cost 0.72 CPU seconds a GB, of 256 KiB 0.55 and of
/// 512 KiB 0.50 (`cargo bench --bench relay`, tap off): fewer wake-ups on both sides.
const BUFFER: usize = 256 * 1024;

/// Reads in one direction before the other, and other sessions, have their turn. A stream that never pauses would
/// keep them waiting, its own acknowledgements too.
const TURN: usize = 2;

/// How long a client whose stream was cut may take to close its side, so that what it still acknowledges
/// reaches the server.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a relay ended with an error: the side that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RelayError {
    /// The client's connection.
    #[error("client: {0}")]
    Downstream(io::Error),
    /// The server's.
    #[error("server: {0}")]
    Upstream(io::Error),
}

/// Relays until both sides have closed, one has failed, or the session was drained. Not cancel-safe: to
/// drop it ends the session.
pub(super) async fn relay(
    client: &mut Stream,
    server: &mut Stream,
    mut tap: Option<Box<Tap>>,
    mut sentry: Option<Box<Sentry<'_>>>,
    shared: &Shared,
    session: &Session,
) -> Result<(), RelayError> {
    let Shared { source, metrics, drain, .. } = shared;
    let mut down = Pipe::new(metrics.downstream_bytes.clone(), &session.sent);
    let mut up = Pipe::new(metrics.upstream_bytes.clone(), &session.received);
    let mut drained = pin!(drain.cancelled());
    let mut proof_wanted = pin!(source.proof_wanted());
    let mut draining = false;
    let mut last_words = None;
    // A server that takes nothing more may have said why: what it sent is still passed on.
    let mut refused = None;
    std::future::poll_fn(|cx| {
        if !draining && tap.is_some() {
            draining = drained.as_mut().poll(cx).is_ready();
        }
        while let Some(tap) = tap.as_deref_mut()
            && proof_wanted.as_mut().poll(cx).is_ready()
        {
            // Before it is looked what is wanted, so that what is wanted from then on is not missed.
            proof_wanted.set(source.proof_wanted());
            tap.want_proof();
        }
        // A stream that is about to be cut proves nothing any more.
        if let Some(tap) = tap.as_deref_mut().filter(|_| !draining)
            && let Some(update) = tap.take_proof()
        {
            up.insert(&update);
        }
        // In front of what the server may have sent since: the answer was given when it was the client's turn.
        if let Some(answer) = sentry.as_mut().and_then(|sentry| sentry.take_answer()) {
            down.insert(&answer);
        }
        let watch = match tap.as_deref_mut() {
            None => Watch::Nothing,
            Some(tap) if draining => Watch::ToCut(tap),
            Some(tap) => Watch::Downstream(tap),
        };
        let to_client = down.poll(cx, server, client, watch);
        let watch = match (tap.as_deref_mut(), sentry.as_deref_mut()) {
            (None, _) => Watch::Nothing,
            (Some(tap), None) => Watch::Upstream(tap),
            (Some(tap), Some(sentry)) => Watch::Guarded(tap, sentry),
        };
        let mut to_server = Poll::Ready(Ok(()));
        if refused.is_none() {
            to_server = up.poll(cx, client, server, watch);
        }
        let down_done = match to_client {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(PipeError::Read(error))) => return Poll::Ready(Err(RelayError::Upstream(error))),
            Poll::Ready(Err(PipeError::Write(error))) => return Poll::Ready(Err(RelayError::Downstream(error))),
        };
        let up_done = match to_server {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(PipeError::Read(error))) => return Poll::Ready(Err(RelayError::Downstream(error))),
            Poll::Ready(Err(PipeError::Write(error))) => {
                refused = Some(error);
                true
            }
        };
        if down_done && let Some(error) = refused.take() {
            return Poll::Ready(Err(RelayError::Upstream(error)));
        }
        if down.cut.is_some() && down_done {
            let last_words = last_words.get_or_insert_with(|| Box::pin(sleep(LAST_WORDS)));
            if last_words.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
        }
        if down_done && up_done { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

enum PipeError {
    Read(io::Error),
    Write(io::Error),
}

/// What the tap does with a direction.
enum Watch<'a, 's> {
    Nothing,
    /// Reads what was forwarded to the server.
    Upstream(&'a mut Tap),
    /// The same, of what the guard lets pass.
    Guarded(&'a mut Tap, &'a mut Sentry<'s>),
    /// Reads what was forwarded to the client.
    Downstream(&'a mut Tap),
    /// Reads ahead of what is forwarded to the client, up to where the stream may be cut, and ends it there.
    ToCut(&'a mut Tap),
}

impl Watch<'_, '_> {
    /// Whether the receiver takes what is written to it.
    fn taken(&mut self, taken: bool) {
        if let Watch::Downstream(tap) | Watch::ToCut(tap) = self {
            tap.client_takes(taken);
        }
    }

    fn forwarded(&mut self, bytes: &[u8]) {
        match self {
            Watch::Nothing | Watch::ToCut(_) => {}
            Watch::Upstream(tap) | Watch::Guarded(tap, _) => tap.read_upstream(bytes, Instant::now()),
            Watch::Downstream(tap) => tap.read_downstream(bytes, Instant::now()),
        }
    }
}

/// One direction.
struct Pipe<'a> {
    /// What was read and not forwarded yet, behind `sent` bytes that were.
    buffer: BytesMut,
    sent: usize,
    /// Bytes at the buffer's beginning that the tap has read: ahead of `sent` only while draining, and by an answer of
    /// walgate's own, which the tap is not to take for the server's.
    tapped: usize,
    /// Where in the buffer the direction is to end.
    cut: Option<usize>,
    unflushed: bool,
    stage: Stage,
    bytes: Counter,
    /// The session's own count.
    relayed: &'a AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The sender has ended; the receiver has not been told.
    Ending,
    Ended,
}

impl Pipe<'_> {
    fn new(bytes: Counter, relayed: &AtomicU64) -> Pipe<'_> {
        Pipe {
            buffer: BytesMut::new(),
            sent: 0,
            tapped: 0,
            cut: None,
            unflushed: false,
            stage: Stage::Open,
            bytes,
            relayed,
        }
    }

    /// Moves what can be moved.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        mut watch: Watch<'_, '_>,
    ) -> Poll<Result<(), PipeError>> {
        for _ in 0..TURN {
            if let Watch::ToCut(tap) = &mut watch
                && self.cut.is_none()
            {
                let unread = self.buffer.get(self.tapped..).unwrap_or_default();
                self.cut = tap.read_to_cut(unread, Instant::now()).map(|len| self.tapped + len);
                self.tapped = self.buffer.len();
            }
            ready!(self.poll_forward(cx, to, self.cut.unwrap_or(self.buffer.len()), &mut watch))?;
            if self.cut.is_some() && self.stage == Stage::Open {
                self.stage = Stage::Ending;
            }
            ready!(self.poll_end(cx, to))?;
            if self.stage == Stage::Ended {
                return Poll::Ready(Ok(()));
            }
            if let Watch::Guarded(tap, sentry) = &mut watch {
                if sentry.has_command() {
                    self.buffer = ready!(sentry.poll_judged(cx, tap));
                    (self.sent, self.tapped) = (0, 0);
                    continue;
                }
                ready!(self.poll_fill(cx, from))?;
                match self.stage {
                    Stage::Open => sentry.hold(&mut self.buffer, tap),
                    Stage::Ending | Stage::Ended => self.buffer = sentry.release(),
                }
            } else {
                ready!(self.poll_fill(cx, from))?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the buffer up to `end`, then flushes.
    fn poll_forward(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Stream,
        end: usize,
        watch: &mut Watch<'_, '_>,
    ) -> Poll<Result<(), PipeError>> {
        while let Some(waiting) = self.buffer.get(self.sent..end).filter(|waiting| !waiting.is_empty()) {
            let written = Pin::new(&mut *to).poll_write(cx, waiting);
            watch.taken(written.is_ready());
            let len = ready!(written).map_err(PipeError::Write)?;
            if len == 0 {
                return Poll::Ready(Err(PipeError::Write(io::ErrorKind::WriteZero.into())));
            }
            self.sent += len;
            self.unflushed = true;
            self.bytes.increment(len as u64);
            self.relayed.fetch_add(len as u64, Ordering::Relaxed);
            if let Some(fresh) = self.buffer.get(self.tapped..self.sent) {
                watch.forwarded(fresh);
                self.tapped = self.sent;
            }
        }
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(PipeError::Write)?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Puts a message of walgate's own behind what the tap has read, unless the direction has ended.
    fn insert(&mut self, message: &[u8]) {
        if self.stage == Stage::Open {
            let behind = self.buffer.split_off(self.tapped.min(self.buffer.len()));
            self.buffer.extend_from_slice(message);
            self.tapped = self.buffer.len();
            self.buffer.extend_from_slice(&behind);
        }
    }

    /// Passes on the sender's end.
    fn poll_end(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<Result<(), PipeError>> {
        if self.stage == Stage::Ending {
            ready!(Pin::new(to).poll_shutdown(cx)).map_err(PipeError::Write)?;
            self.stage = Stage::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the buffer, which is empty of unsent bytes.
    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &mut Stream) -> Poll<Result<(), PipeError>> {
        self.buffer.clear();
        (self.sent, self.tapped) = (0, 0);
        self.buffer.reserve(BUFFER);
        match poll_read_buf(Pin::new(from), cx, &mut self.buffer) {
            Poll::Pending => {
                self.buffer = BytesMut::new();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => {
                self.buffer = BytesMut::new();
                self.stage = Stage::Ending;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(PipeError::Read(error))),
        }
    }
}
