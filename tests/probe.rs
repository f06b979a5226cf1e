//! `walgate lag`, the binary, as monitoring and people run it.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::command::{Outcome, outcome, walgate};
use support::{Sql, eventually, postgres};
use walgate::scratch::{Server, Signal, free_port, signal};

impl Outcome {
    /// The answer in JSON: the consumer of this slot.
    #[track_caller]
    fn consumer(&self, slot: &str) -> Value {
        let consumers = self.json()["consumers"].as_array().cloned().unwrap_or_default();
        let consumer = consumers.into_iter().find(|consumer| consumer["slot"] == slot);
        consumer.unwrap_or_else(|| panic!("{self:?}: no {slot}"))
    }
}

fn command(dsn: &str, arguments: &[&str]) -> Command {
    let mut command = walgate(&["lag", dsn]);
    command.args(arguments);
    command
}

#[track_caller]
fn probe(dsn: &str, arguments: &[&str]) -> Outcome {
    outcome(&mut command(dsn, arguments))
}

/// Probes until it ends like this: on a busy machine the time that an answer may take is over before a copy is read.
#[track_caller]
fn probe_until(dsn: &str, arguments: &[&str], status: i32) -> Outcome {
    eventually(&format!("status {status} of {arguments:?}"), || {
        let outcome = probe(dsn, arguments);
        if outcome.status == Some(status) { Ok(outcome) } else { Err(outcome) }
    })
}

/// A server with a publication `p` of a table `t`.
#[track_caller]
fn source(major: u32, settings: &[(&str, &str)]) -> (Server, Sql) {
    let builder = settings.iter().fold(postgres(major), |builder, (name, value)| builder.setting(name, value));
    let server = builder.start().expect("the server starts");
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR TABLE t");
    (server, sql)
}

fn make_slot(sql: &Sql, slot: &str) {
    sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
}

/// A listener whose queue is full, so that the kernel leaves who connects without an answer, as a firewall does; with the
/// connections that fill it.
fn black_hole() -> (Socket, Vec<TcpStream>, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("there is a free port");
    listener.listen(0).expect("it can listen");
    let address = listener.local_addr().expect("it is bound").as_socket().expect("to an address");
    let mut filling = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        filling.push(stream);
    }
    (listener, filling, address)
}

#[test]
fn an_answer_comes_whatever_the_server_does() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let (_full, _filling, unreachable) = black_hole();
    let (server, _) = source(16, &[]);
    let postmaster = server.postmaster_pid().expect("it runs");
    signal(postmaster, Signal::Stop);
    let late = [silent.local_addr().expect("it is bound"), unreachable, ([127, 0, 0, 1], server.port()).into()];
    for address in late {
        let outcome = probe(&address.to_string(), &["--format", "nagios"]);
        // Its own deadline, and not the connection's, which is five times as long.
        let expected = format!("WALGATE UNKNOWN - postgresql://{address} has not answered yet\n");
        assert_eq!((outcome.status, outcome.output), (Some(3), expected));
    }
    signal(postmaster, Signal::Continue);

    let refused = format!("127.0.0.1:{}", free_port().expect("there is a free port"));
    let outcome = probe(&refused, &[]);
    assert_eq!((outcome.status, outcome.output.as_str()), (Some(3), ""));
    assert!(outcome.errors.contains("connection refused"), "{outcome:?}");
    let outcome = probe("nowhere.invalid", &["--format", "json"]);
    assert_eq!((outcome.status, outcome.output.as_str()), (Some(3), "{\"consumers\":[]}\n"));
}

#[test]
fn what_cannot_be_used_is_a_usage_error_and_no_verdict() {
    for arguments in [
        &["--max-age", "soon"][..],
        &["--max-age", "5"],
        &["--max-lag", "16XB"],
        &["--max-lag", "MB"],
        &["--slot", "No Slot"],
        &["--format", "yaml"],
        &["--frobnicate"],
        &["--watch", "--format", "nagios"],
    ] {
        let outcome = probe("127.0.0.1:1", arguments);
        assert_eq!((outcome.status, outcome.output.as_str()), (Some(64), ""), "{arguments:?}: {outcome:?}");
        assert!(outcome.errors.contains(arguments[0]), "{arguments:?}: {outcome:?}");
    }
    let outcome = probe("postgresql://me:se%ZZcret@db", &[]);
    assert!(outcome.status == Some(64) && !outcome.errors.contains("cret"), "{outcome:?}");
}

