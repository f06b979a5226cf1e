//! The real binary, started as a user would.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use walgate::scratch::{Signal, free_port, signal};

use super::{eventually, last_lines};

/// A running `walgate run` with one source named `main`.
pub(crate) struct Walgate {
    child: Child,
    directory: tempfile::TempDir,
    listen: String,
    http: u16,
}

impl Walgate {
    /// Starts `walgate run --upstream UPSTREAM` on free ports, with more arguments; returns when it listens.
    #[track_caller]
    pub(crate) fn run(upstream: &str, arguments: &[&str]) -> Walgate {
        Walgate::run_at(upstream, &format!("127.0.0.1:{}", free()), arguments)
    }

    /// The same at an address of the caller's.
    #[track_caller]
    pub(crate) fn run_at(upstream: &str, listen: &str, arguments: &[&str]) -> Walgate {
        Walgate::start(upstream, listen, arguments, free())
    }

    /// The same, with a library loaded in front of all others.
    #[track_caller]
    pub(crate) fn run_preloaded(upstream: &str, library: &Path) -> Walgate {
        let (listen, http) = (format!("127.0.0.1:{}", free()), free());
        let mut command = Walgate::command(upstream, &listen, &[], http);
        command.env("LD_PRELOAD", library);
        Walgate::spawn(command, tempfile::tempdir().expect("a temporary directory can be made"), &listen, http)
    }

    /// Ends it with SIGTERM and starts another at the same addresses.
    #[track_caller]
    pub(crate) fn restart(mut self, upstream: &str, arguments: &[&str]) -> Walgate {
        self.end(Signal::Terminate);
        Walgate::start(upstream, &self.listen, arguments, self.http)
    }

    /// Starts `walgate run -c` with a file of this text, in which `HTTP` stands for the address of the HTTP interface, and
    /// `ANYWHERE` for the same port at all of this machine's;
    /// `listen` is the address of the source that the other methods mean.
    #[track_caller]
    pub(crate) fn configured(text: &str, listen: &str) -> Walgate {
        let (directory, http) = (tempfile::tempdir().expect("a temporary directory can be made"), free());
        let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
        command.args(["run", "-c"]).arg(directory.path().join("walgate.toml"));
        write(&directory, http, text);
        Walgate::spawn(command, directory, listen, http)
    }

    /// The same, where the system trusts these certificates and no others.
    #[track_caller]
    pub(crate) fn configured_trusting(text: &str, listen: &str, roots: &str) -> Walgate {
        let (directory, http) = (tempfile::tempdir().expect("a temporary directory can be made"), free());
        let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
        command.args(["run", "-c"]).arg(directory.path().join("walgate.toml")).env("SSL_CERT_FILE", roots);
        write(&directory, http, text);
        Walgate::spawn(command, directory, listen, http)
    }

    /// Waits until it has reached its sources.
    #[track_caller]
    pub(crate) fn ready(&self) {
        eventually("the sources to be reached", || match self.get("/readyz") {
            (200, _) => Ok(()),
            other => Err(other),
        });
    }

    /// Gives it a file of another text, and tells it to read that; returns when it has taken or refused it.
    #[track_caller]
    pub(crate) fn configure(&self, text: &str) {
        write(&self.directory, self.http, text);
        let reloads =
            || ["read again", "not reloaded"].map(|what| self.log().matches(what).count()).iter().sum::<usize>();
        let before = reloads();
        signal(self.pid(), Signal::HangUp);
        eventually("walgate to read its file", || if reloads() > before { Ok(()) } else { Err(self.log()) });
    }

    #[track_caller]
    fn start(upstream: &str, listen: &str, arguments: &[&str], http: u16) -> Walgate {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Walgate::spawn(Walgate::command(upstream, listen, arguments, http), directory, listen, http)
    }

    fn command(upstream: &str, listen: &str, arguments: &[&str], http: u16) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
        command.args(["run", "--upstream", upstream, "--listen", listen]);
        command.args(["--http", &format!("127.0.0.1:{http}")]).args(arguments);
        command
    }

    #[track_caller]
    fn spawn(mut command: Command, directory: tempfile::TempDir, listen: &str, http: u16) -> Walgate {
        let log = File::create(directory.path().join("log")).expect("the log can be made");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log can be shared")).stderr(log);
        let child = command.spawn().expect("walgate starts");
        let mut walgate = Walgate { child, directory, listen: listen.to_owned(), http };
        // It answers HTTP once everything else listens.
        eventually("walgate to be alive", || match walgate.child.try_wait() {
            Ok(None) => walgate.try_get("/livez").map(drop),
            ended => panic!("walgate ended: {ended:?}\n{}", walgate.log()),
        });
        walgate
    }

    /// The TCP port of the proxy.
    #[track_caller]
    pub(crate) fn port(&self) -> u16 {
        let port = self.listen.rsplit(':').next().and_then(|port| port.parse().ok());
        port.unwrap_or_else(|| panic!("{} has no port", self.listen))
    }

    /// The port of the HTTP interface.
    pub(crate) fn http(&self) -> u16 {
        self.http
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id is positive")
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The connection string of a database through the proxy.
    pub(crate) fn dsn(&self, user: &str, database: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} dbname={database}", self.port())
    }

    /// Gets a route: the status and the body, as JSON where it is.
    #[track_caller]
    pub(crate) fn get(&self, route: &str) -> (u16, Value) {
        self.try_get(route).unwrap_or_else(|error| panic!("GET {route}: {error}\n{}", self.log()))
    }

    /// What `/v1/lag` says of one consumer, if it knows it.
    #[track_caller]
    pub(crate) fn lag(&self, slot: &str) -> Option<Value> {
        let (status, body) = self.get(&format!("/v1/lag?slot={slot}"));
        assert_eq!(status, 200, "{body}");
        body["consumers"].as_array()?.iter().find(|consumer| consumer["slot"] == slot).cloned()
    }

    /// Waits until `/v1/lag` says of this consumer what `holds` wants.
    #[track_caller]
    pub(crate) fn lag_until(&self, slot: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{slot}: {what}"), || match self.lag(slot) {
            Some(consumer) if holds(&consumer) => Ok(consumer),
            other => Err(other),
        })
    }

    /// Sends a signal and waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self, how: Signal) -> ExitStatus {
        signal(self.pid(), how);
        eventually("walgate to end", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err((other.err(), self.log())),
        })
    }

    /// The file that it was configured by.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("walgate.toml")
    }

    fn try_get(&self, route: &str) -> Result<(u16, Value), ureq::Error> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30)));
        let agent: ureq::Agent = agent.http_status_as_error(false).build().into();
        let mut response = agent.get(format!("http://127.0.0.1:{}{route}", self.http)).call()?;
        let text = response.body_mut().read_to_string()?;
        Ok((response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

impl Drop for Walgate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- walgate's log ends with:\n{}", last_lines(&self.log()));
        }
    }
}

fn write(directory: &tempfile::TempDir, http: u16, text: &str) {
    let text = text.replace("HTTP", &format!("127.0.0.1:{http}")).replace("ANYWHERE", &format!("0.0.0.0:{http}"));
    fs::write(directory.path().join("walgate.toml"), text).expect("the file can be written");
}

/// An address that nobody listens at.
#[track_caller]
pub(crate) fn free_address() -> String {
    format!("127.0.0.1:{}", free())
}

fn free() -> u16 {
    free_port().expect("there is a free port")
}
