//! One client connection, from accepting it to its end.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::counter;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::guard::{Judge, Sentry};
use super::handshake::{self, HandshakeError, Request, refuse};
use super::listener::Peer;
use super::login::pass_authentication_request;
use super::relay::{RelayError, relay};
use super::tap::Tap;
use super::{Terms, is_gone};
use crate::console::Console;
use crate::source::{ConnectError, Connected, Introduction, Session, Source, Stream, relayed};
use crate::telemetry::ProxyMetrics;
use crate::tls::ServerTls;
use crate::wire::backend::ErrorFields;
use crate::wire::startup::{SessionKind, StartupPacket};

/// How long a cancel request may take: the server closes the connection as its answer.
const CANCEL: Duration = Duration::from_secs(10);

/// How long a login may take where the proxy reads along. Servers give a client `authentication_timeout`, 60 s
/// by default.
const LOGIN: Duration = Duration::from_secs(60);

/// What all sessions of a listener share.
pub(super) struct Shared {
    pub(super) source: Arc<Source>,
    pub(super) terms: RwLock<Terms>,
    /// Sessions at this moment.
    pub(super) sessions: AtomicUsize,
    pub(super) metrics: ProxyMetrics,
    /// walgate's own database.
    pub(super) console: Arc<Console>,
    /// What decides which consumers may begin.
    pub(super) judge: Judge,
    /// Whether it was said that the source has a database of the console's name.
    pub(super) shadowed: AtomicBool,
    /// Streams end at their next commit boundary.
    pub(super) drain: CancellationToken,
}

impl Shared {
    pub(super) fn terms(&self) -> Terms {
        self.terms.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A session that counts towards the limit while this lives.
struct Admission<'a>(&'a AtomicUsize);

impl Admission<'_> {
    fn within(sessions: &AtomicUsize, limit: usize) -> Option<Admission<'_>> {
        let (before, admission) = (sessions.fetch_add(1, Ordering::Relaxed), Admission(sessions));
        (before < limit).then_some(admission)
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one client. `peer` is for the log.
pub(super) async fn serve(shared: &Shared, client: Stream, peer: Peer) {
    let terms = shared.terms();
    let tls = terms.tls.as_deref().map(ServerTls::config);
    let request = match timeout(terms.limits.startup, handshake::accept(client, tls)).await {
        Ok(Ok(request)) => request,
        Ok(Err(HandshakeError::Io(error))) if is_gone(&error) => return,
        Ok(Err(error)) => {
            count_error(shared, "handshake");
            return tracing::info!(%peer, %error, "client refused");
        }
        Err(_) => {
            count_error(shared, "startup_timeout");
            return tracing::info!(%peer, "client sent no start-up packet in time");
        }
    };
    match request {
        Request::Nothing => {}
        Request::Cancel(packet) => {
            if !matches!(timeout(CANCEL, cancel(shared, &packet)).await, Ok(Ok(()))) {
                tracing::warn!(%peer, "a cancel request could not be delivered");
            }
        }
        Request::Session { mut client, packet, kind } => {
            // What holds by now.
            let limit = shared.terms().limits.sessions;
            let Some(_admission) = Admission::within(&shared.sessions, limit) else {
                count_error(shared, "too_many_sessions");
                let error = ErrorFields::fatal("53300", "walgate: too many sessions");
                let hint = format!("The limit is {limit} (--max-sessions).");
                return refuse(&mut client, error.with_hint(hint)).await;
            };
            let startup = match packet.get(4..).map(StartupPacket::parse) {
                Some(Ok(StartupPacket::StartupMessage(startup))) => startup,
                // It was parsed before.
                _ => return,
            };
            let who = Introduction::of(&startup);
            if kind == SessionKind::Sql && Box::pin(asks_console(shared, &who)).await {
                let listed = shared.source.sessions().begin("console", who, &peer);
                let served = shared.console.serve(client, &startup, peer.is_local(), &listed.session, &shared.drain);
                return Box::pin(served).await;
            }
            drop(startup);
            let listed = shared.source.sessions().begin(relayed(kind), who, &peer);
            // Boxed, so that what a session needs only to begin does not stay with it.
            let Some(server) = Box::pin(connect(shared, &mut client, &packet, &peer)).await else { return };
            drop(packet);
            if let Err(error) = session(shared, client, server, kind, &listed.session).await {
                log_end(shared, &error, kind, &peer);
            }
        }
    }
}

/// Whether the console is what the client asked for. A real database of that name comes first.
async fn asks_console(shared: &Shared, who: &Introduction) -> bool {
    if !shared.console.answers_for(&who.database) {
        return false;
    }
    // Without connections of its own walgate cannot know.
    if shared.terms().passive || shared.source.has_database(&who.database).await != Some(true) {
        return true;
    }
    if !shared.shadowed.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            source = shared.source.name(),
            database = &*who.database,
            "the source has a database of the console's name, which clients get; give the console another name \
             (--console, or database under [console])"
        );
    }
    false
}