#[test]
fn a_slot_that_is_not_there_is_unknown_and_those_that_are_are_named() {
    let (server, sql) = source(17, &[]);
    let outcome = probe(&server.dsn("postgres"), &[]);
    assert_eq!(outcome.status, Some(3), "{outcome:?}");
    assert!(outcome.errors.contains("there are no replication slots"), "{outcome:?}");
    make_slot(&sql, "green_sub");
    make_slot(&sql, "zero_0_a");
    let outcome = probe(&server.dsn("postgres"), &["--slot", "green"]);
    assert_eq!(outcome.status, Some(3), "{outcome:?}");
    assert!(outcome.errors.contains("there is no slot green; there are: green_sub, zero_0_a"), "{outcome:?}");
    let outcome = probe_until(&server.dsn("postgres"), &["--slot", "zero_0_a", "--format", "nagios"], 0);
    assert!(!outcome.output.contains("green_sub"), "{outcome:?}");
}

#[test]
fn the_status_says_what_is_proven() {
    let (server, sql) = source(18, &[]);
    let dsn = server.dsn("postgres");
    make_slot(&sql, "late");
    sql.run("SELECT pg_create_physical_replication_slot('standby', true)");
    let late = |arguments: &[&str], status| {
        let late = ["--slot", "late", "--publication", "p", "--format", "nagios"];
        probe_until(&dsn, &[&late, arguments].concat(), status).output
    };
    // Nothing is published: nothing is pending, however much WAL there is.
    sql.run("CREATE TABLE unpublished AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)");
    let output = late(&["--max-lag", "1kB", "--max-age", "1s"], 0);
    assert!(output.starts_with("WALGATE OK - late is 0 s behind|'late seconds'=0.000s;;1;0 "), "{output}");

    sql.run("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 2000) n");
    // What its consumer reads is not known: nothing is proven, and nothing is ruled out.
    let guess = ["--slot", "late", "--format", "nagios", "--max-lag", "1MB"];
    let output = probe_until(&dsn, &guess, 1).output;
    assert!(output.contains("up to 1995 kB pending (limit 1MB)"), "{output}");
    let output = late(&["--max-lag", "1MB"], 2);
    assert!(output.contains("'late transactions'=1;;;0 ") && output.contains("2000 rows"), "{output}");
    late(&["--max-lag", "1GB", "--max-age", "1h"], 0);
    // By positions alone it may be over the limit, and may not be.
    late(&["--max-lag", "1MB", "--observe", "poll"], 1);
    late(&["--max-lag", "1GB", "--observe", "poll"], 0);
    probe_until(&dsn, &["--slot", "standby", "--max-lag", "1MB"], 1);

    let output = probe_until(&dsn, &["--publication", "p", "--max-lag", "1MB"], 2).output;
    assert_eq!(output.lines().last(), Some("CRITICAL (at most 1MB)"), "{output}");
    assert!(output.contains("physical replication is not decoded"), "{output}");
    eventually("an exact figure", || {
        let outcome = probe_until(&dsn, &["--publication", "p", "--format", "json"], 0);
        let (late, standby) = (outcome.consumer("late"), outcome.consumer("standby"));
        let is = late["state"] == "live" && late["lag"]["rows"] == 2000 && standby["state"] == "bounded";
        if is { Ok(()) } else { Err(outcome) }
    });
    sql.until("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'walgate%'", "0");
}

#[test]
fn a_lost_slot_is_critical_without_any_limit() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")];
    let (server, sql) = source(16, &settings);
    make_slot(&sql, "old");
    sql.until_slot_is_lost();
    let outcome = probe_until(&server.dsn("postgres"), &["--format", "nagios"], 2);
    assert!(outcome.output.starts_with("WALGATE CRITICAL - old: the slot is lost"), "{outcome:?}");
    assert!(outcome.output.contains("'old seconds'=U;;;0 "), "{outcome:?}");
}

