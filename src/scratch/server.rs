//! One throw-away server: its files, its process, and their end.
//!
//! `postgres` runs as a direct child, so that its process id and its end are known. Next to it waits a small shell that
//! holds the other end of a pipe: when the pipe closes, because the [`Server`] was dropped or because the process that
//! owned it was killed, the shell stops the server and removes the directory. There is one way to clean up, and it is
//! taken every time.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::account::Account;
use super::process::{Signal, last_lines, run, signal};
use super::{Error, Installation, file};
use crate::source::Secret;

/// How long a server may take to start, to stop or to be promoted.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the pipe on its standard input closes. What is left of the server then is ended: at once, and by force
/// if it takes longer than PostgreSQL gives its own processes (5 s). `$1` is the server's directory.
const WATCHDOG: &str = r#"
trap '' HUP INT TERM
read -r _
read -r pid 2>/dev/null <"$1/data/postmaster.pid" && kill -s QUIT "$pid" 2>/dev/null
tries=0
while [ -n "$pid" ] && [ -e "$1/data/postmaster.pid" ] && kill -s 0 "$pid" 2>/dev/null; do
  tries=$((tries + 1))
  [ "$tries" -eq 150 ] && kill -s KILL "$pid"
  sleep 0.05
done
tries=0
until rm -rf "$1" 2>/dev/null || [ "$tries" -eq 50 ]; do tries=$((tries + 1)); sleep 0.1; done
"#;

/// What a server listens with for TLS, as PEM text.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The server's certificate, with those between it and the root.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The roots that client certificates are checked against, if they are.
    pub client_roots: Option<String>,
}

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ends the sessions, writes a checkpoint; walsenders first send what is left.
    Fast,
    /// Ends everything at once, as a crash would.
    Immediate,
}

/// A server to be: see [`Server::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    installation: Installation,
    superuser: String,
    password: Option<Secret>,
    settings: Vec<(String, String)>,
    access: Vec<String>,
    tls: Option<Tls>,
}

/// A running PostgreSQL of one's own. Dropping it ends it and removes its files.
#[derive(Debug)]
pub struct Server {
    installation: Installation,
    superuser: String,
    password: Option<Secret>,
    directory: PathBuf,
    port: u16,
    account: Option<Account>,
    postmaster: Option<Child>,
    watchdog: Child,
}

impl Builder {
    /// Names the superuser; `postgres` if not given.
    #[must_use]
    pub fn superuser(mut self, name: &str) -> Builder {
        name.clone_into(&mut self.superuser);
        self
    }

    /// Lets in only who knows this password, by SCRAM; without it, whoever is on this machine is trusted.
    #[must_use]
    pub fn password(mut self, password: &str) -> Builder {
        self.password = Some(Secret::new(password.to_owned()));
        self
    }

    /// Gives a setting of `postgresql.conf` a value, written as without quotes.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Builder {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts a line into `pg_hba.conf`, behind earlier ones and before those that let everyone on this machine in.
    #[must_use]
    pub fn access(mut self, line: &str) -> Builder {
        self.access.push(line.to_owned());
        self
    }

    /// Switches TLS on.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Builder {
        self.tls = Some(tls);
        self
    }

    /// Makes the cluster and starts the server; returns when it takes connections.
    pub fn start(self) -> Result<Server, Error> {
        let mut server = Server::prepare(self.installation.clone(), self.superuser.clone())?;
        let mut initdb = server.command("initdb");
        initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--username", &self.superuser]);
        match &self.password {
            Some(password) => {
                server.write("password", password.expose())?;
                initdb.args(["--auth=scram-sha-256", "--pwfile=password"]);
            }
            None => drop(initdb.arg("--auth=trust")),
        }
        run(initdb.arg("--pgdata").arg(server.data_directory()))?;
        server.configure(&self)?;
        server.password = self.password;
        server.start_somewhere()?;
        Ok(server)
    }
}

