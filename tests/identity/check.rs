//! `walgate check`, as a user runs it.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::tool;

/// The findings about a database. Statuses other than "clean" and "findings" are failures.
#[track_caller]
pub(crate) fn findings(dsn: &str, arguments: &[&str]) -> Vec<Value> {
    let text = check(dsn, "json", arguments);
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    body["findings"].as_array().unwrap_or_else(|| panic!("no findings in {text}")).clone()
}

/// The script that mends a database.
#[track_caller]
pub(crate) fn script(dsn: &str, arguments: &[&str]) -> String {
    check(dsn, "sql", arguments)
}

/// Runs a script as a user would, to its end or its first error.
#[track_caller]
pub(crate) fn run(dsn: &str, script: &str) {
    let mut psql = Command::new(tool("psql"));
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", dsn]).env("PGCLIENTENCODING", "UTF8");
    let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql runs");
    let mut stdin = psql.stdin.take().expect("it has one");
    stdin.write_all(script.as_bytes()).expect("psql reads it");
    drop(stdin);
    let output = psql.wait_with_output().expect("psql ends");
    assert!(output.status.success(), "{}\n--- of the script\n{script}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn check(dsn: &str, format: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
    command.args(["check", dsn, "--format", format]).args(arguments);
    let Output { status, stdout, stderr } = command.output().expect("walgate runs");
    assert!(matches!(status.code(), Some(0 | 1)), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("it prints UTF-8")
}
