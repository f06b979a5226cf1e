//! walgate's commands as somebody runs them: to their end, with what they print.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Outcome {
    /// What it printed, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

/// `walgate …` in an environment that holds nothing.
pub(crate) fn walgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walgate"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Runs a command to its end; there is nothing for it to read.
#[track_caller]
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    answered(command, "")
}

/// The same, with this to read from standard input.
#[track_caller]
pub(crate) fn answered(command: &mut Command, input: &str) -> Outcome {
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
