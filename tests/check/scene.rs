//! The command, and what it said.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::tool;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Runs `walgate check` in an environment that holds nothing.
pub(crate) fn check(arguments: &[&str]) -> Outcome {
    answered(arguments, "")
}

/// The same, with this to read from standard input.
pub(crate) fn answered(arguments: &[&str], input: &str) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
    command.arg("check").args(arguments).env_clear();
    outcome(command, input)
}

/// Runs a script by psql, to its end or its first error.
#[track_caller]
pub(crate) fn psql(dsn: &str, script: &str) {
    let mut command = Command::new(tool("psql"));
    command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", dsn]).env("PGCLIENTENCODING", "UTF8");
    let ran = outcome(command, script);
    assert_eq!(ran.status, Some(0), "{}\n--- of the script\n{script}", ran.errors);
}

/// The findings about a database.
#[track_caller]
pub(crate) fn findings(dsn: &str, arguments: &[&str]) -> Vec<Value> {
    let told = check(&[&[dsn, "--format", "json"][..], arguments].concat());
    let body: Value = serde_json::from_str(&told.output).unwrap_or_else(|error| panic!("{error}: {told:?}"));
    body["findings"].as_array().unwrap_or_else(|| panic!("{told:?}")).clone()
}

/// The table of a finding.
pub(crate) fn table(finding: &Value) -> String {
    finding["table"].as_str().unwrap_or_default().to_owned()
}

fn outcome(mut command: Command, input: &str) -> Outcome {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // It may end without having read all.
    let _ = child.stdin.take().expect("it has one").write_all(input.as_bytes());
    let ended = child.wait_with_output().expect("it ends");
    Outcome {
        status: ended.status.code(),
        output: String::from_utf8(ended.stdout).expect("it prints UTF-8"),
        errors: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}
