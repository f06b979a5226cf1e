//! A source as the daemon holds it: how to reach it, what is known of its consumers, whether it answers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::timeout;

use super::audits::Audits;
use super::connect::{Connected, Connector};
use super::dsn::{Host, TargetSessionAttrs};
use super::error::{ConnectError, Failure};
use super::proofs::Proofs;
use super::sessions::Sessions;
use crate::lag::{Event, Observe, SourceLag, SourcePoll};
use crate::lsn::Lsn;

/// One source, shared by its listener, its sessions, its poller and whoever shows it.
#[derive(Debug)]
pub struct Source {
    name: String,
    connector: RwLock<Connector>,
    lag: Mutex<SourceLag>,
    health: Mutex<Health>,
    /// The server's version, as it says.
    version: Mutex<Option<String>>,
    /// What keeps walgate from seeing all there is.
    remarks: Mutex<Vec<&'static str>>,
    /// Wakes the poller before its time.
    look_wanted: Notify,
    looks: watch::Sender<()>,
    events: broadcast::Sender<Event>,
    pub(super) audits: Audits,
    pub(super) proofs: Proofs,
    /// The host that satisfies `target_session_attrs`, as the poller found it.
    chosen: Mutex<Option<Host>>,
    sessions: Sessions,
    /// Whether a database of some name is there, and when that was found out.
    asked: tokio::sync::Mutex<Option<(Instant, String, Option<bool>)>>,
}

/// How long asking for a database may take, and how long the answer holds.
const ASK: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Events that a listener may be behind.
const EVENTS: usize = 256;

/// Whether a source answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing has been tried yet.
    Untried,
    /// The last attempt reached it.
    Reached,
    /// The last attempt failed.
    Unreachable {
        /// The failure's label.
        kind: &'static str,
        /// The failure in words, for the log and for `/readyz`.
        reason: String,
    },
}

impl Source {
    /// A source of which nothing is known yet, to be observed in this way at best.
    pub fn new(name: impl Into<String>, connector: Connector, observe: Observe, stale_after: Duration) -> Source {
        let name = name.into();
        Source {
            lag: Mutex::new(SourceLag::new(name.clone(), observe, stale_after)),
            name,
            connector: RwLock::new(connector),
            health: Mutex::new(Health::Untried),
            version: Mutex::default(),
            remarks: Mutex::default(),
            look_wanted: Notify::new(),
            looks: watch::Sender::new(()),
            events: broadcast::Sender::new(EVENTS),
            audits: Audits::default(),
            proofs: Proofs::default(),
            chosen: Mutex::new(None),
            sessions: Sessions::default(),
            asked: tokio::sync::Mutex::default(),
        }
    }

