//! `walgate run`: the daemon.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::BAD_CONFIG;
use crate::config::{self, Config, Console, Http, HttpAddr, MAX_SESSIONS, SourceError};
use crate::daemon;
use crate::identity::RuleSet;
use crate::lag::Observe;
use crate::proxy::{self, Guard, Limits, ListenAddr};
use crate::scram::UsersError;
use crate::source::dsn::{DsnError, SystemEnvironment};
use crate::source::{ConnectError, Connector, Dsn};
use crate::units::{UnitError, duration};

/// Turns of sessions between two looks for events.
const EVENT_INTERVAL: u32 = 4;

/// The source that the flags describe.
const SOURCE: &str = "main";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A file that describes everything, instead of the flags
    #[arg(short, long, value_name = "FILE", conflicts_with_all = [
        "upstream", "listen", "http", "observe", "passive", "guard", "rule_sets", "tls_cert", "tls_key", "max_sessions",
        "stale_after", "drain_timeout", "console", "auth_file",
    ])]
    config: Option<PathBuf>,
    /// Only say whether the configuration can be used
    #[arg(long)]
    check_config: bool,
    /// The source: a connection string, or host:port. Without it DATABASE_URL and the PG… variables count
    #[arg(long, value_name = "DSN")]
    upstream: Option<String>,
    /// Where clients connect: host:port, or the path of a Unix-domain socket named .s.PGSQL.<port>. Without it there is
    /// no proxy
    #[arg(long, value_name = "ADDR")]
    listen: Option<ListenAddr>,
    /// Where to answer HTTP: address:port, or off
    #[arg(long, value_name = "ADDR|off", default_value = "127.0.0.1:9632")]
    http: HttpAddr,
    /// How consumers are observed at best: proxy, slot (also by copies of their slots) or poll (positions only)
    #[arg(long, value_name = "proxy|slot|poll", default_value = "proxy")]
    observe: Observe,
    /// Open no connections but those of clients, and add nothing to any stream
    #[arg(long)]
    passive: bool,
    /// What is done when a consumer begins while a table would break it: off, warn (a line in the log) or block (it is
    /// refused, with the SQL that mends the table)
    #[arg(long, value_name = "off|warn|block", default_value = "warn")]
    guard: Guard,
    /// Whose rules tables must keep besides PostgreSQL's own: zero or pglogical; give it again for more
    #[arg(long = "for", value_name = "CONSUMER")]
    rule_sets: Vec<RuleSet>,
    /// The database that clients name for walgate's own console, or off
    #[arg(long, value_name = "NAME|off", default_value = Console::DATABASE)]
    console: String,
    /// Who may use the console, from elsewhere too: users with SCRAM verifiers, in the format of PgBouncer's auth_file
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,
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
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = above_zero)]
    stale_after: Duration,
    /// How long sessions may take to end after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = above_zero)]
    drain_timeout: Duration,
}

fn above_zero(text: &str) -> Result<Duration, UnitError> {
    duration(text)
}

fn sessions(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(sessions @ 1..=MAX_SESSIONS) => Ok(sessions),
        _ => Err("expected a number from 1 on".into()),
    }
}

#[derive(Debug, thiserror::Error)]
enum ConfigError {
    #[error("no source: give --upstream or -c, or set DATABASE_URL or PGHOST")]
    NoSource,
    #[error("--upstream: {0}")]
    Dsn(#[from] DsnError),
    #[error("--upstream: {0}")]
    Connector(#[from] ConnectError),
    #[error("--auth-file: {0}")]
    AuthFile(#[from] UsersError),
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error("{0}")]
    File(#[from] config::FileError),
}

/// The configuration, from the file or from the flags, with what they name read.
fn read(args: &Args) -> Result<Config, ConfigError> {
    if let Some(file) = &args.config {
        return Ok(config::read(file)?);
    }
    let named = ["DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGSERVICE"];
    if args.upstream.is_none() && named.iter().all(|variable| std::env::var_os(variable).is_none()) {
        return Err(ConfigError::NoSource);
    }
    let source = config::Source {
        name: SOURCE.into(),
        connector: Connector::new(Dsn::from_argument(args.upstream.as_deref(), &SystemEnvironment)?)?,
        listen: args.listen.clone(),
        observe: args.observe,
        passive: args.passive,
        guard: args.guard,
        rule_sets: args.rule_sets.iter().copied().collect(),
        tls: config::certificate(args.tls_cert.as_deref(), args.tls_key.as_deref(), proxy::ALPN)?,
        limits: Limits { sessions: args.max_sessions, ..Limits::default() },
        stale_after: args.stale_after,
    };
    let http = match args.http {
        HttpAddr::Off => None,
        HttpAddr::At(listen) => Some(Http { listen, token: None, tls: None }),
    };
    let console = Console::new(args.console.clone(), args.auth_file.clone())?;
    let drain_timeout = args.drain_timeout;
    Ok(Config { http, console, webhook: None, drain_timeout, sources: vec![source.check()?], gates: Vec::new() })
}

pub(super) fn main(args: &Args) -> ExitCode {
    let config = match read(args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("walgate: {error}");
            return BAD_CONFIG.into();
        }
    };
    if args.check_config {
        return ExitCode::SUCCESS;
    }
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
    match runtime.block_on(daemon::run(config, || read(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("walgate: {error}");
            ExitCode::FAILURE
        }
    }
}
