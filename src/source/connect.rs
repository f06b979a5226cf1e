//! Dialling: which host, which address, TLS or not, within which time.
//!
//! [`Connector::open`] and [`Connector::open_host`] stop where the start-up packet would go, which is what the proxy
//! wants; the sessions of this module's siblings log in on top of the same attempts.

use std::future::ready;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::dsn::{Dsn, Host, SslMode, Target, TcpOptions};
use super::error::{ConnectError, Failure};
use super::stream::Stream;
use super::tls::{Negotiated, TlsClient};

/// A connection string with its certificates read: what opens connections. Cheap to clone.
///
/// Certificate files are read once, when it is made; make another to read them again.
#[derive(Clone, Debug)]
pub struct Connector {
    dsn: Arc<Dsn>,
    tls: Option<TlsClient>,
}

/// An open connection that no start-up packet was sent on.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: Stream,
    /// Which host of the connection string it is to.
    pub host: Host,
    /// The address it is to; `None` for a Unix-domain socket.
    pub address: Option<SocketAddr>,
}

/// One place to dial, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Whether an attempt begins with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Plain,
    Tls,
}

impl Connector {
    /// Reads the certificates that the connection string names.
    ///
    /// # Errors
    ///
    /// If one of them cannot be used; the message says which and why.
    pub fn new(dsn: Dsn) -> Result<Connector, ConnectError> {
        let tls = TlsClient::load(&dsn.tls)?;
        Ok(Connector { dsn: Arc::new(dsn), tls })
    }

    /// The connection string.
    pub fn dsn(&self) -> &Dsn {
        &self.dsn
    }

    /// Connects to the first host that answers, up to and with TLS. Not cancel-safe: what was dialled is closed.
    ///
    /// With `sslmode=allow` the connection is plain: what libpq falls back to TLS for comes after the start-up packet.
    ///
    /// # Errors
    ///
    /// If no host gives a connection, with the reason for each.
    pub async fn open(&self) -> Result<Connected, ConnectError> {
        let hosts = self.hosts_in_order();
        self.attempt(&hosts, |connected| ready(Ok(connected))).await
    }

    /// The same with one host, to be chosen from [`Dsn::hosts`].
    ///
    /// # Errors
    ///
    /// If the host gives no connection, with the reason for each of its addresses.
    pub async fn open_host(&self, host: &Host) -> Result<Connected, ConnectError> {
        self.attempt(&[host], |connected| ready(Ok(connected))).await
    }

    /// The hosts in the order to try them.
    pub(super) fn hosts_in_order(&self) -> Vec<&Host> {
        let mut hosts: Vec<(u64, &Host)> = self.dsn.hosts().iter().map(|host| (0, host)).collect();
        if self.dsn.random_order {
            // The keys of the standard library's hasher are random, which is enough to spread connections.
            let random = RandomState::new();
            for (index, (order, _)) in hosts.iter_mut().enumerate() {
                *order = random.hash_one(index);
            }
            hosts.sort_by_key(|(order, _)| *order);
        }
        hosts.into_iter().map(|(_, host)| host).collect()
    }

    /// Tries host by host and address by address until `login` accepts a connection. `connect_timeout` bounds each
    /// attempt, login included.
    pub(super) async fn attempt<T, L: Future<Output = Result<T, Failure>>>(
        &self,
        hosts: &[&Host],
        login: impl Fn(Connected) -> L,
    ) -> Result<T, ConnectError> {
        let mut failures = Vec::new();
        for host in hosts {
            let places = match self.limit(resolve(host)).await {
                Ok(places) => places,
                Err(failure) => {
                    failures.push((Some(host.to_string()), failure));
                    continue;
                }
            };
            for place in places {
                let mut encryptions = self.encryptions(&place).iter().copied().peekable();
                while let Some(encryption) = encryptions.next() {
                    let mut as_planned = false;
                    let attempt = async {
                        let connected = self.dial(host, &place, encryption).await?;
                        as_planned = connected.stream.is_encrypted() == (encryption == Encryption::Tls);
                        login(connected).await
                    };
                    let failure = match self.limit(attempt).await {
                        Ok(done) => return Ok(done),
                        Err(failure) => failure,
                    };
                    let (fall_back, last) = (falls_back(&failure, as_planned), ends_search(&failure));
                    failures.push((Some(place_label(host, &place)), failure));
                    if fall_back && encryptions.peek().is_some() {
                        continue;
                    }
                    if last {
                        return Err(ConnectError::new(failures));
                    }
                    break;
                }
            }
        }
        Err(ConnectError::new(failures))
    }

