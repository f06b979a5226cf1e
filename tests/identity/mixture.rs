//! Tables and publications of every kind, mixed at random: what the server refuses is what the check finds, and what the
//! check mends the server takes.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;

use serde_json::Value;

use crate::proof::CLEAR;
use crate::support::check;
use crate::support::{Sql, postgres};

/// Mixtures a version.
const ROUNDS: u64 = 4;

/// For each table what is wrong with it, as the server's error or the rule names it.
type Wrong = BTreeMap<String, BTreeSet<&'static str>>;

#[test]
fn the_server_refuses_exactly_what_the_check_finds() {
    each_mixture(|sql, dsn, major, what| {
        let (found, refused) = (found(&check::findings(dsn, &[]), major), refused(sql));
        for (table, errors) in &refused {
            let found = found.get(table).cloned().unwrap_or_default();
            // Of several faults the server tells one.
            assert!(errors.is_subset(&found), "{table}: the server says {errors:?}, the check {found:?}; {what}");
        }
        let quiet: Vec<_> = found.keys().filter(|table| !refused.contains_key(*table)).collect();
        assert_eq!(quiet, Vec::<&String>::new(), "the server refuses nothing there; {what}");
    });
}

#[test]
fn only_what_somebody_must_decide_is_left_when_all_is_mended() {
    each_mixture(|sql, dsn, _, what| {
        let mut scripts = String::new();
        // A table that has a key now may show another fault, which had no say before.
        for _ in 0..3 {
            let (script, before) = (check::script(dsn, &["--fail-on", "warning"]), refused(sql));
            check::run(dsn, &script);
            check::run(dsn, &script);
            scripts.push_str(&script);
            let after = refused(sql);
            let broken: Vec<_> = after.keys().filter(|table| !before.contains_key(*table)).collect();
            assert_eq!(broken, Vec::<&String>::new(), "worked before\n{scripts}\n{what}");
        }
        let findings = check::findings(dsn, &[]);
        let undecided: BTreeSet<&str> =
            findings.iter().filter(|finding| is_template(finding)).filter_map(table).collect();
        let refused = refused(sql);
        let broken: Vec<_> = refused.keys().filter(|table| !undecided.contains(table.as_str())).collect();
        assert_eq!(broken, Vec::<&String>::new(), "{scripts}\nis no mend; {what}");
    });
}

/// Whether somebody must choose how to mend it.
fn is_template(finding: &Value) -> bool {
    finding["severity"] == "error" && finding["fix"].as_str().is_none_or(|fix| fix.contains("-- "))
}

/// Makes mixtures on each version, one after the other in one database.
fn each_mixture(proves: fn(&Sql, &str, u32, &str)) {
    for major in 14..=18 {
        let server = postgres(major).start().expect("a server starts");
        let dsn = server.dsn("postgres");
        // One that fails says so itself; the others are tried all the same.
        let fails = |seed: &u64| {
            let mix = || {
                let sql = Sql::connect(&dsn);
                sql.run(CLEAR);
                let schema = Mixture { state: seed * 100 + u64::from(major), major, sql: &sql }.make();
                proves(&sql, &dsn, major, &format!("seed {seed} on {major}:\n{schema}"));
            };
            catch_unwind(mix).is_err()
        };
        let failed: Vec<u64> = (0..ROUNDS).filter(fails).collect();
        assert_eq!(failed, Vec::<u64>::new(), "on {major}");
    }
}

fn table(finding: &Value) -> Option<&str> {
    finding["table"].as_str()
}

fn found(findings: &[Value], major: u32) -> Wrong {
    let mut found = Wrong::new();
    for finding in findings {
        let what = match finding["rule"].as_str().unwrap_or_default() {
            "pg/no-identity" | "pg/identity-nothing" | "pg/identity-index-missing" | "pg/deferrable-key" => "identity",
            "pg/column-list-misses-identity" => "list",
            "pg/row-filter-misses-identity" => "filter",
            // Before, it is the subscriber that stops.
            "pg/generated-identity" if major >= 18 => "generated",
            _ => continue,
        };
        found.entry(table(finding).expect("it is about a table").to_owned()).or_default().insert(what);
    }
    found
}

