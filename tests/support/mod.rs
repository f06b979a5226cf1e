//! What the integration tests share: a server ([`postgres`]), walgate ([`daemon`]), zero-cache ([`zero`]), a consumer
//! whose lag is known ([`oracle`]), what is usually asked for lag ([`usual`]), its commands ([`command`], [`check`]), a network that
//! can be cut ([`network`]), one way to wait ([`eventually`]) and one way to talk to each. Whatever is started here ends
//! with the value that stands for it.

pub(crate) mod certificates;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod network;
pub(crate) mod oracle;
pub(crate) mod usual;
pub(crate) mod zero;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use walgate::scratch::{self, Builder, Installation, Server};

/// How long [`eventually`] waits. Generous: it bounds a hang, and nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of this major version to be started, from the build that is the same on every machine.
pub(crate) fn postgres(major: u32) -> Builder {
    Server::builder(installation(major))
}

/// The PostgreSQL that the tests run. One that cannot be had is a failure, never a test skipped.
pub(crate) fn installation(major: u32) -> Installation {
    static KNOWN: Mutex<Vec<Installation>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(installation) = known.iter().find(|installation| installation.major() == major) {
        return installation.clone();
    }
    let installation = scratch::obtain(major).unwrap_or_else(|error| panic!("PostgreSQL {major}: {error}"));
    known.push(installation.clone());
    installation
}

/// Debian's PostgreSQL 15 with its pglogical loaded: the system's, or one that was unpacked somewhere on PATH.
#[track_caller]
pub(crate) fn with_pglogical() -> Builder {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let roots = std::env::split_paths(&path).filter_map(|bin| Some(bin.parent()?.join("lib/postgresql/15")));
    let mut found = roots.filter(|root| root.join("lib/pglogical.so").is_file());
    let found = found.find_map(|root| Installation::at(&root.join("bin")));
    let found = found.unwrap_or_else(|| panic!("no pglogical: install Debian's package postgresql-15-pglogical"));
    // Every database, every subscription and every copy of a table takes one.
    let builder = Server::builder(found).setting("max_worker_processes", "20");
    builder.setting("shared_preload_libraries", "pglogical").setting("track_commit_timestamp", "on")
}

/// Lets pglogical stream from a server: the last minor versions ask which output plugins may be used, and others do not
/// know the setting.
#[track_caller]
pub(crate) fn allow_pglogical(sql: &Sql) {
    let _ = sql.try_rows("ALTER SYSTEM SET output_plugin_libraries = pgoutput, pglogical_output");
    sql.run("SELECT pg_reload_conf()");
}

/// One of PostgreSQL's client programs, which the builds from npm do not have.
#[track_caller]
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = scratch::find(15).and_then(|installation| installation.program(name));
    let on_path = || std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    installed.or_else(on_path).unwrap_or_else(|| panic!("no {name}: install PostgreSQL 15's client programs"))
}

/// Asks `probe` until it answers, and returns the answer. Panics with `what` was awaited and with what `probe` said
/// last if a minute goes by.
#[track_caller]
pub(crate) fn eventually<T, E: Debug>(what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe() {
            Ok(answer) => return answer,
            Err(error) if Instant::now() > deadline => panic!("waited in vain for {what}; last seen: {error:?}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The end of a log, for a failure's message.
pub(crate) fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A session for SQL on the first host of a connection string, without TLS.
pub(crate) async fn session(dsn: &str) -> Result<Client, String> {
    let config: tokio_postgres::Config = dsn.parse().map_err(|error| format!("{error:?}"))?;
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first() {
        Some(Host::Tcp(host)) => {
            let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
            log_in(&config, stream).await
        }
        Some(Host::Unix(directory)) => {
            let path = directory.join(format!(".s.PGSQL.{port}"));
            log_in(&config, UnixStream::connect(path).await.map_err(|error| error.to_string())?).await
        }
        None => Err("the connection string names no host".to_owned()),
    }
}

async fn log_in<S>(config: &tokio_postgres::Config, stream: S) -> Result<Client, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|error| format!("{error:?}"))?;
    tokio::spawn(connection);
    Ok(client)
}

/// A session for SQL that blocks, in asynchronous tests too: it has threads of its own.
pub(crate) struct Sql {
    runtime: Option<Runtime>,
    client: Client,
}

impl Sql {
    /// Connects by a connection string, without TLS.
    #[track_caller]
    pub(crate) fn connect(dsn: &str) -> Sql {
        Sql::try_connect(dsn).unwrap_or_else(|error| panic!("cannot connect to {dsn}: {error}"))
    }

    /// The same, where a failure is to be seen.
    pub(crate) fn try_connect(dsn: &str) -> Result<Sql, String> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime starts");
        match block_on(&runtime, session(dsn)) {
            Ok(client) => Ok(Sql { runtime: Some(runtime), client }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Runs statements; returns the rows of the last one as text, NULL as none.
    #[track_caller]
    pub(crate) fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    /// The same, where a failure is to be seen.
    pub(crate) fn try_rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
        let mut rows = Vec::new();
        let runtime = self.runtime.as_ref().expect("it is taken when this is dropped");
        for message in block_on(runtime, self.client.simple_query(sql))? {
            match message {
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    /// The first column of the first row, as text; empty when there is none or it is NULL.
    #[track_caller]
    pub(crate) fn value(&self, sql: &str) -> String {
        self.rows(sql).into_iter().flatten().next().flatten().unwrap_or_default()
    }

    /// Runs statements.
    #[track_caller]
    pub(crate) fn run(&self, sql: &str) {
        self.rows(sql);
    }

    /// Waits until the value of `sql` is `expected`.
    #[track_caller]
    pub(crate) fn until(&self, sql: &str, expected: &str) {
        eventually(sql, || {
            let value = self.value(sql);
            if value == expected { Ok(()) } else { Err(value) }
        });
    }

    /// Writes to a table `t` with the columns `id` and `note` until the server's only slot is lost.
    #[track_caller]
    pub(crate) fn until_slot_is_lost(&self) {
        eventually("the slot to be lost", || {
            self.run(
                "INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 2000) n ON CONFLICT (id) DO UPDATE \
                 SET note = excluded.note; SELECT pg_switch_wal(); CHECKPOINT",
            );
            let status = self.value("SELECT wal_status FROM pg_replication_slots");
            if status == "lost" { Ok(()) } else { Err(status) }
        });
    }
}

impl Drop for Sql {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Blocks on a thread of its own: the caller's may belong to another runtime, which forbids it.
fn block_on<F: Future<Output: Send> + Send>(runtime: &Runtime, future: F) -> F::Output {
    let blocked = thread::scope(|scope| scope.spawn(|| runtime.block_on(future)).join());
    blocked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