#[test]
fn prometheus_finds_nothing_wrong_with_the_metrics() {
    let (server, sql) = source(15, &[]);
    make_slot(&sql, "green_sub");
    sql.run("INSERT INTO t VALUES (1, 'a'); SELECT pg_create_physical_replication_slot('standby')");
    let outcome = eventually("the row to be seen", || {
        // A physical slot that keeps no WAL tells nothing.
        let outcome = probe_until(&server.dsn("postgres"), &["--publication", "p", "--format", "prometheus"], 3);
        let line = "walgate_lag_rows{source=\"main\",slot=\"green_sub\"} 1";
        if outcome.output.lines().any(|printed| printed == line) { Ok(outcome) } else { Err(outcome) }
    });
    assert!(!outcome.output.contains("walgate_lag_rows{source=\"main\",slot=\"standby\"}"), "{outcome:?}");

    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool starts; it comes with Prometheus");
    let mut input = promtool.stdin.take().expect("it is a pipe");
    input.write_all(outcome.output.as_bytes()).expect("promtool reads");
    drop(input);
    let checked = promtool.wait_with_output().expect("promtool ends");
    let found = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && found.is_empty(), "{found}\n{}", outcome.output);
}

/// A probe that runs until it is ended, with what it prints in a file.
struct Watching {
    child: Child,
    directory: tempfile::TempDir,
}

impl Watching {
    #[track_caller]
    fn start(dsn: &str, arguments: &[&str]) -> Watching {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let file = |name: &str| File::create(directory.path().join(name)).expect("a file can be made");
        let mut command = command(dsn, &[&["--watch"], arguments].concat());
        let child = command.stdout(file("out")).stderr(file("err")).spawn().expect("the binary starts");
        Watching { child, directory }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    /// Waits for a line that `holds`.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) {
        eventually(what, || {
            let printed = self.read("out");
            if printed.lines().any(&holds) { Ok(()) } else { Err((printed, self.read("err"))) }
        });
    }

    #[track_caller]
    fn end(&mut self, how: Signal) -> Option<i32> {
        signal(i32::try_from(self.child.id()).expect("a process id is positive"), how);
        let ended =
            eventually("the probe to end", || self.child.try_wait().map_err(drop).and_then(|ended| ended.ok_or(())));
        ended.code()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Ended already, most of the time.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[test]
fn a_watch_without_a_terminal_prints_lines_and_ends_with_the_last_verdict() {
    let (server, sql) = source(17, &[]);
    let dsn = server.dsn("postgres");
    make_slot(&sql, "s");
    let mut lines = Watching::start(&dsn, &["--publication", "p", "--max-lag", "1kB"]);
    let mut json = Watching::start(&dsn, &["--publication", "p", "--format", "json"]);
    lines.until("nothing pending", |line| line.contains(" s live none 0.000 0.000 0 0 0 0 OK"));
    sql.run("INSERT INTO t VALUES (1, repeat('x', 2000))");
    lines.until("one row pending", |line| line.contains(" s live consumer ") && line.ends_with(" CRITICAL"));
    json.until("one row pending", |line| {
        let answer: Value = serde_json::from_str(line).unwrap_or_default();
        answer["consumers"][0]["lag"]["rows"] == 1
    });
    assert_eq!(lines.end(Signal::Terminate), Some(2));
    assert_eq!(json.end(Signal::Interrupt), Some(0));
    assert_eq!((lines.read("err"), json.read("err")), (String::new(), String::new()));
}

#[test]
fn a_watch_goes_on_without_its_server_and_ends_with_its_reader() {
    let (mut server, sql) = source(14, &[]);
    make_slot(&sql, "s");
    drop(sql);
    let mut watching = Watching::start(&server.dsn("postgres"), &[]);
    watching.until("an answer", |line| line.ends_with(" OK"));
    server.stop(walgate::scratch::Stop::Immediate).expect("it stops");
    eventually("the loss to be told", || {
        let told = watching.read("err");
        if told.contains("walgate: ") { Ok(()) } else { Err(told) }
    });
    watching.until("no answer", |line| line.ends_with(" UNKNOWN"));
    assert_eq!(watching.end(Signal::Terminate), Some(3));

    server.start().expect("it starts again");
    let shell = format!("{} lag '{}' --watch | head -n 2", env!("CARGO_BIN_EXE_walgate"), server.dsn("postgres"));
    let read = Command::new("sh").args(["-c", &shell]).output().expect("a shell starts");
    let (output, errors) = (String::from_utf8_lossy(&read.stdout), String::from_utf8_lossy(&read.stderr));
    assert_eq!((output.lines().count(), &*errors), (2, ""), "{output}");
}
