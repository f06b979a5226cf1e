//! SQL sessions: tokio-postgres on top of the one way to log in.
//!
//! tokio-postgres would log in by itself, but knows neither `require_auth` nor this module's errors, and would be a second
//! way to do the same. It is given a stream that is already logged in: what it writes first, its start-up packet, is
//! swallowed, and what it reads first is what the server said to ours.

use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_util::task::AbortOnDropHandle;

use super::connect::Connector;
use super::dsn::Host;
use super::error::{ConnectError, Failure};
use super::login::Session;
use super::stream::Stream;
use crate::wire::startup::SessionKind;

/// An SQL session. Use it as the [`Client`] it holds; dropping it closes the connection.
#[derive(Debug)]
pub struct SqlSession {
    client: Client,
    host: Host,
    pid: Option<u32>,
    server_version: Option<String>,
    connection: AbortOnDropHandle<Result<(), tokio_postgres::Error>>,
}

impl Connector {
    /// Opens an SQL session with the first host that lets in. Needs to run within a tokio runtime, where a task then
    /// carries the session's messages.
    ///
    /// # Errors
    ///
    /// If no host gives a session, with the reason for each.
    pub async fn sql(&self) -> Result<SqlSession, ConnectError> {
        SqlSession::over(self, self.log_in(SessionKind::Sql).await?).await
    }

    /// Opens an SQL session with this host, to be chosen from [`Dsn::hosts`](super::Dsn::hosts). As above.
    ///
    /// # Errors
    ///
    /// If the host gives no session.
    pub async fn sql_at(&self, host: &Host) -> Result<SqlSession, ConnectError> {
        SqlSession::over(self, self.log_in_at(&[host], SessionKind::Sql).await?).await
    }
}

impl SqlSession {
    async fn over(connector: &Connector, session: Session) -> Result<SqlSession, ConnectError> {
        let server_version = session.parameter("server_version").map(str::to_owned);
        let (stream, read_ahead) = session.channel.into_parts();
        let mut to_read = session.greeting;
        to_read.unsplit(read_ahead);
        let stream = LoggedIn { stream, to_read, to_swallow: Swallow::Length([0; 4], 0) };

        let mut config = Config::new();
        config.ssl_mode(SslMode::Disable).user(connector.dsn().login_user().unwrap_or_default());
        let (client, connection) = config
            .connect_raw(stream, NoTls)
            .await
            .map_err(|error| Failure::Protocol { during: "logging in", problem: error.to_string() })?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(SqlSession { client, host: session.host, pid: session.pid, server_version, connection })
    }
}

impl Deref for SqlSession {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl SqlSession {
    /// Which host of the connection string this is with.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The process id of the backend, as the login told.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The server's version, as it says.
    pub fn server_version(&self) -> Option<&str> {
        self.server_version.as_deref()
    }

    /// The major version of the server; `None` if it does not say.
    pub fn server_major(&self) -> Option<u32> {
        major(self.server_version()?)
    }

    /// Makes names mean the system's: somebody who may create functions in a schema on the search path must not get
    /// them run by walgate's role. Takes off the limits of the role that would end the session; walgate has its own.
    pub(super) async fn harden(&self) -> Result<(), tokio_postgres::Error> {
        self.batch_execute(
            "SELECT pg_catalog.set_config('search_path', '', false), \
             pg_catalog.set_config('statement_timeout', '0', false), \
             pg_catalog.set_config('idle_session_timeout', '0', false)",
        )
        .await
    }

    /// Says goodbye and waits until the connection is closed.
    pub async fn close(self) {
        drop(self.client);
        // How it ended makes no difference any more.
        let _ = self.connection.await;
    }
}

/// A stream past its login, in front of a client that wants to log in.
#[derive(Debug)]
struct LoggedIn {
    stream: Stream,
    /// What to read before the stream: the server's greeting, and what was read ahead.
    to_read: BytesMut,
    to_swallow: Swallow,
}

/// How much of the start-up packet is still to come.
#[derive(Debug)]
enum Swallow {
    /// Its length, of which so many bytes have come.
    Length([u8; 4], usize),
    /// So many bytes of its body.
    Body(usize),
}

/// The major version in `server_version`: `18.1 (Debian 18.1-1)`, `19beta1`.
pub(super) fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Swallow {
    /// How many of these bytes belong to the start-up packet.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        if let Swallow::Length(length, have) = self {
            for (place, byte) in length.iter_mut().skip(*have).zip(bytes) {
                *place = *byte;
                *have += 1;
                rest = rest.split_first().map_or(rest, |(_, rest)| rest);
            }
            if *have == length.len() {
                *self = Swallow::Body((u32::from_be_bytes(*length) as usize).saturating_sub(length.len()));
            }
        }
        if let Swallow::Body(left) = self {
            let taken = rest.len().min(*left);
            *left -= taken;
            rest = rest.split_at(taken).1;
        }
        bytes.len() - rest.len()
    }
}

impl AsyncRead for LoggedIn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.to_read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = self.to_read.len().min(buf.remaining());
        buf.put_slice(self.to_read.get(..len).unwrap_or_default());
        self.to_read.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LoggedIn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.to_swallow.take(buf) {
            0 => Pin::new(&mut self.stream).poll_write(cx, buf),
            swallowed => Poll::Ready(Ok(swallowed)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_up_packet_is_swallowed_in_pieces_of_any_size() {
        let packet = [&[0, 0, 0, 12][..], b"12345678", b"rest"].concat();
        for size in 1..=packet.len() {
            let mut swallow = Swallow::Length([0; 4], 0);
            let passed: Vec<u8> =
                packet.chunks(size).flat_map(|chunk| chunk.split_at(swallow.take(chunk)).1.to_vec()).collect();
            assert_eq!(passed, b"rest", "pieces of {size}");
        }
    }
}