impl Server {
    /// A server of this installation, with settings fit for logical replication in a test: `wal_level = logical`,
    /// twenty slots, senders and origins, prepared transactions, quick reconnection of subscriptions, no `fsync`.
    pub fn builder(installation: Installation) -> Builder {
        let superuser = "postgres".to_owned();
        Builder { installation, superuser, password: None, settings: Vec::new(), access: Vec::new(), tls: None }
    }

    /// Starts a streaming standby of this server. This server is stopped for as long as its files are copied (npm's
    /// builds have no `pg_basebackup`), and the standby connects to `primary`, a connection string without a database,
    /// which may name a proxy.
    pub fn standby(&mut self, primary: &str) -> Result<Server, Error> {
        let mut standby = Server::prepare(self.installation.clone(), self.superuser.clone())?;
        standby.password = self.password.clone();
        self.stop(Stop::Fast)?;
        let copied = run(Command::new("cp").arg("-Rp").arg(self.data_directory()).arg(standby.data_directory()));
        self.start()?;
        copied?;
        let data = standby.data_directory();
        let slots = data.join("pg_replslot");
        fs::remove_dir_all(&slots).map_err(file("remove", &slots))?;
        fs::create_dir(&slots).map_err(file("create", &slots))?;
        standby.own(&slots)?;
        standby.write("data/standby.signal", "")?;
        standby.append("data/postgresql.conf", &setting_line("primary_conninfo", primary))?;
        standby.start_somewhere()?;
        Ok(standby)
    }

    /// Starts the server again after [`Server::stop`], on the same port.
    pub fn start(&mut self) -> Result<(), Error> {
        let log = self.log_path();
        let output = File::options().create(true).append(true).open(&log).map_err(file("write to", &log))?;
        let errors = output.try_clone().map_err(file("write to", &log))?;
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data_directory()).arg("-p").arg(self.port.to_string());
        // Its own group: Ctrl-C at a terminal is for the owner, who then ends the server.
        postgres.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = postgres.spawn().map_err(|source| Error::Run { program: self.program("postgres"), source })?;
        let pid = child.id().to_string();
        self.postmaster = Some(child);