/// What the server says to an update and to a delete of each table.
fn refused(sql: &Sql) -> Wrong {
    let mut refused = Wrong::new();
    let tables = sql.rows(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
         WHERE relkind = 'r' AND nspname IN ('public', 's')",
    );
    for table in tables.into_iter().flatten().flatten() {
        for write in ["UPDATE ONLY {} SET c = c WHERE false", "DELETE FROM ONLY {} WHERE false"] {
            let Err(error) = sql.try_rows(&write.replace("{}", &table)) else { continue };
            let error = error.as_db_error().expect("the server says it");
            let said = [
                (error.message(), "because it does not have a replica identity", "identity"),
                (error.detail().unwrap_or_default(), "Column list used by the publication", "list"),
                (error.detail().unwrap_or_default(), "Column used in the publication WHERE", "filter"),
                (error.detail().unwrap_or_default(), "Replica identity must not contain unpublished", "generated"),
            ];
            let said = said.into_iter().find(|(text, part, _)| text.contains(part));
            let (_, _, what) = said.unwrap_or_else(|| panic!("{table}: {error:?}"));
            refused.entry(table.clone()).or_default().insert(what);
        }
    }
    refused
}

/// A schema made at random, the same for the same state.
struct Mixture<'a> {
    state: u64,
    major: u32,
    sql: &'a Sql,
}

