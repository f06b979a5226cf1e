//! The daemon: every source with its proxy and its watch, and the HTTP interface, from the start to the drain.
//!
//! A reload compares what is to run with what does, source by source, and touches no more than what has changed.

mod running;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{self, Config};
use crate::console::Console;
use crate::gate::Phase;
use crate::http::{self, View};
use crate::keeper::Keeper;
use crate::proxy::{BindError, Proxy};
use crate::source::Source;
use crate::telemetry::Metrics;
use crate::webhook::Webhook;
use running::Running;

/// How long HTTP requests under way may take once the sessions have ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// File descriptors of a session, and of everything else.
const DESCRIPTORS: (usize, usize) = (2, 64);

/// Runs until SIGTERM or SIGINT and drains then. At SIGHUP it takes what `reread` gives; where that fails everything
/// stays as it is.
///
/// # Errors
/// If an address cannot be listened at, or the process cannot be set up.
pub async fn run<E: Display>(config: Config, reread: impl Fn() -> Result<Config, E>) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new()?;
    let mut daemon = Daemon::start(config, Metrics::install()?).await?;
    loop {
        tokio::select! {
            Some(_) = daemon.ending.join_next() => {}
            signal = signals.next() => match signal {
                "SIGHUP" => {
                    let reloaded = match reread() {
                        Ok(config) => daemon.reload(config).await.map_err(|error| error.to_string()),
                        Err(error) => Err(error.to_string()),
                    };
                    match reloaded {
                        Ok(()) => tracing::info!("configuration and certificates read again"),
                        Err(error) => tracing::error!(%error, "not reloaded: everything stays as it was"),
                    }
                }
                signal => {
                    tracing::info!(signal, "draining");
                    break;
                }
            },
        }
    }
    daemon.view.drain();
    tokio::select! {
        () = daemon.end() => tracing::info!("drained"),
        signal = signals.end() => tracing::warn!(signal, "ending at once"),
    }
    daemon.stop.cancel();
    // A request that does not end is not waited for.
    if let Some(http) = daemon.http
        && let Ok(ended) = timeout(LAST_ANSWERS, http).await
    {
        ended??;
    }
    Ok(())
}

/// A gate that is kept until this is dropped.
struct Kept {
    keeper: Arc<Keeper>,
    _keeping: DropGuard,
}

impl Kept {
    fn start(config: &config::Gate, source: Arc<Source>) -> Kept {
        let (keeper, stop) = (Arc::new(Keeper::new(config.clone(), source)), CancellationToken::new());
        tokio::spawn(Arc::clone(&keeper).keep(stop.clone()));
        Kept { keeper, _keeping: stop.drop_guard() }
    }

    /// Says so where a fence goes with it: nothing passes until another is set.
    fn warn_of_fences(&self, why: &str) {
        for phase in [Phase::Cutover, Phase::Rollback] {
            if let Some(fence) = self.keeper.standing(phase) {
                let (gate, target_lsn) = (&self.keeper.terms().name, fence.target_lsn);
                tracing::warn!(gate, %phase, %target_lsn, "{why}");
            }
        }
    }
}

/// A daemon that runs, and heeds no signals. It is not drained when it is dropped: [`run`] does that.
pub struct Daemon {
    config: Config,
    running: BTreeMap<String, Running>,
    gates: Vec<Kept>,
    /// Sources that were taken away, draining.
    ending: JoinSet<()>,
    view: Arc<View>,
    console: Arc<Console>,
    webhook: Arc<Webhook>,
    http: Option<JoinHandle<io::Result<()>>>,
    /// Ends the HTTP interface.
    stop: CancellationToken,
}

/// What a reload does with a source.
enum Change {
    /// It is new.
    Start(Running),
    /// It stays, perhaps at another address.
    Move(Option<Proxy>),
}

impl Daemon {
    /// Starts everything; listens at every address when it returns.
    ///
    /// # Errors
    /// If an address cannot be listened at.
    pub async fn start(config: Config, metrics: Metrics) -> Result<Daemon, Box<dyn Error>> {
        let view = Arc::new(View::new(metrics));
        raise_descriptors(&config);
        let listener = match &config.http {
            None => None,
            Some(http) => {
                let listener = TcpListener::bind(http.listen).await;
                let listener = listener.map_err(|error| format!("cannot listen at {}: {error}", http.listen))?;
                view.set_token(http.token.clone());
                Some((listener, http.tls.clone()))
            }
        };
        let mut daemon = Daemon {
            config,
            running: BTreeMap::new(),
            gates: Vec::new(),
            ending: JoinSet::new(),
            console: Arc::new(Console::new(Arc::clone(&view))),
            view,
            webhook: Arc::default(),
            http: None,
            stop: CancellationToken::new(),
        };
        daemon.console.configure(&daemon.config);
        daemon.webhook.set(daemon.config.webhook.clone());
        for source in daemon.config.sources.clone() {
            let name = source.name.clone();
            let running = Running::start(source, &daemon.console).await?;
            daemon.webhook.follow(&running.source());
            daemon.running.insert(name, running);
        }
        daemon.keep_gates();
        daemon.show();
        if let Some((listener, tls)) = listener {
            tracing::info!(address = %listener.local_addr()?, "answering HTTP");
            let serving = http::serve(listener, tls, Arc::clone(&daemon.view), daemon.stop.clone());
            daemon.http = Some(tokio::spawn(serving));
        }
        Ok(daemon)
    }

