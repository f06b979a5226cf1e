//! Messages over a [`Stream`]: whole ones in, queued ones out.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

use super::error::{Failure, ServerError};
use super::stream::Stream;
use crate::wire::backend::ErrorFields;
use crate::wire::{HEADER, MAX_BODY};

/// How much is asked of the socket at once.
const READ: usize = 64 * 1024;

/// A stream with what was read ahead and what is still to be written.
#[derive(Debug)]
pub(super) struct Channel {
    stream: Stream,
    incoming: BytesMut,
    /// Length of the message handed out last, which the next call drops.
    delivered: usize,
    max_body: usize,
    outgoing: BytesMut,
    /// Written bytes may wait in TLS buffers.
    unflushed: bool,
}

/// One message of the server, as on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// Tag, length and body.
    pub(super) frame: &'a [u8],
    pub(super) tag: u8,
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// The error that an `E` message reports.
    pub(super) fn error(&self) -> Failure {
        match ErrorFields::parse(self.body) {
            Ok(fields) => Failure::Server(ServerError::from(fields)),
            Err(fault) => fault.into(),
        }
    }

    /// What to say of a message that has no place here.
    pub(super) fn unexpected(&self, during: &'static str) -> Failure {
        Failure::Protocol { during, problem: format!("message of type '{}'", self.tag.escape_ascii()) }
    }
}

impl Channel {
    /// A channel that takes no body above `max_body` until [`Channel::allow_any_length`].
    pub(super) fn new(stream: Stream, max_body: usize) -> Channel {
        Channel {
            stream,
            incoming: BytesMut::new(),
            delivered: 0,
            max_body,
            outgoing: BytesMut::new(),
            unflushed: false,
        }
    }

    pub(super) fn allow_any_length(&mut self) {
        self.max_body = MAX_BODY;
    }

    /// The stream and what was read ahead of it.
    pub(super) fn into_parts(mut self) -> (Stream, BytesMut) {
        self.incoming.advance(self.delivered);
        (self.stream, self.incoming)
    }

    /// Where to append messages that [`Channel::flush`] or the next [`Channel::receive`] will write.
    pub(super) fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    /// Waits for the next message, writing what is queued meanwhile: a peer that stops reading until it is read from
    /// cannot block this. Cancel-safe: bytes read and written so far are accounted for in the channel.
    pub(super) async fn receive(&mut self, during: &'static str) -> Result<Message<'_>, Failure> {
        self.advance(during).await?;
        Ok(self.current())
    }

    /// As [`Channel::receive`], and gives the tag; the message is then [`Channel::current`].
    pub(super) async fn advance(&mut self, during: &'static str) -> Result<u8, Failure> {
        self.incoming.advance(self.delivered);
        self.delivered = 0;
        if self.incoming.is_empty() && self.incoming.capacity() > 16 * READ {
            // One long row shall not hold its memory for as long as the session lives.
            self.incoming = BytesMut::new();
        }
        let len = loop {
            if let Some([_, length @ ..]) = self.incoming.first_chunk::<HEADER>() {
                let length = u32::from_be_bytes(*length) as usize;
                if !(4..=self.max_body + 4).contains(&length) {
                    let problem = "a message of impossible length".into();
                    return Err(Failure::Protocol { during, problem });
                }
                if self.incoming.len() > length {
                    break 1 + length;
                }
            }
            // Never by the announced length: memory is for what has come.
            self.incoming.reserve(READ);
            match poll_fn(|cx| self.poll_exchange(cx)).await {
                Ok(0) => return Err(Failure::Closed(during)),
                Ok(_) => {}
                Err(error) => return Err(lost(error, during)),
            }
        };
        self.delivered = len;
        Ok(self.current().tag)
    }

    /// Waits for bytes, writing what is queued meanwhile, and hands out all there are. Cancel-safe.
    pub(super) async fn read_piece(&mut self, during: &'static str) -> Result<&[u8], Failure> {
        self.incoming.advance(self.delivered);
        self.delivered = 0;
        if self.incoming.is_empty() {
            self.incoming.reserve(READ);
            match poll_fn(|cx| self.poll_exchange(cx)).await {
                Ok(0) => return Err(Failure::Closed(during)),
                Ok(_) => {}
                Err(error) => return Err(lost(error, during)),
            }
        }
        self.delivered = self.incoming.len();
        Ok(&self.incoming)
    }

    /// The message received last, until the next one is waited for.
    pub(super) fn current(&self) -> Message<'_> {
        let frame = self.incoming.get(..self.delivered).unwrap_or_default();
        let (header, body) = frame.split_at_checked(HEADER).unwrap_or_default();
        Message { frame, tag: header.first().copied().unwrap_or_default(), body }
    }

    /// Writes what is queued. Cancel-safe, but while it waits nothing is read.
    pub(super) async fn flush(&mut self, during: &'static str) -> Result<(), Failure> {
        while !self.outgoing.is_empty() {
            self.unflushed = true;
            self.stream.write_buf(&mut self.outgoing).await.map_err(|error| lost(error, during))?;
        }
        self.stream.flush().await.map_err(|error| lost(error, during))?;
        self.unflushed = false;
        Ok(())
    }

    /// Closes the connection in order, so that TLS peers see an end and not a cut.
    pub(super) async fn shutdown(&mut self) -> Result<(), Failure> {
        self.stream.shutdown().await.map_err(Failure::Io)
    }

    /// Writes what can be written, then reads.
    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing) {
                Poll::Ready(Ok(written)) => {
                    self.outgoing.advance(written);
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            flushed?;
            self.unflushed = !self.outgoing.is_empty();
        }
        // The future of read_buf holds nothing between polls, so one that lives for a single poll loses nothing.
        pin!(self.stream.read_buf(&mut self.incoming)).poll(cx)
    }
}

/// A reset, or a TLS stream cut short, is the server going away.
fn lost(error: io::Error, during: &'static str) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Failure::Closed(during)
        }
        _ => Failure::Io(error),
    }
}
