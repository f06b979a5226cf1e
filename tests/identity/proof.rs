//! Each case, on each version that has it: the errors come, the check says why, and after the mend neither does.

use std::collections::BTreeSet;
use std::panic::catch_unwind;

use serde_json::Value;
use walgate::identity::Severity;
use walgate::scratch::Server;

use crate::cases::{self, By, Case};
use crate::support::check;
use crate::support::{Sql, postgres};

#[test]
fn what_a_rule_says_comes_true_until_it_is_mended_on_14() {
    prove(14);
}

#[test]
fn what_a_rule_says_comes_true_until_it_is_mended_on_15() {
    prove(15);
}

#[test]
fn what_a_rule_says_comes_true_until_it_is_mended_on_16() {
    prove(16);
}

#[test]
fn what_a_rule_says_comes_true_until_it_is_mended_on_17() {
    prove(17);
}

#[test]
fn what_a_rule_says_comes_true_until_it_is_mended_on_18() {
    prove(18);
}

/// Every rule of PostgreSQL's own has a case on some version; what a role may not see is tried with one, in `tests/check`.
#[test]
fn no_rule_is_without_proof() {
    let proven: BTreeSet<&str> = (14..=18).flat_map(cases::of).map(|case| case.rule).chain(["pg/no-rights"]).collect();
    let rules = walgate::identity::all().map(|rule| rule.id).filter(|id| id.starts_with("pg/"));
    assert_eq!(rules.filter(|id| !proven.contains(id)).collect::<Vec<_>>(), Vec::<&str>::new());
}

fn prove(major: u32) {
    let server = postgres(major).start().expect("a server starts");
    let sql = Sql::connect(&server.dsn("postgres"));
    // One that fails says so itself; the others are tried all the same.
    let fails = |case: &&Case| {
        sql.run(CLEAR);
        catch_unwind(|| Proof { server: &server, case }.run()).is_err()
    };
    let failed: Vec<&str> = cases::of(major).filter(fails).map(|case| case.name).collect();
    assert_eq!(failed, Vec::<&str>::new());
}

/// Takes everything away that a case has made: that is several times quicker than a database for each.
pub(crate) const CLEAR: &str = "
    DO $$
    DECLARE what text;
    BEGIN
        FOR what IN
            SELECT format('PUBLICATION %I', pubname) FROM pg_publication
            UNION ALL SELECT format('FOREIGN DATA WRAPPER %I CASCADE', fdwname) FROM pg_foreign_data_wrapper
            UNION ALL SELECT format('SCHEMA %I CASCADE', nspname) FROM pg_namespace
                      WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
        LOOP
            EXECUTE 'DROP ' || what;
        END LOOP;
    END $$;
    CREATE SCHEMA public";

struct Proof<'a> {
    server: &'a Server,
    case: &'a Case,
}

impl Proof<'_> {
    fn run(&self) {
        self.sql().run(self.case.offending);
        self.says(|says| says);
        let (expected, found) = (self.expected(), self.found());
        assert_eq!(found, expected, "{}: the check finds", self.what());
        match self.case.mended {
            By::None => return,
            By::Hand(sql) => check::run(&self.dsn(), sql),
            By::Check => {
                let script = check::script(&self.dsn(), &self.arguments());
                // Half of it may have been run before.
                check::run(&self.dsn(), &script);
                check::run(&self.dsn(), &script);
            }
        }
        let left = self.find(|finding| finding["severity"] == "error" || finding["rule"] == self.case.rule);
        assert_eq!(left, BTreeSet::new(), "{}: the check finds when it is mended", self.what());
        self.says(|_| "");
    }

    /// Runs the statements, and compares what they say.
    fn says(&self, expected: impl Fn(&'static str) -> &'static str) {
        for (statement, says) in self.case.then {
            // A session of its own: another may still know what was before.
            let said = self.sql().try_rows(statement).err().map(|error| {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{}: {statement}: {error}", self.what()));
                let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
                format!("{}: {}{detail}", error.code().code(), error.message())
            });
            assert_eq!(said.unwrap_or_default(), expected(says), "{}: {statement}", self.what());
        }
    }

    /// The rule for each table, and what comes with it.
    fn expected(&self) -> BTreeSet<(String, String)> {
        let tables = if self.case.tables.is_empty() { &[""][..] } else { self.case.tables };
        let with = |rule: &str| tables.iter().map(|table| (rule.to_owned(), (*table).to_owned())).collect::<Vec<_>>();
        let besides = self.case.besides.iter().flat_map(|rule| with(rule));
        with(self.case.rule).into_iter().chain(besides).collect()
    }

    /// What the check finds that breaks something or is worse than it looks; of the rest only what the case is about.
    fn found(&self) -> BTreeSet<(String, String)> {
        self.find(|finding| {
            finding["severity"] != "info" || finding["rule"] == self.case.rule && finding["table"].is_string()
        })
    }

    /// The rules that do not hold, and on which tables.
    fn find(&self, is_meant: impl Fn(&Value) -> bool) -> BTreeSet<(String, String)> {
        check::rules(&check::findings(&self.dsn(), &self.arguments()), is_meant)
    }

    fn arguments(&self) -> Vec<&str> {
        let rule = walgate::identity::all().find(|rule| rule.id == self.case.rule).expect("it is a rule");
        let fail_on = if rule.severity == Severity::Warning { "warning" } else { "error" };
        let publications = self.case.publications.iter().flat_map(|publication| ["--publication", publication]);
        ["--fail-on", fail_on].into_iter().chain(publications).collect()
    }

    fn sql(&self) -> Sql {
        Sql::connect(&self.dsn())
    }

    fn dsn(&self) -> String {
        self.server.socket_dsn("postgres")
    }

    fn what(&self) -> String {
        format!("{} on {}: {}", self.case.rule, self.server.installation().version(), self.case.name)
    }
}
