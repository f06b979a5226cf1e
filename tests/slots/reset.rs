//! `walgate slots reset`, stopped at every step and run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;
use walgate::scratch::{Server, Signal};

use crate::scene::{Asking, Going, Running, command, make_slots, read, slots, source};
use crate::support::command::{Outcome, outcome};
use crate::support::{Sql, eventually, tool};

/// Where resets of one server are noted.
pub(crate) struct Resets {
    dsn: String,
    state: TempDir,
}

impl Resets {
    fn of(server: &Server) -> Resets {
        Resets::at(&server.dsn("postgres"))
    }

    pub(crate) fn at(dsn: &str) -> Resets {
        Resets { dsn: dsn.to_owned(), state: tempfile::tempdir().expect("a directory can be made") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&[&[self.dsn.as_str(), "reset"], arguments].concat());
        command.env("XDG_STATE_HOME", self.state.path());
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        outcome(&mut self.command(arguments))
    }

    #[track_caller]
    pub(crate) fn start(&self, arguments: &[&str]) -> Going {
        Going::start(&mut self.command(arguments))
    }

    /// The file that says where a reset stands.
    fn mark(&self) -> Option<PathBuf> {
        let files = fs::read_dir(self.state.path().join("walgate")).into_iter().flatten().flatten();
        files.map(|file| file.path()).find(|path| path.extension().is_some_and(|extension| extension == "json"))
    }
}

#[test]
fn a_consumer_starts_anew_and_is_watched_until_it_has_caught_up() {
    for (major, role) in [(15, "postgres"), (18, "postgres"), (18, "plain")] {
        let (server, sql) = source(major, &[]);
        sql.run("CREATE ROLE plain LOGIN REPLICATION");
        let resets = Resets::at(&server.dsn("postgres").replace("user=postgres", &format!("user={role}")));
        make_slots(&sql, &["zero_0_a", "zero_0_b", "green_sub"]);
        let reset = resets.start(&["zero%", "--for", "zero", "--yes"]);
        reset.until("waiting for a new slot zero_0_…");
        assert_eq!(slots(&sql), ["green_sub"]);
        assert!(resets.mark().is_some());
        make_slots(&sql, &["zero_0_a"]);
        reset.until("zero_0_a is there, and not read yet");
        let _reader = read(&server, &sql, "zero_0_a");
        let done = reset.end();
        assert_eq!(done.status, Some(0), "{done:?}");
        assert!(done.errors.contains("zero_0_a is read by reader"), "{done:?}");
        assert!(done.output.starts_with("dropped zero_0_a, which kept "), "{done:?}");
        assert_eq!(resets.mark(), None);

        // Again, though nothing is wrong with it.
        let again = resets.run(&["zero%", "--for", "zero", "--yes"]);
        assert_eq!((again.status, slots(&sql).len()), (Some(1), 2), "{again:?}");
        assert!(again.errors.contains("nothing is wrong with zero_0_a"), "{again:?}");
    }
}

#[test]
fn what_would_break_it_again_or_is_not_to_be_reset_keeps_everything_as_it_is() {
    let (server, sql) = source(17, &[]);
    let resets = Resets::of(&server);
    make_slots(&sql, &["zero_0_a"]);
    sql.run("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)");
    sql.run("ALTER PUBLICATION p ADD TABLE alembic_version");
    let refused = resets.run(&["zero%", "--for", "zero", "--yes"]);
    assert_eq!((refused.status, slots(&sql).len()), (Some(1), 1), "{refused:?}");
    assert!(refused.errors.contains("public.alembic_version: "), "{refused:?}");
    assert!(refused.errors.contains("walgate check --for zero shows how ("), "{refused:?}");
    sql.run("ALTER TABLE alembic_version ADD PRIMARY KEY (version_num)");

    sql.run("SELECT pg_create_physical_replication_slot('zero_standby')");
    sql.run("CREATE DATABASE other");
    let refused = resets.run(&["zero%", "--yes"]);
    assert!(refused.status == Some(1) && refused.errors.contains("zero_standby is physical"), "{refused:?}");
    make_slots(&Sql::connect(&server.dsn("other")), &["zero_1_a"]);
    let refused = resets.run(&[r"zero\_1%", "--yes"]);
    assert!(refused.status == Some(1) && refused.errors.contains("zero_1_a is of database other"), "{refused:?}");

    // zero-cache copies tables while nobody reads its slot.
    let copying = Sql::connect(&format!("{} application_name=zero-initial-sync-copy-worker", server.dsn("postgres")));
    let refused = resets.run(&["zero_0%", "--for", "zero", "--yes", "--terminate"]);
    assert!(refused.status == Some(1) && refused.errors.contains("zero-cache copies tables now"), "{refused:?}");
    drop(copying);

    let nowhere = outcome(resets.command(&["zero_0%", "--yes"]).env("XDG_STATE_HOME", "/dev/null/state"));
    assert_eq!(nowhere.status, Some(1), "{nowhere:?}");
    assert!(nowhere.errors.contains("set XDG_STATE_HOME"), "{nowhere:?}");
    let refused = Asking::start_with(resets.command(&["zero_0%"])).answer("no\n");
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert_eq!((slots(&sql).len(), resets.mark()), (3, None));
}