/// Connects to the source and sends it the client's start-up packet, unchanged.
async fn connect(shared: &Shared, client: &mut Stream, packet: &[u8], peer: &impl fmt::Display) -> Option<Connected> {
    let opened = shared.source.open().await;
    if shared.terms().passive {
        shared.source.reached(opened.as_ref().map(|_| ()));
    }
    let mut server = match opened {
        Ok(connected) => connected,
        Err(error) => {
            count_error(shared, error.kind());
            tracing::warn!(source = shared.source.name(), %peer, %error, "cannot connect to the source");
            refuse(client, unreachable(&error)).await;
            return None;
        }
    };
    let sent = async {
        server.stream.write_all(packet).await?;
        server.stream.flush().await
    };
    if let Err(error) = sent.await {
        count_error(shared, "upstream");
        tracing::warn!(source = shared.source.name(), %peer, %error, "the source closed the connection");
        return None;
    }
    Some(server)
}

async fn session(
    shared: &Shared,
    mut client: Stream,
    server: Connected,
    kind: SessionKind,
    listed: &Arc<Session>,
) -> Result<(), RelayError> {
    let Connected { stream: mut server, host, .. } = server;
    let mut tap = (kind != SessionKind::Sql)
        .then(|| Box::new(Tap::listed(Arc::clone(&shared.source), &host, Arc::clone(listed))));
    let _ = listed.server.set(host.to_string().into());
    drop(host);
    // Without TLS upstream no channel binding is offered, and a login passes like everything else.
    if server.is_encrypted() {
        let login = Box::pin(pass_authentication_request(&mut client, &mut server, tap.as_deref_mut()));
        match timeout(LOGIN, login).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(RelayError::Upstream(io::ErrorKind::TimedOut.into())),
        }
    }
    let sentry = (kind == SessionKind::Logical).then(|| Box::new(Sentry::new(shared, &listed.database)));
    let ended = relay(&mut client, &mut server, tap, sentry, shared, listed).await;
    // A reset is passed on as one: nobody is to wait for what will not come.
    match &ended {
        Err(RelayError::Downstream(error)) if error.kind() == io::ErrorKind::ConnectionReset => reset(&server),
        Err(RelayError::Upstream(error)) if error.kind() == io::ErrorKind::ConnectionReset => reset(&client),
        _ => {}
    }
    ended
}

/// Delivers a cancel request on a connection of its own, to every host: only the one that runs the session
/// knows the key. A server answers by closing the connection, whether it found the session or not.
async fn cancel(shared: &Shared, packet: &[u8]) -> Result<(), ConnectError> {
    let connector = shared.source.connector();
    let mut deliveries = JoinSet::new();
    for host in connector.dsn().hosts().to_vec() {
        let (connector, packet) = (connector.clone(), packet.to_vec());
        deliveries.spawn(async move {
            let mut server = connector.open_host(&host).await?.stream;
            if server.write_all(&packet).await.is_ok() && server.flush().await.is_ok() {
                let _ = tokio::io::copy(&mut server, &mut tokio::io::sink()).await;
            }
            Ok(())
        });
    }
    deliveries.join_all().await.into_iter().collect()
}

fn reset(stream: &Stream) {
    if let Some(tcp) = stream.tcp() {
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }
}

/// What a client is told of a source that cannot be reached: the kind of failure, no address and no text that
/// came from elsewhere.
fn unreachable(error: &ConnectError) -> ErrorFields<'static> {
    let why = match error.kind() {
        "refused" => "connection refused",
        "timeout" => "no answer in time",
        "dns" => "its name does not resolve",
        "tls" | "config" => "TLS cannot be established",
        "session_attrs" => "no host is known to satisfy target_session_attrs",
        _ => "the connection failed",
    };
    ErrorFields::fatal("08001", format!("walgate cannot reach the source: {why}")).with_hint("walgate's log says more.")
}

fn log_end(shared: &Shared, error: &RelayError, kind: SessionKind, peer: &impl fmt::Display) {
    let (RelayError::Downstream(inner) | RelayError::Upstream(inner)) = error;
    let kind_of_error = match error {
        RelayError::Downstream(_) => "downstream",
        RelayError::Upstream(_) => "upstream",
    };
    count_error(shared, kind_of_error);
    if kind == SessionKind::Sql && is_gone(inner) {
        tracing::debug!(%peer, %error, "session ended");
    } else {
        tracing::info!(%peer, ?kind, %error, "session ended");
    }
}

fn count_error(shared: &Shared, kind: &'static str) {
    counter!("walgate_errors_total", "source" => shared.source.name().to_owned(), "kind" => kind).increment(1);
}
