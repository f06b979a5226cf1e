//! A server with slots, who reads them, and the command.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;
use walgate::scratch::{Server, Signal, signal};

use crate::support::command::{Outcome, walgate};
use crate::support::{Sql, eventually, postgres, tool};

/// A server with a table `t` that the publication `p` has.
#[track_caller]
pub(crate) fn source(major: u32, settings: &[(&str, &str)]) -> (Server, Sql) {
    let builder = settings.iter().fold(postgres(major), |builder, (name, value)| builder.setting(name, value));
    let server = builder.start().expect("the server starts");
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run("CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR TABLE t");
    (server, sql)
}

/// Makes logical slots.
#[track_caller]
pub(crate) fn make_slots(sql: &Sql, slots: &[&str]) {
    for slot in slots {
        sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    }
}

/// The names of the slots that there are, in order.
#[track_caller]
pub(crate) fn slots(sql: &Sql) -> Vec<String> {
    let rows = sql.rows("SELECT slot_name FROM pg_replication_slots ORDER BY slot_name COLLATE \"C\"");
    rows.into_iter().flatten().flatten().collect()
}

impl Outcome {
    /// The slots in JSON.
    #[track_caller]
    pub(crate) fn slots(&self) -> Vec<Value> {
        self.json()["slots"].as_array().cloned().unwrap_or_else(|| panic!("{self:?}"))
    }
}

/// `walgate slots` in an environment that holds nothing.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = walgate(&["slots"]);
    command.args(arguments);
    command
}

/// The command while it waits for an answer.
pub(crate) struct Asking {
    running: Running,
    errors: Receiver<String>,
    said: String,
}

impl Asking {
    /// Starts it; returns when it asks.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Asking {
        Asking::start_with(command(arguments))
    }

    /// The same for a command that is ready.
    #[track_caller]
    pub(crate) fn start_with(mut command: Command) -> Asking {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running(command.spawn().expect("the binary starts"));
        let mut stderr = running.0.stderr.take().expect("it is a pipe");
        let (sender, errors) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut buffer) {
                let _ = sender.send(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
        });
        let mut said = String::new();
        eventually("a question", || {
            said.extend(errors.try_iter());
            if said.ends_with("[y/N] ") { Ok(()) } else { Err(said.clone()) }
        });
        Asking { running, errors, said }
    }

    /// Answers, and waits for its end.
    #[track_caller]
    pub(crate) fn answer(mut self, answer: &str) -> Outcome {
        let mut stdin = self.running.0.stdin.take().expect("it is a pipe");
        stdin.write_all(answer.as_bytes()).expect("it reads");
        drop(stdin);
        let mut output = String::new();
        let mut stdout = self.running.0.stdout.take().expect("it is a pipe");
        stdout.read_to_string(&mut output).expect("what is printed is UTF-8");
        let status = self.running.0.wait().expect("it is a child").code();
        self.said.extend(self.errors.iter());
        Outcome { status, output, errors: self.said }
    }
}

/// A program that ends with this value.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, perhaps.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A command that runs on, with what it says.
pub(crate) struct Going {
    pub(crate) running: Running,
    directory: TempDir,
}

impl Going {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Going {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let file = |name: &str| File::create(directory.path().join(name)).expect("a file can be made");
        let child = command.stdout(file("out")).stderr(file("err")).spawn().expect("the binary starts");
        Going { running: Running(child), directory }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    /// What it has told.
    pub(crate) fn errors(&self) -> String {
        self.read("err")
    }

    /// Waits until it has told this.
    #[track_caller]
    pub(crate) fn until(&self, text: &str) {
        eventually(text, || {
            let said = self.errors();
            if said.contains(text) { Ok(()) } else { Err((said, self.read("out"))) }
        });
    }

    /// Signals it.
    pub(crate) fn signal(&self, what: Signal) {
        signal(i32::try_from(self.running.0.id()).expect("a process id is positive"), what);
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Outcome {
        let ended = eventually("the command to end", || match self.running.0.try_wait() {
            Ok(Some(ended)) => Ok(ended),
            other => Err((other, self.read("err"))),
        });
        Outcome { status: ended.code(), output: self.read("out"), errors: self.read("err") }
    }
}

/// Reads a slot as a consumer of the publication `p` does, once; returns when it holds it.
#[track_caller]
pub(crate) fn read(server: &Server, sql: &Sql, slot: &str) -> Running {
    let mut reader = Command::new(tool("pg_recvlogical"));
    let dsn = format!("{} application_name=reader", server.dsn("postgres"));
    reader.args(["--dbname", &dsn, "--slot", slot, "--start", "--file=/dev/null", "--no-loop"]);
    reader.args(["--status-interval=1", "--fsync-interval=1"]);
    reader
        .args(["--option=proto_version=1", "--option=publication_names=p"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let reader = Running(reader.spawn().expect("pg_recvlogical starts"));
    sql.until(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"), "t");
    reader
}
