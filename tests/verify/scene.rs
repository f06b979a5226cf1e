//! Two servers, and the commands that compare them.

use serde_json::Value;
use walgate::scratch::Server;

use crate::support::command::{Outcome, outcome, walgate};
use crate::support::{Sql, postgres};

/// Source and target, with a session on each.
pub(crate) struct Pair {
    pub(crate) source: Server,
    pub(crate) target: Server,
    pub(crate) from: Sql,
    pub(crate) to: Sql,
}

impl Pair {
    /// Servers of these major versions.
    #[track_caller]
    pub(crate) fn start(source: u32, target: u32) -> Pair {
        Pair::with(source, &[], target, &[])
    }

    /// The same with settings.
    #[track_caller]
    pub(crate) fn with(source: u32, of_source: &[(&str, &str)], target: u32, of_target: &[(&str, &str)]) -> Pair {
        let start = |major, settings: &[(&str, &str)]| {
            let builder = settings.iter().fold(postgres(major), |builder, (name, value)| builder.setting(name, value));
            builder.start().expect("the server starts")
        };
        Pair::of(start(source, of_source), start(target, of_target), "postgres")
    }

    /// A database of this name on each.
    #[track_caller]
    pub(crate) fn of(source: Server, target: Server, database: &str) -> Pair {
        let (from, to) = (Sql::connect(&source.dsn(database)), Sql::connect(&target.dsn(database)));
        Pair { source, target, from, to }
    }

    /// Runs statements on both sides.
    #[track_caller]
    pub(crate) fn both(&self, sql: &str) {
        self.from.run(sql);
        self.to.run(sql);
    }

    /// Compares the databases. What differs is not looked at again, unless the arguments say so.
    #[track_caller]
    pub(crate) fn verify(&self, arguments: &[&str]) -> Outcome {
        let (source, target) = (self.source.dsn("postgres"), self.target.dsn("postgres"));
        let ends = ["verify", "--source", &source, "--target", &target, "--format", "json"];
        let settle: &[&str] = if arguments.contains(&"--settle") { &[] } else { &["--settle", "0s"] };
        gate(&[&ends, settle, arguments].concat())
    }

    /// Compares the sequences.
    #[track_caller]
    pub(crate) fn sequences(&self, arguments: &[&str]) -> Outcome {
        let (source, target) = (self.source.dsn("postgres"), self.target.dsn("postgres"));
        gate(&[&["sequences", "--source", &source, "--target", &target], arguments].concat())
    }
}

impl Outcome {
    /// What it says of a table.
    #[track_caller]
    pub(crate) fn table(&self, name: &str) -> Value {
        let report = self.json();
        let tables = report["tables"].as_array().unwrap_or_else(|| panic!("{self:?}"));
        let found = tables.iter().find(|table| table["table"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {self:?}")).clone()
    }

    /// The rows of a table that differ, as `missing id=1`.
    #[track_caller]
    pub(crate) fn keys(&self, name: &str) -> Vec<String> {
        let table = self.table(name);
        let keys = table["rows"]["keys"].as_array().unwrap_or_else(|| panic!("no keys in {table}"));
        let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
        let part = |(column, value): (&String, &Value)| format!("{column}={}", text(value));
        let shown = keys.iter().map(|key| {
            let parts = key["key"].as_object().expect("a key has columns").iter().map(part);
            format!("{} {}", text(&key["kind"]), parts.collect::<Vec<_>>().join(","))
        });
        shown.collect()
    }
}

/// `walgate gate` in an environment that holds nothing.
#[track_caller]
pub(crate) fn gate(arguments: &[&str]) -> Outcome {
    outcome(walgate(&["gate"]).args(arguments))
}
