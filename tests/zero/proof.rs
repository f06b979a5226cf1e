//! Each case: zero-cache meets what the rule says, the check says why, and after the mend neither is so.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::thread;

use serde_json::{Value, json};
use walgate::identity::Severity;
use walgate::scratch::Server;

use crate::cases::{By, CLIENTS, Case, Met, START, STREAM};
use crate::special;
use crate::support::check;
use crate::support::zero::{App, ZeroCache};
use crate::support::{Sql, eventually, last_lines, postgres};

/// How many zero-caches run at a time: each is busy for seconds as it starts.
const AT_A_TIME: usize = 2;

#[test]
fn what_it_does_not_start_with_is_named_and_mended() {
    prove(START);
}

#[test]
fn what_it_ends_at_or_has_wrong_is_named_and_mended() {
    prove(STREAM);
}

#[test]
fn what_its_clients_do_not_see_is_named_and_mended() {
    prove(CLIENTS);
}

/// Every rule of zero-cache's has a case, or a test of its own.
#[test]
fn no_rule_is_without_proof() {
    let cases = START.iter().chain(STREAM).chain(CLIENTS).map(|case| case.rule);
    let proven: BTreeSet<&str> = cases.chain(special::RULES.iter().copied()).collect();
    let rules = walgate::identity::all().map(|rule| rule.id).filter(|id| id.starts_with("zero/"));
    assert_eq!(rules.filter(|id| !proven.contains(id)).collect::<Vec<_>>(), Vec::<&str>::new());
}

fn prove(cases: &'static [Case]) {
    let server = roomy();
    let proofs: Vec<Proof<'_>> = cases
        .iter()
        .enumerate()
        .flat_map(|(number, case)| [true, false].map(|mends| Proof { server: &server, case, mends, number }))
        .filter(|proof| !proof.mends || !matches!(proof.case.mended, By::Elsewhere))
        .collect();
    let (waiting, failed) = (Mutex::new(proofs.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some(proof) = waiting.lock().expect("nobody panics with it").next() else { break };
                    // One that fails says so itself; the others are tried all the same.
                    if catch_unwind(|| proof.run()).is_err() {
                        failed.lock().expect("nobody panics with it").push(proof.what());
                    }
                }
            });
        }
    });
    assert_eq!(failed.into_inner().expect("nobody panics with it"), Vec::<String>::new());
}

/// A server with room for the slots of all cases.
pub(crate) fn roomy() -> Server {
    let builder = postgres(18).setting("max_wal_senders", "90").setting("max_replication_slots", "90");
    builder.setting("max_connections", "400").start().expect("the server starts")
}

/// One side of a case.
struct Proof<'a> {
    server: &'a Server,
    case: &'static Case,
    mends: bool,
    number: usize,
}

