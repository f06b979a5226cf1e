//! `walgate tail`, the binary, against real servers.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::{fs, io};

use serde_json::Value;
use support::{Sql, eventually, postgres};
use tempfile::TempDir;
use walgate::scratch::{Server, Signal, Stop, signal};
use walgate::wire::FrameReader;

/// A running tail, with what it prints in files.
struct Tail {
    child: Child,
    directory: TempDir,
}

impl Tail {
    #[track_caller]
    fn start(dsn: &str, arguments: &[&str]) -> Tail {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let file = |name: &str| fs::File::create(directory.path().join(name)).expect("a file can be made");
        let child = Command::new(env!("CARGO_BIN_EXE_walgate"))
            .args(["tail", dsn, "--publication", "p"])
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .expect("the binary starts");
        Tail { child, directory }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.read("out").lines().map(parse).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.json().iter().map(|line| line["kind"].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        eventually("tail to end", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err((other.err(), self.read("err"))),
        })
    }

    #[track_caller]
    fn end(&mut self, how: Signal) -> ExitStatus {
        signal(i32::try_from(self.child.id()).expect("a process id is positive"), how);
        self.wait()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // Ended already, most of the time.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

#[track_caller]
fn server(major: u32) -> (Server, Sql) {
    let server = postgres(major).start().expect("the server starts");
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR TABLE t");
    (server, sql)
}

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots WHERE active";

#[test]
fn changes_are_shown_acknowledged_and_left_without_a_trace() {
    for (format, how) in [("text", Signal::Interrupt), ("json", Signal::Terminate)] {
        let (server, sql) = server(18);
        let mut tail = Tail::start(&server.dsn("postgres"), &["--format", format]);
        sql.until(SLOTS, "1");
        assert!(sql.value("SELECT slot_name FROM pg_replication_slots").starts_with("walgate_tail_"));
        sql.run("INSERT INTO t VALUES (1, 'one'); UPDATE t SET note = NULL");
        let lsn = sql.value("SELECT pg_current_wal_flush_lsn()");
        sql.until(&format!("SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots"), "t");
        assert_eq!(tail.end(how).code(), Some(0));
        sql.until("SELECT count(*) FROM pg_replication_slots", "0");
        if format == "json" {
            assert_eq!(tail.kinds(), ["begin", "relation", "insert", "update", "commit"]);
            assert_eq!(tail.json()[2]["new"]["note"], "one");
        } else {
            let out = tail.read("out");
            assert!(out.contains(r#" insert public.t new: id="1" note="one""#), "{out}");
        }
    }
}

#[test]
fn the_raw_file_holds_the_frames_of_what_was_shown() {
    let (server, sql) = server(16);
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("stream.bin");
    let options = ["--format", "json", "--binary", "--messages", "--raw", raw.to_str().unwrap()];
    let mut tail = Tail::start(&server.dsn("postgres"), &options);
    sql.until(SLOTS, "1");
    sql.run("INSERT INTO t VALUES (1, 'one'); SELECT pg_logical_emit_message(true, 'a', 'b')");
    eventually("a message", || tail.kinds().contains(&"message".into()).then_some(()).ok_or(tail.kinds()));
    assert_eq!(tail.end(Signal::Interrupt).code(), Some(0));
    assert_eq!(frames(&raw).unwrap(), tail.json().len());
    assert!(tail.read("out").contains(r#""id":{"binary":"00000001"}"#), "{}", tail.read("out"));
}

/// How many frames of XLogData a file holds, and nothing but CopyData.
fn frames(path: &Path) -> io::Result<usize> {
    let bytes = fs::read(path)?;
    let (mut reader, mut rest, mut count) = (FrameReader::new(1), bytes.as_slice(), 0);
    while let Some(frame) = reader.next(&mut rest).map_err(io::Error::other)? {
        assert_eq!(frame.tag, b'd');
        count += usize::from(frame.head == b"w");
    }
    assert!(reader.at_boundary());
    Ok(count)
}

#[test]
fn endpos_ends_it_by_itself() {
    let (server, sql) = server(15);
    // A position that is still to come, which idle keepalives pass as well as changes.
    let end = sql.value("SELECT pg_current_wal_flush_lsn() + 100000");
    let mut tail = Tail::start(&server.dsn("postgres"), &["--format", "json", "--endpos", &end]);
    sql.until(SLOTS, "1");
    sql.run("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 10) i");
    sql.run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(11, 1000) i");
    assert_eq!(tail.wait().code(), Some(0));
    let within =
        |line: &Value| line["lsn"].as_str().and_then(|lsn| lsn.parse().ok()) <= end.parse::<walgate::lsn::Lsn>().ok();
    assert!(tail.json().iter().all(within));
    assert!(tail.kinds().contains(&"commit".into()));
}

#[test]
fn streaming_and_two_phase_choose_the_protocol_they_need() {
    let (server, sql) = server(17);
    server.reload_with(&[("debug_logical_replication_streaming", "immediate")]).unwrap();
    sql.until("SHOW debug_logical_replication_streaming", "immediate");
    let options = ["--format", "json", "--streaming", "parallel", "--two-phase", "--origin", "none"];
    let mut tail = Tail::start(&server.dsn("postgres"), &options);
    sql.until(SLOTS, "1");
    sql.run("BEGIN; INSERT INTO t VALUES (1, 'a'); PREPARE TRANSACTION 'g'");
    sql.run("COMMIT PREPARED 'g'");
    sql.run("INSERT INTO t VALUES (2, 'b')");
    eventually("a streamed commit", || {
        tail.kinds().contains(&"stream_commit".into()).then_some(()).ok_or(tail.kinds())
    });
    assert_eq!(tail.end(Signal::Terminate).code(), Some(0));
    let kinds = tail.kinds();
    for kind in ["stream_start", "stream_prepare", "commit_prepared"] {
        assert!(kinds.contains(&kind.into()), "{kind}: {kinds:?}");
    }
}

#[test]
fn what_cannot_work_is_told_with_a_status_of_its_own() {
    let (mut server, sql) = server(14);
    let dsn = server.dsn("postgres");
    for (dsn, options, status, expected) in [
        (dsn.as_str(), &["--publication", "q"][..], 1, "publication \"q\" does not exist"),
        (&dsn, &["--two-phase"], 2, "--two-phase needs PostgreSQL 15 or later, and this server is 14"),
        (&dsn, &["--streaming", "parallel"], 2, "needs PostgreSQL 16"),
        (&dsn, &["--raw", "/nonexistent/x"], 1, "/nonexistent/x: "),
        (&dsn, &["--endpos", "x"], 2, "not an LSN"),
        ("host=/nonexistent", &[], 4, "connection refused"),
        ("hots=x", &[], 2, "did you mean \"host\"?"),
    ] {
        let mut tail = Tail::start(dsn, options);
        assert_eq!(tail.wait().code(), Some(status), "{options:?}");
        let err = tail.read("err");
        assert!(err.contains(expected), "{err}");
    }
    let mut tail = Tail::start(&dsn, &[]);
    sql.until(SLOTS, "1");
    server.stop(Stop::Immediate).unwrap();
    assert_eq!(tail.wait().code(), Some(1));
    assert!(tail.read("err").contains("the server closed the connection while streaming"), "{}", tail.read("err"));
}