        let deadline = Instant::now() + PATIENCE;
        loop {
            // The last line of this file is what `pg_ctl` waits for too.
            let state = fs::read_to_string(self.data_directory().join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines();
            if lines.next() == Some(&*pid) && matches!(lines.last().map(str::trim), Some("ready" | "standby")) {
                return Ok(());
            }
            if self.has_ended()? {
                return Err(self.error("ended while it started"));
            }
            if Instant::now() > deadline {
                return Err(self.error("did not get ready within a minute"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops the server and leaves its files; by force when it takes longer than a minute. Does nothing to one that has
    /// ended.
    pub fn stop(&mut self, how: Stop) -> Result<(), Error> {
        let Some(pid) = self.postmaster_pid() else { return Ok(()) };
        let steps = match how {
            Stop::Fast => &[Signal::Interrupt, Signal::Quit, Signal::Kill][..],
            Stop::Immediate => &[Signal::Quit, Signal::Kill][..],
        };
        for step in steps {
            signal(pid, *step);
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                if self.has_ended()? {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        Err(self.error("could not be killed"))
    }

    /// Stops the server and starts it again on the same port.
    pub fn restart(&mut self, how: Stop) -> Result<(), Error> {
        self.stop(how)?;
        self.start()
    }

    /// Promotes a standby; returns when it takes writes.
    pub fn promote(&self) -> Result<(), Error> {
        let mut pg_ctl = self.command("pg_ctl");
        pg_ctl.args(["promote", "--wait", "--timeout", &PATIENCE.as_secs().to_string()]);
        run(pg_ctl.arg("--pgdata").arg(self.data_directory())).map(drop)
    }

    /// Adds settings and has the server read its configuration again.
    pub fn reload_with(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        let lines: String = settings.iter().map(|(name, value)| setting_line(name, value)).collect();
        self.append("data/postgresql.conf", &lines)?;
        self.postmaster_pid().map(|pid| signal(pid, Signal::HangUp));
        Ok(())
    }

    /// What it runs.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The TCP port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser.
    pub fn superuser(&self) -> &str {
        &self.superuser
    }

    /// The directory of the Unix socket `.s.PGSQL.<port>`.
    pub fn socket_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// The data directory.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The process id of the postmaster while it runs.
    pub fn postmaster_pid(&self) -> Option<i32> {
        i32::try_from(self.postmaster.as_ref()?.id()).ok()
    }

    /// The connection string of a database, over TCP, as the superuser, with the password if there is one.
    pub fn dsn(&self, database: &str) -> String {
        self.dsn_via(self.port, database)
    }

    /// The same by way of a proxy that listens on another port of 127.0.0.1.
    pub fn dsn_via(&self, port: u16, database: &str) -> String {
        self.dsn_at("127.0.0.1", port, database)
    }

    /// The same over the Unix socket.
    pub fn socket_dsn(&self, database: &str) -> String {
        self.dsn_at(&self.socket_directory().display().to_string(), self.port, database)
    }

    /// Writes a file of the caller's next to the server's own, which goes when they go. Only the server's user may read it.
    pub fn keep(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        self.write(name, text)?;
        Ok(self.directory.join(name))
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Makes the directory and sets the watchdog on it.
    fn prepare(installation: Installation, superuser: String) -> Result<Server, Error> {
        let (directory, owner) = temporary_directory()?;
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG, "walgate-watchdog"]).arg(directory.path()).current_dir("/").process_group(0);
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog = watchdog.spawn().map_err(|source| Error::Run { program: "sh".to_owned(), source })?;
        let directory = directory.keep();
        let (port, account, postmaster, password) = (0, None, None, None);
        let mut server = Server { installation, superuser, password, directory, port, account, postmaster, watchdog };
        server.account = Account::below(owner)?;
        let run = server.socket_directory();
        fs::create_dir(&run).map_err(file("create", &run))?;
        server.own(&server.directory)?;
        server.own(&run)?;
        Ok(server)
    }

    fn configure(&self, builder: &Builder) -> Result<(), Error> {
        let run = self.socket_directory().display().to_string();
        let mut text = String::new();
        let fixed = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &run),
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("shared_buffers", "32MB"),
            ("wal_level", "logical"),
            ("max_wal_senders", "20"),
            ("max_replication_slots", "20"),
            ("max_worker_processes", "24"),
            ("max_logical_replication_workers", "16"),
            ("max_prepared_transactions", "20"),
            ("wal_retrieve_retry_interval", "200ms"),
            ("log_line_prefix", "%m [%p] %a: "),
            ("timezone", "UTC"),
        ];
        fixed.iter().for_each(|(name, value)| text += &setting_line(name, value));
        if self.installation.major() >= 18 {
            text += &setting_line("max_active_replication_origins", "20");
        }
        if let Some(tls) = &builder.tls {
            self.write("data/server.crt", &tls.certificate)?;
            self.write("data/server.key", &tls.key)?;
            text += &setting_line("ssl", "on");
            if let Some(roots) = &tls.client_roots {
                self.write("data/root.crt", roots)?;
                text += &setting_line("ssl_ca_file", "root.crt");
            }
        }
        builder.settings.iter().for_each(|(name, value)| text += &setting_line(name, value));
        self.append("data/postgresql.conf", &text)?;

        let mut access = String::new();
        let method = if builder.password.is_some() { "scram-sha-256" } else { "trust" };
        let local = ["local all all", "local replication all"].map(|scope| format!("{scope} {method}"));
        let tcp = ["host all all", "host replication all"].map(|scope| format!("{scope} 127.0.0.1/32 {method}"));
        for line in builder.access.iter().chain(&local).chain(&tcp) {
            let _ = writeln!(access, "{line}");
        }
        self.write("data/pg_hba.conf", &access)
    }

    fn dsn_at(&self, host: &str, port: u16, database: &str) -> String {
        let mut dsn = format!("host={host} port={port} user={} dbname={database}", self.superuser);
        if let Some(password) = &self.password {
            let _ = write!(dsn, " password={}", password.expose());
        }
        dsn
    }

    /// Starts on a free port; on another when somebody was quicker to take it.
    fn start_somewhere(&mut self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            self.port = free_port()?;
            match self.start() {
                Err(Error::Server { log, .. }) if tries < 5 && log.contains("Address already in use") => tries += 1,
                result => return result,
            }
        }
    }

    fn has_ended(&mut self) -> Result<bool, Error> {
        let Some(postmaster) = &mut self.postmaster else { return Ok(true) };
        let program = || self.installation.bin().join("postgres").display().to_string();
        let ended = postmaster.try_wait().map_err(|source| Error::Run { program: program(), source })?.is_some();
        if ended {
            self.postmaster = None;
        }
        Ok(ended)
    }

    /// A command that runs one of the installation's programs as the server's user.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        command.current_dir(&self.directory).env("LC_ALL", "C");
        // Some are settings of a server, and others would change how its own libpq connects to another one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        if let Some(account) = self.account {
            account.run(&mut command);
        }
        command
    }

    fn program(&self, name: &str) -> String {
        self.installation.bin().join(name).display().to_string()
    }

    fn own(&self, path: &Path) -> Result<(), Error> {
        self.account.map_or(Ok(()), |account| account.own(path))
    }

    /// Writes a file that only the server's user may read.
    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(file("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(file("change the mode of", &path))?;
        self.own(&path)
    }

    fn append(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        let mut whole = fs::read_to_string(&path).map_err(file("read", &path))?;
        whole += text;
        self.write(name, &whole)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn error(&self, what: &'static str) -> Error {
        Error::Server { version: self.installation.version().to_owned(), what, log: last_lines(&self.log(), 20) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            if let Ok(pid) = i32::try_from(postmaster.id()) {
                signal(pid, Signal::Quit);
            }
            // The postmaster kills by force, after 5 s, what does not heed it.
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(postmaster.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = postmaster.kill();
            let _ = postmaster.wait();
        }
        // Waiting closes the pipe.
        let _ = self.watchdog.wait();
    }
}

/// A port that nobody on 127.0.0.1 has now, and that this process never gave out before. It is taken from below the
/// range that systems give to outgoing connections, so that it is still free after a restart.
pub fn free_port() -> Result<u16, Error> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for attempt in 0..1000_u32 {
        let random = RandomState::new().hash_one(attempt);
        let Ok(offset) = u16::try_from(random % 12_000) else { continue };
        let port = 20_000 + offset;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) if given.insert(port) => return Ok(port),
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    Err(Error::File { action: "find a free port on", path: "127.0.0.1".into(), source: last })
}

/// A fresh directory with its owner, short enough for a socket's path (107 bytes at most) and not behind a closed one.
fn temporary_directory() -> Result<(tempfile::TempDir, u32), Error> {
    let mut last = None;
    for root in [std::env::temp_dir(), PathBuf::from("/tmp")] {
        let private = fs::Permissions::from_mode(0o700);
        let directory = match tempfile::Builder::new().prefix("walgate-").permissions(private).tempdir_in(&root) {
            Ok(directory) => directory,
            Err(source) => {
                last = Some(file("create a directory in", &root)(source));
                continue;
            }
        };
        let owner = fs::metadata(directory.path()).map_err(file("read", directory.path()))?.uid();
        let reached = Account::below(owner)?.is_none_or(|account| account.reaches(&root));
        if reached && directory.path().as_os_str().len() < 80 {
            return Ok((directory, owner));
        }
    }
    let unfit = || file("use", Path::new("/tmp"))(io::Error::from(io::ErrorKind::PermissionDenied));
    Err(last.unwrap_or_else(unfit))
}

fn setting_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}
