//! Where clients connect: a TCP address or a Unix-domain socket.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Terms;
use super::guard::Judge;
use super::session::{Shared, serve};
use crate::console::Console;
use crate::source::{Source, Stream};
use crate::telemetry::ProxyMetrics;

/// When an idle client is probed, how often, and how long what was sent to one may stay unacknowledged: a
/// client that vanished must not hold a walsender, which would pin its slot. Linux counts a closed window as
/// unacknowledged too, and a client that is only slow to read is to be waited for.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const USER_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Connections that may wait to start a session, or are only to cancel a query, when all sessions are taken.
const STARTING: usize = 256;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// `host:port`; a name is resolved once.
    Tcp(String),
    /// The path of a socket. Clients find it if its name is `.s.PGSQL.<port>`.
    Unix(PathBuf),
}

/// A text that names no place to listen at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port, like 127.0.0.1:6432, or the absolute path of a socket, like /run/walgate/.s.PGSQL.6432")]
pub struct ListenAddrError;

impl FromStr for ListenAddr {
    type Err = ListenAddrError;

    fn from_str(text: &str) -> Result<ListenAddr, ListenAddrError> {
        if text.starts_with('/') {
            return Ok(ListenAddr::Unix(text.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(ListenAddr::Tcp(text.into())),
            _ => Err(ListenAddrError),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(address) => f.write_str(address),
            ListenAddr::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why nothing can listen there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {address}: {error}")]
pub struct BindError {
    address: ListenAddr,
    error: io::Error,
}

/// A proxy that listens and has not been stopped.
pub struct Proxy {
    address: ListenAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    sessions: TaskTracker,
    /// Ends what is left at the deadline.
    kill: CancellationToken,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Proxy {
    /// Listens at `address` and relays to `source` from then on, but for clients of the console. Must be called on a
    /// Tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened at.
    pub async fn start(
        address: &ListenAddr,
        source: Arc<Source>,
        terms: Terms,
        console: Arc<Console>,
    ) -> Result<Proxy, BindError> {
        let failed = |error| BindError { address: address.clone(), error };
        let listener = match address {
            ListenAddr::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await.map_err(failed)?),
            ListenAddr::Unix(path) => {
                remove_stale_socket(path).await.map_err(failed)?;
                Listener::Unix(UnixListener::bind(path).map_err(failed)?)
            }
        };
        let bound = match &listener {
            Listener::Tcp(tcp) => ListenAddr::Tcp(tcp.local_addr().map_err(failed)?.to_string()),
            Listener::Unix(_) => address.clone(),
        };
        let shared = Arc::new(Shared {
            metrics: ProxyMetrics::new(source.name()),
            source,
            terms: RwLock::new(terms),
            sessions: AtomicUsize::new(0),
            console,
            judge: Judge::default(),
            shadowed: AtomicBool::new(false),
            drain: CancellationToken::new(),
        });
        let proxy = Proxy {
            address: bound,
            shared,
            stop: CancellationToken::new(),
            sessions: TaskTracker::new(),
            kill: CancellationToken::new(),
        };
        tokio::spawn(accept(
            listener,
            Arc::clone(&proxy.shared),
            proxy.sessions.clone(),
            proxy.stop.clone(),
            proxy.kill.clone(),
        ));
        Ok(proxy)
    }

    /// Where it listens: the port that was given, or the one that port 0 became.
    pub fn address(&self) -> &ListenAddr {
        &self.address
    }

    /// Holds to these terms from the next client on.
    pub fn set(&self, terms: Terms) {
        *self.shared.terms.write().unwrap_or_else(PoisonError::into_inner) = terms;
    }

    /// Stops accepting, ends each replication stream at its next commit boundary, lets other sessions finish, and
    /// closes what is left after `deadline`.
    pub async fn drain(self, deadline: Duration) {
        self.stop.cancel();
        self.shared.drain.cancel();
        self.sessions.close();
        if timeout(deadline, self.sessions.wait()).await.is_err() {
            tracing::warn!(sessions = self.sessions.len(), "closing sessions that did not end in time");
            self.kill.cancel();
            self.sessions.wait().await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
        self.kill.cancel();
    }
}

async fn accept(
    listener: Listener,
    shared: Arc<Shared>,
    sessions: TaskTracker,
    stop: CancellationToken,
    kill: CancellationToken,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            // Those that have not said yet what they want come on top of the sessions; one too many is closed unheard.
            Ok((_, peer)) if sessions.len() >= shared.terms().limits.sessions.saturating_add(STARTING) => {
                tracing::warn!(%peer, "too many connections that have not started a session");
            }
            Ok((client, peer)) => {
                let (shared, kill) = (Arc::clone(&shared), kill.clone());
                sessions.spawn(async move {
                    kill.run_until_cancelled(serve(&shared, client, peer)).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: accepting again at once would only spin.
                tracing::error!(%error, "cannot accept a client");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Now and not when the sessions have ended: by then the socket of that name may be a successor's.
    if let Listener::Unix(unix) = listener
        && let Ok(address) = unix.local_addr()
        && let Some(path) = address.as_pathname()
    {
        let _ = fs::remove_file(path);
    }
}

impl Listener {
    /// Cancel-safe: a client is not lost.
    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Listener::Tcp(listener) => {
                let (client, address) = listener.accept().await?;
                // A client that is gone already shows itself at the first read.
                let _ = tune(&client);
                Ok((client.into(), Peer::Tcp(address)))
            }
            Listener::Unix(listener) => Ok((listener.accept().await?.0.into(), Peer::Unix)),
        }
    }
}

pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl Peer {
    /// Whether it is on this machine.
    pub(super) fn is_local(&self) -> bool {
        match self {
            // Mapped into IPv6 where a socket takes both.
            Peer::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Peer::Unix => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix => f.write_str("local socket"),
        }
    }
}

fn tune(client: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let socket = SockRef::from(client);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// Removes the socket of a walgate that died. One that somebody still listens at, or a file that is no socket,
/// stays, and binding says so.
async fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket {
        match tokio::net::UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_local_sockets_are_on_this_machine() {
        let peer = |address: &str| Peer::Tcp(address.parse().unwrap());
        assert!(Peer::Unix.is_local());
        for address in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(peer(address).is_local(), "{address}");
        }
        for address in ["10.0.0.1:1", "[::ffff:10.0.0.1]:1", "[fe80::1]:1", "0.0.0.0:1", "[::]:1"] {
            assert!(!peer(address).is_local(), "{address}");
        }
    }

    #[test]
    fn an_address_is_host_and_port_or_a_path() {
        for text in ["127.0.0.1:6432", "[::1]:0", "localhost:6432"] {
            assert_eq!(text.parse(), Ok(ListenAddr::Tcp(text.into())));
        }
        assert_eq!("/run/.s.PGSQL.1".parse(), Ok(ListenAddr::Unix("/run/.s.PGSQL.1".into())));
        for text in ["", "6432", ":6432", "host:", "host:99999", "host:x"] {
            assert_eq!(text.parse::<ListenAddr>(), Err(ListenAddrError), "{text:?}");
        }
    }
}