    /// Its name in the configuration, in metrics and in answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lag model. Held for the time of a look or of one piece of input, never across a wait.
    pub fn lag(&self) -> MutexGuard<'_, SourceLag> {
        lock(&self.lag)
    }

    /// Whether it answers.
    pub fn health(&self) -> Health {
        lock(&self.health).clone()
    }

    /// Notes how an attempt to reach it ended.
    pub fn reached(&self, outcome: Result<(), &ConnectError>) {
        *lock(&self.health) = match outcome {
            Ok(()) => Health::Reached,
            Err(error) => Health::Unreachable { kind: error.kind(), reason: error.to_string() },
        };
    }

    /// The server's version, as it said at the last login.
    pub fn version(&self) -> Option<String> {
        lock(&self.version).clone()
    }

    /// What keeps walgate from seeing all there is, each with the mend.
    pub fn remarks(&self) -> Vec<&'static str> {
        lock(&self.remarks).clone()
    }

    /// What changes from now on, from one look to the next.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Asks for a look before its time.
    pub fn want_look(&self) {
        self.look_wanted.notify_one();
    }

    /// Tells when a look was taken.
    pub fn looks(&self) -> watch::Receiver<()> {
        self.looks.subscribe()
    }

    /// Waits until a look is asked for. Cancel-safe.
    pub(super) async fn look_wanted(&self) {
        self.look_wanted.notified().await;
    }

    /// Takes a look that was begun at this time.
    pub(super) fn take_look(&self, seen: SourcePoll, begun: Instant) {
        let events = {
            let mut lag = self.lag();
            lag.poll(seen, begun);
            lag.changes(Instant::now())
        };
        for event in events {
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
        self.looks.send_replace(());
        self.note_progress();
    }

    pub(super) fn note_version(&self, version: Option<&str>) {
        *lock(&self.version) = version.map(str::to_owned);
    }

    pub(super) fn set_remarks(&self, remarks: Vec<&'static str>) {
        for remark in &remarks {
            tracing::warn!(source = self.name, "{remark}");
        }
        *lock(&self.remarks) = remarks;
    }

    /// What opens connections to it.
    pub fn connector(&self) -> Connector {
        self.connector.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens connections differently from now on: certificates were read again.
    pub fn set_connector(&self, connector: Connector) {
        let mut known = self.connector.write().unwrap_or_else(PoisonError::into_inner);
        if known.dsn() != connector.dsn() {
            *lock(&self.chosen) = None;
        }
        *known = connector;
    }

    /// The poller has found the host that satisfies `target_session_attrs`. It stays until another is found.
    pub fn choose(&self, host: Host) {
        *lock(&self.chosen) = Some(host);
    }

    /// The host that the poller found.
    pub(crate) fn chosen(&self) -> Option<Host> {
        lock(&self.chosen).clone()
    }

    /// Opens a connection for a client. Which of several hosts is primary or writable only a login can tell, so
    /// then the connection goes to the one the poller has found.
    ///
    /// # Errors
    /// If no host can be reached, or none is known to satisfy `target_session_attrs`.
    pub async fn open(&self) -> Result<Connected, ConnectError> {
        let connector = self.connector();
        let dsn = connector.dsn();
        if dsn.hosts().len() == 1 || dsn.target_session_attrs == TargetSessionAttrs::Any {
            return connector.open().await;
        }
        match self.chosen() {
            Some(host) => connector.open_host(&host).await,
            None => Err(Failure::SessionAttrs("not known yet").into()),
        }
    }

    /// What there is to say of it.
    pub fn report(&self, now: Instant) -> SourceReport {
        let (state, reason) = match self.health() {
            Health::Untried => ("untried", None),
            Health::Reached => ("reached", None),
            Health::Unreachable { reason, .. } => ("unreachable", Some(reason)),
        };
        let lag = self.lag();
        let look = lag.last_look();
        let history = lag.history();
        SourceReport {
            source: self.name.clone(),
            state,
            reason,
            server: look.map(|(look, _)| look.server.to_string()),
            database: look.map(|(look, _)| look.database.clone()),
            server_version: self.version(),
            system_identifier: history.map(|history| history.system.to_string()),
            timeline: history.and_then(|history| history.timeline),
            in_recovery: look.map(|(look, _)| look.in_recovery),
            flushed_lsn: look.map(|(look, _)| look.flushed),
            observed_age_seconds: look.map(|(_, at)| now.saturating_duration_since(at).as_secs_f64()),
            observe: lag.observe(),
            sessions: self.sessions.counts().into(),
            remarks: self.remarks(),
        }
    }

    /// Whether the source has a database of this name, as it said in the last seconds; `None` where it does not say.
    pub async fn has_database(&self, name: &str) -> Option<bool> {
        // Held while asking, so that many clients at once ask once.
        let mut asked = self.asked.lock().await;
        if let Some((at, about, answer)) = &*asked
            && about == name
            && at.elapsed() < ASK_AGAIN
        {
            return *answer;
        }
        let ask = async {
            let session = self.connector().sql().await.ok()?;
            session.harden().await.ok()?;
            let row = session.query_one("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", &[&name]).await;
            row.ok()?.try_get(0).ok()
        };
        let answer = timeout(ASK, ask).await.ok().flatten();
        *asked = Some((Instant::now(), name.to_owned(), answer));
        answer
    }

    /// Its clients.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }
}

/// A source as `/v1/sources` shows it. What is not known is null.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SourceReport {
    /// The source's name.
    pub source: String,
    /// `untried`, `reached` or `unreachable`: how walgate's own session with it is.
    pub state: &'static str,
    /// Why it cannot be reached.
    pub reason: Option<String>,
    /// Which host of the connection string answers.
    pub server: Option<String>,
    /// The database that walgate is connected to.
    pub database: Option<String>,
    /// The server's version.
    pub server_version: Option<String>,
    /// What names the cluster; a string, for it needs 64 bits.
    pub system_identifier: Option<String>,
    /// The timeline; null on a standby.
    pub timeline: Option<u32>,
    /// Whether it is a standby.
    pub in_recovery: Option<bool>,
    /// How far its WAL is flushed (on a standby: replayed).
    pub flushed_lsn: Option<Lsn>,
    /// Seconds since it was looked at.
    pub observed_age_seconds: Option<f64>,
    /// How its consumers are observed at best.
    pub observe: Observe,
    /// Sessions being relayed, by kind.
    pub sessions: BTreeMap<&'static str, u64>,
    /// What keeps walgate from seeing all there is, each with the mend.
    pub remarks: Vec<&'static str>,
}

/// What a thread that panicked left behind is still a consistent model: every update is one call.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
