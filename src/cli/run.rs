//! `walgate run`: the daemon.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use super::BAD_CONFIG;
use crate::http::{self, View};
use crate::lag::Observe;
use crate::proxy::{Limits, ListenAddr, Proxy, ServerTls, ServerTlsError};
use crate::source::dsn::{DsnError, SystemEnvironment, TargetSessionAttrs};
use crate::source::{ConnectError, Connector, Dsn, Source, watch};
use crate::telemetry::Metrics;

/// How long HTTP requests under way may take once the sessions have ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Turns of sessions between two looks for events.
const EVENT_INTERVAL: u32 = 4;

/// The source that the flags describe.
const SOURCE: &str = "main";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The source: a connection string, or host:port. Without it DATABASE_URL and the PG… variables count
    #[arg(long, value_name = "DSN")]
    upstream: Option<String>,
    /// Where clients connect: host:port, or the path of a Unix-domain socket named .s.PGSQL.<port>
    #[arg(long, value_name = "ADDR")]
    listen: ListenAddr,
    /// Where to answer HTTP: address:port, or off
    #[arg(long, value_name = "ADDR|off", default_value = "127.0.0.1:9632")]
    http: HttpAddr,
    /// Open no connections but those of clients, and add nothing to any stream
    #[arg(long)]
    passive: bool,
    /// The certificate chain that clients are shown, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Clients at the same time; more are refused with SQLSTATE 53300
    #[arg(long, value_name = "N", default_value_t = Limits::default().sessions, value_parser = sessions)]
    max_sessions: usize,
    /// The age at which evidence no longer counts
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    stale_after: Duration,
    /// How long sessions may take to end after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = duration)]
    drain_timeout: Duration,
}

#[derive(Clone, Debug)]
enum HttpAddr {
    At(SocketAddr),
    Off,
}

impl FromStr for HttpAddr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<HttpAddr, Self::Err> {
        match text {
            "off" => Ok(HttpAddr::Off),
            _ => text.parse().map(HttpAddr::At).map_err(|_| "expected address:port, like 127.0.0.1:9632, or off"),
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("expected more than 0s".into()),
        Err(error) => Err(format!("{error}; expected a duration like 5s or 500ms")),
    }
}

fn sessions(text: &str) -> Result<usize, String> {
    match text.parse() {
        // What a semaphore holds at the most.
        Ok(sessions @ 1..=0x1fff_ffff) => Ok(sessions),
        _ => Err("expected a number from 1 on".into()),
    }
}

/// Flags, validated, with what they name read.
struct Config {
    connector: Connector,
    tls: Option<Arc<ServerTls>>,
    limits: Limits,
}

#[derive(Debug, thiserror::Error)]
enum ConfigError {
    #[error("no source: give --upstream, or set DATABASE_URL or PGHOST")]
    NoSource,
    #[error("--passive opens no connection that could tell which host target_session_attrs means; name one host")]
    PassiveChoice,
    #[error("--upstream: {0}")]
    Dsn(#[from] DsnError),
    #[error("--upstream: {0}")]
    Connector(#[from] ConnectError),
    #[error("--tls-cert, --tls-key: {0}")]
    Tls(#[from] ServerTlsError),
}

impl Config {
    fn read(args: &Args) -> Result<Config, ConfigError> {
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(certificate), Some(key)) => Some(Arc::new(ServerTls::load(certificate.clone(), key.clone())?)),
            _ => None,
        };
        let limits = Limits { sessions: args.max_sessions, ..Limits::default() };
        let connector = connector(args)?;
        let dsn = connector.dsn();
        if args.passive && dsn.hosts().len() > 1 && dsn.target_session_attrs != TargetSessionAttrs::Any {
            return Err(ConfigError::PassiveChoice);
        }
        Ok(Config { connector, tls, limits })
    }
}

fn connector(args: &Args) -> Result<Connector, ConfigError> {
    let named = ["DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGSERVICE"];
    if args.upstream.is_none() && named.iter().all(|variable| std::env::var_os(variable).is_none()) {
        return Err(ConfigError::NoSource);
    }
    Ok(Connector::new(Dsn::from_argument(args.upstream.as_deref(), &SystemEnvironment)?)?)
}

pub(super) fn main(args: Args) -> ExitCode {
    let config = match Config::read(&args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("walgate: {error}");
            return BAD_CONFIG.into();
        }
    };
    // One thread, as PgBouncer has: what is relayed stays in one core's cache, and memory in one heap. It looks for
    // events after a few turns of the sessions instead of Tokio's 61, so that acknowledgements do not wait behind a
    // busy stream.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = match runtime.enable_all().event_interval(EVENT_INTERVAL).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("walgate: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(args, config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walgate: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: Args, config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = Signals::new()?;
    let metrics = Metrics::install()?;
    for warning in &config.connector.dsn().warnings {
        tracing::warn!("{warning}");
    }
    let source = Arc::new(Source::new(SOURCE, config.connector, Observe::Proxy, args.stale_after));
    let view = Arc::new(View::new(vec![Arc::clone(&source)], metrics.clone()));
    let stop = CancellationToken::new();
    let http = match args.http {
        HttpAddr::Off => None,
        HttpAddr::At(address) => {
            let listener = TcpListener::bind(address).await;
            Some(listener.map_err(|error| format!("cannot listen at {address}: {error}"))?)
        }
    };
    let tls = config.tls.clone();
    let proxy = Proxy::start(&args.listen, Arc::clone(&source), config.tls, config.limits, args.passive).await?;
    tracing::info!(address = %proxy.address(), source = SOURCE, "relaying clients");
    let http = match http {
        None => None,
        Some(listener) => {
            tracing::info!(address = %listener.local_addr()?, "answering HTTP");
            Some(tokio::spawn(http::serve(listener, Arc::clone(&view), stop.clone())))
        }
    };
    let poller = (!args.passive).then(|| tokio::spawn(watch(Arc::clone(&source), stop.clone())));

    let mut upkeep = interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            _ = upkeep.tick() => metrics.upkeep(),
            signal = signals.next() => match signal {
                "SIGHUP" => reload(&args, &source, tls.as_deref()),
                signal => {
                    tracing::info!(signal, "draining");
                    break;
                }
            },
        }
    }
    view.drain();
    tokio::select! {
        () = proxy.drain(args.drain_timeout) => tracing::info!("drained"),
        signal = signals.end() => tracing::warn!(signal, "ending at once"),
    }
    stop.cancel();
    if let Some(poller) = poller {
        poller.await?;
    }
    // A request that does not end is not waited for.
    if let Some(http) = http
        && let Ok(ended) = timeout(LAST_ANSWERS, http).await
    {
        ended??;
    }
    Ok(())
}

/// Reads the certificates and the password files again. What cannot be read leaves everything as it is.
fn reload(args: &Args, source: &Source, tls: Option<&ServerTls>) {
    let reread = connector(args).and_then(|connector| {
        tls.map_or(Ok(()), ServerTls::reload)?;
        Ok(connector)
    });
    match reread {
        Ok(connector) => {
            source.set_connector(connector);
            tracing::info!("configuration and certificates read again");
        }
        Err(error) => tracing::error!(%error, "not reloaded: what was read before stays in use"),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
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
