//! `walgate check`, as a user runs it, and psql, which runs the script that it prints.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::command::{self, Outcome, walgate};
use super::tool;

/// Runs `walgate check` in an environment that holds nothing.
pub(crate) fn told(arguments: &[&str]) -> Outcome {
    answered(arguments, "")
}

/// The same, with this to read from standard input.
pub(crate) fn answered(arguments: &[&str], input: &str) -> Outcome {
    command::answered(walgate(&["check"]).args(arguments), input)
}

/// The findings about a database. Statuses other than "clean" and "findings" are failures.
#[track_caller]
pub(crate) fn findings(dsn: &str, arguments: &[&str]) -> Vec<Value> {
    let text = printed(dsn, "json", arguments);
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    body["findings"].as_array().unwrap_or_else(|| panic!("no findings in {text}")).clone()
}

/// The rules that findings are of, each with its table.
pub(crate) fn rules(findings: &[Value], is_meant: impl Fn(&Value) -> bool) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meant = findings.iter().filter(|finding| is_meant(finding));
    meant.map(|finding| (text(&finding["rule"]), text(&finding["table"]))).collect()
}

/// The script that mends a database.
#[track_caller]
pub(crate) fn script(dsn: &str, arguments: &[&str]) -> String {
    printed(dsn, "sql", arguments)
}

/// Runs a script as a user would, to its end or its first error.
#[track_caller]
pub(crate) fn run(dsn: &str, script: &str) {
    let mut psql = Command::new(tool("psql"));
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", dsn]).env("PGCLIENTENCODING", "UTF8");
    let ran = command::answered(&mut psql, script);
    assert_eq!(ran.status, Some(0), "{}\n--- of the script\n{script}", ran.errors);
}

#[track_caller]
fn printed(dsn: &str, format: &str, arguments: &[&str]) -> String {
    let told = told(&[&[dsn, "--format", format], arguments].concat());
    assert!(matches!(told.status, Some(0 | 1)), "{told:?}");
    told.output
}
