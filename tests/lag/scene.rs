//! A server with one consumer through walgate, and how a situation there looks to walgate and to what is usually asked.

use serde_json::Value;
use walgate::scratch::{Server, Signal, signal};

use crate::held::publish;
use crate::support::Sql;
use crate::support::daemon::Walgate;
use crate::support::oracle::{Habits, Oracle};
use crate::support::usual::Usual;

/// A consumer of the slot `s` of table `t`; the table `unpublished` beside it.
pub(crate) struct Scene {
    pub(crate) oracle: Oracle,
    pub(crate) walgate: Walgate,
    pub(crate) usual: Usual,
    pub(crate) sql: Sql,
    pub(crate) server: Server,
}

impl Scene {
    #[track_caller]
    pub(crate) fn of(server: Server, habits: Habits) -> Scene {
        let upstream = server.dsn("postgres");
        Scene::with(server, habits, |_| Walgate::run(&upstream, &[]), |dsn| dsn)
    }

    /// With walgate started in a way of the caller's, and the consumer's way to it changed.
    #[track_caller]
    pub(crate) fn with(
        server: Server,
        habits: Habits,
        walgate: impl FnOnce(&Server) -> Walgate,
        way: impl FnOnce(String) -> String,
    ) -> Scene {
        let sql = publish(&server, &["t"], &["s"]);
        sql.run("CREATE TABLE unpublished (id int, v text)");
        let walgate = walgate(&server);
        let dsn = way(walgate.dsn(server.superuser(), "postgres"));
        let oracle = Oracle::start(&dsn, "s", "p", habits);
        let usual = Usual::of(&server);
        let scene = Scene { oracle, walgate, usual, sql, server };
        scene.idle();
        scene
    }

    /// Writes as many commits of one row, starting with this id.
    pub(crate) fn write(&self, from: u32, commits: u32) {
        (from..from + commits).for_each(|id| self.sql.run(&format!("INSERT INTO t VALUES ({id}, 'x')")));
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.walgate.lag_until("s", what, holds)
    }

    /// Waits until it is known that the consumer has everything.
    #[track_caller]
    pub(crate) fn idle(&self) -> Value {
        self.until("nothing is pending", is_idle)
    }

    /// Waits until this many commits are pending, and that is exact.
    #[track_caller]
    pub(crate) fn pending(&self, commits: u64) -> Value {
        self.until("exact figures", |report| report["state"] == "live" && report["lag"]["transactions"] == commits)
    }

    /// Says how the situation looks.
    pub(crate) fn show(&self, situation: &str) {
        show(situation, &self.walgate, &self.usual);
    }
}

/// The same where the scene is taken apart.
pub(crate) fn show(situation: &str, walgate: &Walgate, usual: &Usual) {
    let report = walgate.lag("s").unwrap_or_default();
    println!("| {situation} | {} {}", summary(&report), usual.figures("s"));
}

/// Whether the consumer is known to have everything.
pub(crate) fn is_idle(report: &Value) -> bool {
    let figures = ["seconds", "seconds_max", "transactions", "rows", "bytes", "open_transactions", "open_bytes"];
    report["state"] == "live" && figures.iter().all(|figure| report["lag"][figure].as_f64() == Some(0.0))
}

/// Whether no figure is given that could be read as one.
pub(crate) fn is_silent(report: &Value) -> bool {
    report["lag"].as_object().is_some_and(|lag| lag.values().all(Value::is_null))
}

fn summary(report: &Value) -> String {
    let word = |name: &str| report[name].as_str().unwrap_or("–").to_owned();
    let lag = &report["lag"];
    let seconds = match (lag["seconds"].as_f64(), lag["seconds_max"].as_f64()) {
        (Some(least), Some(most)) if least == most => format!("{least:.1} s"),
        (Some(least), Some(most)) => format!("{least:.1} to {most:.1} s"),
        (None, Some(most)) => format!("at most {most:.1} s"),
        (Some(least), None) => format!("at least {least:.1} s"),
        (None, None) => "–".to_owned(),
    };
    let count = |name: &str| lag[name].as_u64().map_or("–".to_owned(), |count| count.to_string());
    let (transactions, rows, open) = (count("transactions"), count("rows"), count("open_bytes"));
    let (state, stage, status) = (word("state"), word("stage"), word("wal_status"));
    format!("{state}, {stage}: {seconds}, {transactions} transactions, {rows} rows, {open} B open, slot {status}")
}

/// A process that is stopped for as long as this is there.
pub(crate) struct Stopped(i32);

impl Stopped {
    pub(crate) fn process(pid: &str) -> Stopped {
        let pid = pid.parse().expect("a process id");
        assert!(signal(pid, Signal::Stop), "no process {pid}");
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, Signal::Continue);
    }
}