    /// Makes what runs be what this says. Every new address is listened at before anything is given up.
    ///
    /// # Errors
    /// If one cannot be listened at; everything is as before then.
    async fn reload(&mut self, config: Config) -> Result<(), BindError> {
        let mut changes = Vec::new();
        for source in &config.sources {
            changes.push(match self.running.get(&source.name) {
                Some(known) => Change::Move(known.move_to(source, &self.console).await?),
                None => Change::Start(Running::start(source.clone(), &self.console).await?),
            });
        }
        let mut before = std::mem::take(&mut self.running);
        for (source, change) in config.sources.iter().zip(changes) {
            let running = match (change, before.remove(&source.name)) {
                (Change::Start(new), _) => {
                    self.webhook.follow(&new.source());
                    new
                }
                (Change::Move(moved), Some(mut known)) => {
                    if let Some(left) = known.become_like(source.clone(), moved) {
                        self.ending.spawn(left.drain(config.drain_timeout));
                    }
                    known
                }
                (Change::Move(_), None) => continue,
            };
            self.running.insert(source.name.clone(), running);
        }
        for (name, gone) in before {
            tracing::info!(source = name, "the source is not configured any more");
            self.ending.spawn(gone.end(config.drain_timeout));
        }
        self.config.gates.clone_from(&config.gates);
        self.keep_gates();
        self.show();
        self.console.configure(&config);
        self.webhook.set(config.webhook.clone());
        let (old, new) = (self.config.http.as_ref(), config.http.as_ref());
        if old.map(|http| http.listen) != new.map(|http| http.listen) {
            tracing::warn!("the address of the HTTP interface changes only with a restart");
        }
        self.view.set_token(new.and_then(|http| http.token.clone()));
        if let Some(tls) = old.and_then(|http| http.tls.as_ref())
            && let Err(error) = tls.reload()
        {
            tracing::error!(%error, "the certificate of the HTTP interface stays as it was");
        }
        raise_descriptors(&config);
        let http = self.config.http.take();
        self.config = Config { http, ..config };
        Ok(())
    }

    /// Keeps the gates that are configured. One that is about the same, over a source that has not changed, keeps its fence.
    fn keep_gates(&mut self) {
        let mut before = std::mem::take(&mut self.gates);
        for config in &self.config.gates {
            let Some(source) = self.running.get(&config.terms.source).map(Running::source) else { continue };
            let known = before.iter().position(|kept| kept.keeper.is_of(config, &source));
            let known = known.map(|known| before.swap_remove(known));
            if let Some(kept) = &known {
                kept.keeper.take(config);
            }
            self.gates.push(known.unwrap_or_else(|| Kept::start(config, source)));
        }
        before
            .iter()
            .for_each(|kept| kept.warn_of_fences("the gate or its source was changed, so its fence is forgotten"));
        for (name, running) in &self.running {
            let gates = self.config.gates.iter().filter(|gate| gate.terms.source == *name);
            running.source().lag().keep_copies(gates.flat_map(|gate| gate.terms.consumers.iter().cloned()));
        }
    }

    /// Shows over HTTP what runs.
    fn show(&self) {
        self.view.set_gates(self.gates.iter().map(|kept| Arc::clone(&kept.keeper)).collect());
        self.view.set_sources(self.running.values().map(Running::source).collect());
    }

    /// Drains everything.
    async fn end(&mut self) {
        let gates = std::mem::take(&mut self.gates);
        gates.iter().for_each(|kept| kept.warn_of_fences("walgate ends, so the fence is forgotten"));
        drop(gates);
        let running = std::mem::take(&mut self.running);
        for running in running.into_values() {
            self.ending.spawn(running.end(self.config.drain_timeout));
        }
        while self.ending.join_next().await.is_some() {}
    }
}

/// Allows as many file descriptors as the system lets a process have.
fn raise_descriptors(config: &Config) {
    let proxies = config.sources.iter().filter(|source| source.listen.is_some());
    let sessions: usize = proxies.map(|source| source.limits.sessions).sum();
    let wanted = (sessions.saturating_mul(DESCRIPTORS.0).saturating_add(DESCRIPTORS.1)) as u64;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(allowed) if allowed >= wanted => {}
        Ok(allowed) => tracing::warn!(
            allowed,
            wanted,
            "fewer file descriptors are allowed than as many sessions need; raise the limit (ulimit -Hn, LimitNOFILE=)"
        ),
        Err(error) => tracing::warn!(%error, "the limit of file descriptors cannot be raised"),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT. Cancel-safe.
    async fn end(&mut self) -> &'static str {
        loop {
            match self.next().await {
                "SIGHUP" => {}
                signal => return signal,
            }
        }
    }

    /// Waits for the next one. Cancel-safe.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
