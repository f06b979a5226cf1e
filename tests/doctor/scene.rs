//! The command, and what it tells.

use std::collections::BTreeSet;

use serde_json::Value;
use walgate::scratch::Server;

use crate::support::command::{Outcome, outcome, walgate};
use crate::support::eventually;

/// Runs `walgate doctor` in an environment that holds nothing.
#[track_caller]
pub(crate) fn doctor(arguments: &[&str]) -> Outcome {
    outcome(walgate(&["doctor"]).args(arguments))
}

/// The bundle, and its text. The status agrees with it.
#[track_caller]
pub(crate) fn bundle(dsn: &str, arguments: &[&str]) -> (Value, String) {
    let told = doctor(&[&[dsn, "--bundle", "-"], arguments].concat());
    let bundle = told.json();
    assert_eq!(told.status, Some(if bundle["healthy"] == true { 0 } else { 1 }), "{told:?}");
    (bundle, told.output)
}

/// The problems.
#[track_caller]
pub(crate) fn problems(dsn: &str, arguments: &[&str]) -> Vec<Value> {
    bundle(dsn, arguments).0["problems"].as_array().cloned().expect("there is a list")
}

/// The rules of problems, each with its subject.
pub(crate) fn rules(problems: &[Value]) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    problems.iter().map(|problem| (text(&problem["rule"]), text(&problem["subject"]))).collect()
}

/// Waits for a problem.
#[track_caller]
pub(crate) fn until_found(dsn: &str, rule: &str) -> Value {
    eventually(rule, || {
        let problems = problems(dsn, &[]);
        problems.iter().find(|problem| problem["rule"] == rule).cloned().ok_or_else(|| rules(&problems))
    })
}

/// Waits until a problem is no more.
#[track_caller]
pub(crate) fn until_gone(dsn: &str, rule: &str) {
    eventually(&format!("no {rule}"), || {
        let problems = problems(dsn, &[]);
        let left: Vec<&Value> = problems.iter().filter(|problem| problem["rule"] == rule).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// The statement in the mend of a problem that begins so, whether it is to be run as it is or to be chosen.
#[track_caller]
pub(crate) fn statement(problem: &Value, beginning: &str) -> String {
    let lines = problem["mend"].as_array().expect("there is a list").iter().filter_map(Value::as_str);
    let mut statements = lines.map(|line| line.strip_prefix("-- ").unwrap_or(line));
    let statement = statements.find(|line| line.starts_with(beginning)).and_then(|line| line.split(";  --").next());
    statement.unwrap_or_else(|| panic!("no {beginning} in {problem}")).to_owned()
}

/// A connection string for a role, which comes last and so counts.
pub(crate) fn dsn(server: &Server, role: &str) -> String {
    server.dsn("postgres").replace("user=postgres", &format!("user={role}"))
}