#[test]
fn a_reset_that_is_killed_while_it_waits_goes_on_and_leaves_new_slots_alone() {
    let (server, sql) = source(16, &[]);
    let resets = Resets::of(&server);
    let everything = ["zero%", "--for", "zero", "--yes", "--terminate"];
    make_slots(&sql, &["zero_0_a"]);
    let reader = read(&server, &sql, "zero_0_a");

    // Before the answer: nothing has happened.
    let asking = Asking::start_with(resets.command(&["zero%", "--terminate"]));
    drop(asking);
    assert_eq!((slots(&sql).len(), resets.mark()), (1, None));

    // Nothing is there yet.
    let reset = resets.start(&everything);
    reset.until("waiting for a new slot");
    reset.signal(Signal::Kill);
    assert_eq!(reset.end().status, None);
    drop(reader);
    let reset = resets.start(&everything);
    reset.until("going on with the reset that began at 2");
    reset.until("waiting for a new slot zero_0_…");

    // The new slot is there, under the old name, and nobody reads it.
    make_slots(&sql, &["zero_0_a"]);
    let made = sql.value("SELECT restart_lsn FROM pg_replication_slots");
    reset.until("not read yet");
    reset.signal(Signal::Terminate);
    let stopped = reset.end();
    assert_eq!(stopped.status, Some(1), "{stopped:?}");
    assert!(stopped.errors.ends_with("stopped; the same command goes on from here\n"), "{stopped:?}");
    let late = resets.run(&[&everything[..], &["--timeout", "1s"]].concat());
    assert_eq!(late.status, Some(1), "{late:?}");
    assert!(late.errors.contains("walgate: zero_0_a was made since, and stays"), "{late:?}");
    assert!(late.errors.contains("not done within 1s: zero_0_a is there, and not read yet"), "{late:?}");

    // It is read.
    let mut reader = read(&server, &sql, "zero_0_a");
    let done = resets.run(&everything);
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!(sql.value("SELECT restart_lsn FROM pg_replication_slots"), made);
    assert!(reader.0.try_wait().expect("it is a child").is_none(), "it reads on");
    assert_eq!(resets.mark(), None);
}

#[test]
fn a_reset_that_was_stopped_between_slots_drops_those_that_are_left() {
    let (server, sql) = source(18, &[]);
    let resets = Resets::of(&server);
    make_slots(&sql, &["zero_0_a", "zero_1_a"]);
    let asking = Asking::start_with(resets.command(&["zero%", "--for", "zero"]));
    let reader = read(&server, &sql, "zero_1_a");
    let stopped = asking.answer("y\n");
    assert_eq!((stopped.status, slots(&sql)), (Some(1), vec!["zero_1_a".to_owned()]), "{stopped:?}");
    drop(reader);
    sql.until("SELECT active FROM pg_replication_slots", "f");
    make_slots(&sql, &["zero_0_a"]);
    let reset = resets.start(&["zero%", "--for", "zero", "--yes"]);
    reset.until("waiting for a new slot zero_1_…");
    assert_eq!(slots(&sql), ["zero_0_a"]);
    make_slots(&sql, &["zero_1_a"]);
    let _readers = [read(&server, &sql, "zero_0_a"), read(&server, &sql, "zero_1_a")];
    let done = reset.end();
    assert_eq!(done.status, Some(0), "{done:?}");
    assert!(done.errors.contains("zero_0_a was made since, and stays"), "{done:?}");
}