impl Mixture<'_> {
    /// Makes it; returns the statements that the server took.
    fn make(mut self) -> String {
        let mut statements = vec!["CREATE SCHEMA s".to_owned()];
        let mut tables = Vec::new();
        for number in 0..12 {
            let name = format!("{}.t{number}", self.pick(&["public", "public", "s"]));
            match self.below(4) {
                0 => statements.extend(self.partitioned(&name, &mut tables)),
                1 => {
                    statements.extend(self.table(&name));
                    let child = format!("{}.child{number}", self.pick(&["public", "s"]));
                    statements.push(format!("CREATE TABLE {child} () INHERITS ({name})"));
                    statements.extend(self.identity(&child));
                    tables.push(child);
                }
                _ => statements.extend(self.table(&name)),
            }
            tables.push(name);
        }
        for number in 0..6 {
            statements.extend(self.publication(number, &tables));
        }
        // What makes no sense the server does not take: a filter of what is not shown as its root, a key on a key.
        let (sql, mut taken) = (self.sql, String::new());
        for statement in statements.into_iter().filter(|statement| sql.try_rows(statement).is_ok()) {
            taken.push_str(&statement);
            taken.push_str(";\n");
        }
        taken
    }

    fn table(&mut self, name: &str) -> Vec<String> {
        let mut columns = vec![self.column("a"), self.column("b"), "c int".to_owned()];
        match self.below(5) {
            0 => columns.push("g int GENERATED ALWAYS AS (a + 1) STORED NOT NULL".to_owned()),
            1 if self.major >= 18 => columns.push("v int GENERATED ALWAYS AS (b + 1) VIRTUAL".to_owned()),
            _ => {}
        }
        let unlogged = if self.below(12) == 0 { "UNLOGGED " } else { "" };
        let mut statements = vec![format!("CREATE {unlogged}TABLE {name} ({})", columns.join(", "))];
        if self.below(3) > 0 {
            statements.push(format!("INSERT INTO {name} (a, b, c) VALUES (1, 1, 1), (2, 1, NULL)"));
        }
        statements.extend(self.identity(name));
        statements
    }

    fn partitioned(&mut self, name: &str, tables: &mut Vec<String>) -> Vec<String> {
        let mut statements = vec![format!(
            "CREATE TABLE {name} ({}, {}, c int) PARTITION BY LIST ({})",
            self.column("a"),
            self.column("b"),
            self.pick(&["a", "b", "(a % 2)"])
        )];
        statements.extend(self.identity(name));
        let [first, middle, last, other] = ["1", "2", "21", "3"].map(|part| format!("{name}_{part}"));
        let by = self.pick(&["a", "b"]);
        statements.push(format!("CREATE TABLE {first} PARTITION OF {name} FOR VALUES IN (1)"));
        statements
            .push(format!("CREATE TABLE {middle} PARTITION OF {name} FOR VALUES IN (2) PARTITION BY LIST ({by})"));
        statements.push(format!("CREATE TABLE {last} PARTITION OF {middle} DEFAULT"));
        // Its columns have other numbers.
        statements.push(format!("CREATE TABLE {other} (c int, x int, b int NOT NULL, a int NOT NULL)"));
        statements.push(format!("ALTER TABLE {other} DROP COLUMN x"));
        statements.push(format!("ALTER TABLE {name} ATTACH PARTITION {other} FOR VALUES IN (3)"));
        for table in [first, middle, last, other] {
            statements.extend(self.identity(&table));
            tables.push(table);
        }
        statements
    }

    fn column(&mut self, name: &str) -> String {
        format!("{name} int{}", self.pick(&["", " NOT NULL"]))
    }

    /// Keys, and which of them is the identity.
    fn identity(&mut self, name: &str) -> Vec<String> {
        let key =
            ["PRIMARY KEY (a)", "PRIMARY KEY (a, b)", "PRIMARY KEY (a) DEFERRABLE", "PRIMARY KEY (g)", "UNIQUE (b)"];
        let index = format!("i{}", self.below(1_000_000));
        let columns = self.pick(&["a", "b, a", "b", "a, g", "a) WHERE (b > 0", "(a + b)", "a) INCLUDE (b"]);
        let mut statements = Vec::new();
        if self.below(2) == 0 {
            statements.push(format!("ALTER TABLE {name} ADD {}", self.pick(&key)));
        }
        if self.below(3) == 0 {
            statements.push(format!("CREATE UNIQUE INDEX {index} ON {name} ({columns})"));
        }
        let identity = match self.below(8) {
            0 => "FULL".to_owned(),
            1 => "NOTHING".to_owned(),
            2 | 3 => format!("USING INDEX {index}"),
            _ => "DEFAULT".to_owned(),
        };
        statements.push(format!("ALTER TABLE {name} REPLICA IDENTITY {identity}"));
        if self.below(10) == 0 {
            let schema = name.split('.').next().unwrap_or_default();
            statements.push(format!("DROP INDEX {schema}.{index}"));
        }
        statements
    }

    /// Each table is added by itself: most of what is made up is no sense for one or another.
    fn publication(&mut self, number: u32, tables: &[String]) -> Vec<String> {
        let since_15 = self.major >= 15;
        let operations =
            ["insert, update, delete, truncate", "insert, update, delete", "insert, update", "delete", "insert"];
        let mut options = format!("publish = '{}'", self.pick(&operations));
        if self.below(2) == 0 {
            options.push_str(", publish_via_partition_root");
        }
        if self.major >= 18 && self.below(3) == 0 {
            options.push_str(", publish_generated_columns = stored");
        }
        let all = if self.below(8) == 0 { "FOR ALL TABLES " } else { "" };
        let mut statements = vec![format!("CREATE PUBLICATION p{number} {all}WITH ({options})")];
        for table in tables.iter().filter(|_| all.is_empty()) {
            if self.below(3) == 0 {
                let lists = ["", "", " (a)", " (a, b)", " (b, c)", " (g, a)", " (a, b, c)"];
                let list = if since_15 { self.pick(&lists) } else { "" };
                let filters = ["", "", "(a > 0)", "(b > a)", "(c IS NULL)", "(b = 1 AND a = 1)", "(v > 0)", "(g > 0)"];
                let filter = if since_15 { self.pick(&filters) } else { "" };
                let filter = if filter.is_empty() { String::new() } else { format!(" WHERE {filter}") };
                statements.push(format!("ALTER PUBLICATION p{number} ADD TABLE {table}{list}{filter}"));
            }
        }
        if self.below(5) == 0 {
            statements.push(format!("ALTER PUBLICATION p{number} ADD TABLES IN SCHEMA s"));
        }
        statements
    }

    fn pick<'a, T: AsRef<str>>(&mut self, of: &'a [T]) -> &'a str {
        let which = self.below(of.len() as u64);
        of[usize::try_from(which).expect("it is small")].as_ref()
    }

    /// A number from 0 on (`splitmix64`).
    fn below(&mut self, most: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % most
    }
}