impl Proof<'_> {
    fn run(&self) {
        let server = Sql::connect(&self.server.dsn("postgres"));
        server.run(&format!("CREATE DATABASE {}", self.name()));
        let sql = Sql::connect(&self.dsn());
        sql.run("CREATE TABLE arrived (id int PRIMARY KEY); INSERT INTO arrived VALUES (0)");
        sql.run(self.case.offending);
        for publication in self.case.publications.iter().take(1) {
            sql.run(&format!("ALTER PUBLICATION \"{publication}\" ADD TABLE arrived"));
        }
        if self.mends {
            self.mend();
        } else {
            assert_eq!(self.found(), self.expected(), "{}: the check finds", self.what());
        }
        let upstream =
            format!("postgresql://{}:unused@127.0.0.1:{}/{}", self.server.superuser(), self.server.port(), self.name());
        let follows = !matches!(self.case.met, Met::AtStart(_));
        let app = App { name: &self.name(), publications: self.publications(), follows };
        let started = ZeroCache::try_start(&upstream, app);
        if !self.mends {
            self.is_named_without_publications(&sql);
        }
        match (started, self.case.met, self.mends) {
            (Err(log), Met::AtStart(says), false) => self.logs(&log, says),
            (Ok(zero), Met::AtStart(_), false) => panic!("{}: it serves: {}", self.what(), last_lines(&zero.log())),
            (Err(log), ..) => panic!("{}: it does not start: {}", self.what(), last_lines(&log)),
            (Ok(zero), ..) => self.goes_on(zero, &sql),
        }
    }

    /// Once zero-cache has set the database up, the check knows by itself which publications are meant.
    fn is_named_without_publications(&self, sql: &Sql) {
        let set_up = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{}_0'", self.name());
        if sql.value(&set_up) == "1" {
            let named = |finding: &Value| finding["rule"] == self.case.rule;
            let findings = check::findings(&self.dsn(), &["--for", "zero"]);
            assert!(findings.iter().any(named), "{}: once it is set up the check finds {findings:?}", self.what());
        }
    }

    /// What is met once it serves.
    fn goes_on(&self, mut zero: ZeroCache, sql: &Sql) {
        if let Met::AtStart(_) = self.case.met {
            return self.arrives(&mut zero, 0);
        }
        sql.run(self.case.then);
        if let (Met::Later(says), false) = (self.case.met, self.mends) {
            return self.logs(&zero.ends(), says);
        }
        sql.run("INSERT INTO arrived VALUES (1)");
        if let (Met::Silent(says), false) = (self.case.met, self.mends) {
            eventually(
                &format!("{}: {says}", self.what()),
                || if zero.log().contains(says) { Ok(()) } else { Err(()) },
            );
            return self.arrives(&mut zero, 0);
        }
        self.arrives(&mut zero, 1);
        match self.case.met {
            Met::AtStart(_) | Met::Later(_) | Met::Silent(_) => {}
            Met::Refused { table, columns, with } => {
                let refusal = zero.refuses(&client_schema(table, columns));
                match (self.mends, &refusal) {
                    (true, None) => {}
                    (false, Some(text)) if text.contains(with) => {}
                    _ => panic!("{}: a client is refused with {refusal:?}", self.what()),
                }
            }
            Met::Wrong { replica, server } => {
                let rows = zero.replica(replica).unwrap_or_else(|error| panic!("{}: {error}", self.what()));
                let (held, right) = (rows[0]["answer"].to_string(), sql.value(server));
                assert_eq!(held.trim_matches('"') == right, self.mends, "{}: {held} for {right}", self.what());
            }
        }
    }

    /// Waits until what was done before has arrived.
    fn arrives(&self, zero: &mut ZeroCache, id: u64) {
        eventually(&format!("{}: what was done to arrive", self.what()), || {
            match zero.replica("SELECT max(id) AS id FROM arrived") {
                Ok(rows) if rows[0]["id"] == id => Ok(()),
                other => Err((other, last_lines(&zero.log()))),
            }
        });
        assert!(!zero.has_ended(), "{}: it ended: {}", self.what(), last_lines(&zero.log()));
    }

    fn mend(&self) {
        match self.case.mended {
            By::Hand(sql) | By::Naming(sql, _) => check::run(&self.dsn(), sql),
            By::Elsewhere => unreachable!("it is not tried"),
            By::Check => check::run(&self.dsn(), &check::script(&self.dsn(), &self.arguments())),
        }
        let left = self.find(|finding| finding["severity"] == "error" || finding["rule"] == self.case.rule);
        assert_eq!(left, BTreeSet::new(), "{}: the check finds when it is mended", self.what());
    }

    /// The rule and what comes with it.
    fn expected(&self) -> BTreeSet<(String, String)> {
        let rules = self.case.besides.iter().chain([&self.case.rule]);
        rules.map(|rule| ((*rule).to_owned(), self.case.table.to_owned())).collect()
    }

    /// What the check finds that breaks something or is worse than it looks.
    fn found(&self) -> BTreeSet<(String, String)> {
        self.find(|finding| finding["severity"] != "info" || finding["rule"] == self.case.rule)
    }

    fn find(&self, is_meant: impl Fn(&Value) -> bool) -> BTreeSet<(String, String)> {
        check::rules(&check::findings(&self.dsn(), &self.arguments()), is_meant)
    }

    fn arguments(&self) -> Vec<&str> {
        let rule = walgate::identity::all().find(|rule| rule.id == self.case.rule).expect("it is a rule");
        let fail_on = if rule.severity == Severity::Warning { "warning" } else { "error" };
        let publications = self.publications().iter().flat_map(|publication| ["--publication", publication]);
        ["--for", "zero", "--fail-on", fail_on].into_iter().chain(publications).collect()
    }

    fn publications(&self) -> &'static [&'static str] {
        match self.case.mended {
            By::Naming(_, publications) if self.mends => publications,
            _ => self.case.publications,
        }
    }

    #[track_caller]
    fn logs(&self, log: &str, says: &str) {
        assert!(log.contains(says), "{}: nothing of {says:?} in {}", self.what(), last_lines(log));
    }

    /// Of its database, and of its zero-cache.
    fn name(&self) -> String {
        let rule = self.case.rule.trim_start_matches("zero/").replace('-', "_");
        format!("{rule}_{}{}", self.number, if self.mends { "_mended" } else { "" })
    }

    fn dsn(&self) -> String {
        self.server.dsn(&self.name())
    }

    fn what(&self) -> String {
        format!("{}{}: {}", self.case.rule, if self.mends { ", mended" } else { "" }, self.case.offending)
    }
}

/// The schema of a client that has one table.
pub(crate) fn client_schema(table: &str, columns: &[(&str, &str)]) -> Value {
    let key: Vec<&str> = columns.iter().take(1).map(|(name, _)| *name).collect();
    let columns: serde_json::Map<String, Value> =
        columns.iter().map(|(name, kind)| ((*name).to_owned(), json!({ "type": kind }))).collect();
    json!({ table: { "columns": columns, "primaryKey": key } })
}