    /// The ways to encrypt, in the order libpq tries them (`init_allowed_encryption_methods` in `fe-connect.c`).
    fn encryptions(&self, place: &Place) -> &'static [Encryption] {
        match (place, self.dsn.tls.mode) {
            (Place::Unix(_), _) | (_, SslMode::Disable) => &[Encryption::Plain],
            (_, SslMode::Allow) => &[Encryption::Plain, Encryption::Tls],
            (_, SslMode::Prefer) => &[Encryption::Tls, Encryption::Plain],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encryption::Tls],
        }
    }

    async fn dial(&self, host: &Host, place: &Place, encryption: Encryption) -> Result<Connected, Failure> {
        let (stream, address) = match place {
            Place::Unix(path) => (UnixStream::connect(path).await.map_err(unreachable)?.into(), None),
            Place::Tcp(address) => {
                let tcp = dial_tcp(*address, &self.dsn.tcp).await.map_err(unreachable)?;
                let stream = match (&self.tls, encryption) {
                    (Some(tls), Encryption::Tls) => match tls.negotiate(tcp, &host.target, *address).await? {
                        Negotiated::Tls(stream) => (*stream).into(),
                        Negotiated::NotOffered(tcp) if self.dsn.tls.mode < SslMode::Require => tcp.into(),
                        Negotiated::NotOffered(_) => return Err(Failure::TlsNotOffered),
                    },
                    (None, Encryption::Tls) => return Err(Failure::TlsNotOffered),
                    (_, Encryption::Plain) => tcp.into(),
                };
                (stream, Some(*address))
            }
        };
        Ok(Connected { stream, host: host.clone(), address })
    }

    async fn limit<T>(&self, step: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match self.dsn.connect_timeout {
            None => step.await,
            Some(limit) => timeout(limit, step).await.unwrap_or(Err(Failure::Timeout(limit))),
        }
    }
}

/// Whether the other way to encrypt may fare better, where there is one. It would not for a rejected password, which is
/// not to be sent again in clear, nor where the server had declined TLS and was asked in clear already.
fn falls_back(failure: &Failure, as_planned: bool) -> bool {
    match failure {
        Failure::Tls(_) => true,
        Failure::Server(error) => as_planned && error.code != "28P01",
        _ => false,
    }
}

/// Whether the other hosts are not to be tried: the server was reached and refused, and is not just starting up.
fn ends_search(failure: &Failure) -> bool {
    match failure {
        Failure::Server(error) => error.code != "57P03",
        Failure::Auth(_) => true,
        _ => false,
    }
}

fn place_label(host: &Host, place: &Place) -> String {
    match (place, &host.target) {
        (Place::Tcp(address), Target::Name(name)) if *name != address.ip().to_string() => {
            format!("{host} ({})", address.ip())
        }
        _ => host.to_string(),
    }
}

async fn resolve(host: &Host) -> Result<Vec<Place>, Failure> {
    match &host.target {
        Target::Socket(directory) => Ok(vec![Place::Unix(socket_path(directory, host.port))]),
        Target::Address { address, .. } => Ok(vec![Place::Tcp((*address, host.port).into())]),
        Target::Name(name) => {
            let addresses: Vec<Place> =
                lookup_host((name.as_str(), host.port)).await.map_err(Failure::Dns)?.map(Place::Tcp).collect();
            if addresses.is_empty() {
                return Err(Failure::Dns(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
            }
            Ok(addresses)
        }
    }
}

/// `DIRECTORY/.s.PGSQL.PORT`; a leading `@` stands for the abstract namespace, which begins with a zero byte.
fn socket_path(directory: &Path, port: u16) -> PathBuf {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => PathBuf::from(format!("\0{name}")),
        None => path,
    }
}

async fn dial_tcp(address: SocketAddr, options: &TcpOptions) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let options_of = SockRef::from(&socket);
    options_of.set_tcp_nodelay(true)?;
    if options.keepalives {
        let mut keepalive = TcpKeepalive::new();
        if let Some(idle) = options.keepalives_idle {
            keepalive = keepalive.with_time(idle);
        }
        if let Some(interval) = options.keepalives_interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(count) = options.keepalives_count {
            keepalive = keepalive.with_retries(count);
        }
        options_of.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    options_of.set_tcp_user_timeout(options.user_timeout)?;
    socket.connect(address).await
}

fn unreachable(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Failure::Refused,
        _ => Failure::Unreachable(error),
    }
}