#[test]
fn where_it_cannot_be_told_whether_a_slot_is_new_nothing_is_dropped() {
    let (server, sql) = source(15, &[]);
    let resets = Resets::of(&server);
    make_slots(&sql, &["zero_0_a"]);
    let reset = resets.start(&["zero%", "--yes"]);
    reset.until("waiting for a new slot zero_0_a");
    reset.signal(Signal::Kill);
    reset.end();
    make_slots(&sql, &["zero_0_a"]);
    // As if it had been killed when the server had dropped the slot and it had not noted that.
    let path = resets.mark().expect("it is noted");
    let mark = fs::read_to_string(&path).expect("it is text");
    let before = mark.replace(r#""left":[],"dropped":["zero_0_a"]"#, r#""left":["zero_0_a"],"dropped":[]"#);
    assert_ne!(before, mark);
    write(&path, &before);
    let refused = resets.run(&["zero%", "--yes", "--terminate"]);
    assert_eq!((refused.status, slots(&sql).len()), (Some(1), 1), "{refused:?}");
    assert!(refused.errors.contains("zero_0_a was about to be dropped"), "{refused:?}");
    assert!(refused.errors.contains(path.to_str().expect("it is text")), "{refused:?}");
    // As if it had begun in 2001.
    let (start, end) = (mark.find(":").expect("a number") + 1, mark.find(",").expect("a number"));
    let old = format!("{}{}{}", &mark[..start], 31_536_000_000_000_u64, &mark[end..]);
    write(&path, &old);
    let refused = resets.run(&["zero%", "--yes", "--terminate"]);
    assert_eq!((refused.status, slots(&sql).len()), (Some(1), 1), "{refused:?}");
    assert!(refused.errors.contains("began at 2000-12-31") && refused.errors.contains("long ago"), "{refused:?}");
    write(&path, "{");
    let refused = resets.run(&["zero%", "--yes", "--terminate"]);
    assert_eq!((refused.status, slots(&sql).len()), (Some(1), 1), "{refused:?}");
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("it can be written");
}

#[test]
fn a_slot_that_is_lost_again_is_dropped_again() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")];
    let (server, sql) = source(17, &settings);
    let resets = Resets::of(&server);
    make_slots(&sql, &["zero_0_a"]);
    let reset = resets.start(&["zero%", "--yes"]);
    reset.until("waiting for a new slot zero_0_a");
    make_slots(&sql, &["zero_0_a"]);
    reset.until("not read yet");
    sql.until_slot_is_lost();
    let lost = reset.end();
    assert_eq!(lost.status, Some(1), "{lost:?}");
    assert!(lost.errors.contains("raise max_slot_wal_keep_size"), "{lost:?}");
    let again = resets.start(&["zero%", "--yes"]);
    again.until("waiting for a new slot zero_0_a");
    assert_eq!(slots(&sql).len(), 0);
}

/// A consumer that makes its slot where there is none, and notes that, and reads it; and starts again when it is ended.
fn supervised(server: &Server, made: &Path) -> Running {
    let consumer = r#"while [ -e "$2" ]; do
        "$0" --dbname "$1" --slot zero_0_a --create-slot --plugin=pgoutput && echo made >>"$2"
        "$0" --dbname "$1" --slot zero_0_a --start --file=/dev/null --no-loop --status-interval=1 --fsync-interval=1 \
            --option=proto_version=1 --option=publication_names=p
    done 2>/dev/null"#;
    let mut command = Command::new("bash");
    command.args(["-c", consumer]).arg(tool("pg_recvlogical")).arg(server.dsn("postgres")).arg(made);
    Running(command.stdin(Stdio::null()).spawn().expect("bash starts"))
}

#[test]
fn whenever_it_is_killed_the_slot_is_made_anew_no_more_than_once() {
    let (server, sql) = source(18, &[]);
    let directory = tempfile::tempdir().expect("a directory can be made");
    for round in 0..8 {
        let resets = Resets::of(&server);
        let file = directory.path().join(round.to_string());
        write(&file, "");
        let mut consumer = supervised(&server, &file);
        let count = || fs::read_to_string(&file).unwrap_or_default().lines().count();
        eventually("the slot to be made", || if count() == 1 { Ok(()) } else { Err(count()) });
        sql.until("SELECT active FROM pg_replication_slots", "t");
        let everything = ["zero%", "--for", "zero", "--yes", "--terminate"];
        let reset = resets.start(&everything);
        // Not to be right, but to be at another step each time.
        sleep(Duration::from_millis(round * 18));
        reset.signal(Signal::Kill);
        reset.end();
        let ended = eventually("the reset to be done, or refused for good", || {
            let outcome = resets.run(&everything);
            let is_unclear = outcome.errors.contains("was about to be dropped");
            if outcome.status == Some(0) || is_unclear { Ok(outcome) } else { Err(outcome) }
        });
        assert!(count() <= 2, "round {round}: {ended:?}");
        let is_unclear = ended.status != Some(0);
        assert_eq!(resets.mark().is_some(), is_unclear, "round {round}: {ended:?}");
        eventually("the consumer to end", || {
            // It is there again if a slot was made just now.
            let _ = fs::remove_file(&file);
            sql.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active");
            consumer.0.try_wait().map_err(drop).and_then(|ended| ended.ok_or(()))
        });
        sql.until("SELECT count(*) FROM pg_replication_slots WHERE active", "0");
        sql.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
    }
}
