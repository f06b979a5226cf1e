//! `walgate check`, as a user runs it, and psql, which runs the script that it prints.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::tool;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Runs `walgate check` in an environment that holds nothing.
pub(crate) fn told(arguments: &[&str]) -> Outcome {
    answered(arguments, "")
}

/// The same, with this to read from standard input.
pub(crate) fn answered(arguments: &[&str], input: &str) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
    command.arg("check").args(arguments).env_clear();
    outcome(command, input)
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
    let ran = outcome(psql, script);
    assert_eq!(ran.status, Some(0), "{}\n--- of the script\n{script}", ran.errors);
}

#[track_caller]
fn printed(dsn: &str, format: &str, arguments: &[&str]) -> String {
    let told = told(&[&[dsn, "--format", format], arguments].concat());
    assert!(matches!(told.status, Some(0 | 1)), "{told:?}");
    told.output
}

fn outcome(mut command: Command, input: &str) -> Outcome {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    // It may end without having read all.
    let _ = child.stdin.take().expect("it has one").write_all(input.as_bytes());
    let ended = child.wait_with_output().expect("it ends");
    Outcome {
        status: ended.status.code(),
        output: String::from_utf8(ended.stdout).expect("it prints UTF-8"),
        errors: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}
