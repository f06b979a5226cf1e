//! Signals, and programs that run to their end.
//!
//! Signals go through the shell's own `kill`: the system call needs unsafe code or another dependency, and `/bin/kill`
//! is missing from small images.

use std::process::{Command, Output, Stdio};

use super::Error;

/// What [`signal`] can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
    /// SIGHUP.
    HangUp,
    /// SIGINT.
    Interrupt,
    /// SIGQUIT.
    Quit,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
            Signal::HangUp => "HUP",
            Signal::Interrupt => "INT",
            Signal::Quit => "QUIT",
            Signal::Terminate => "TERM",
            Signal::Kill => "KILL",
        }
    }
}

/// Sends a signal to the process `pid`, or to a whole process group by its negative id. Returns whether it was sent,
/// which it is not when there is no such process.
pub fn signal(pid: i32, signal: Signal) -> bool {
    let mut kill = Command::new("sh");
    kill.args(["-c", r#"kill -s "$1" -- "$2""#, "sh", signal.name(), &pid.to_string()]);
    kill.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    kill.status().is_ok_and(|status| status.success())
}

/// Runs `command` to its end and returns what it wrote, or an error with the end of that.
pub(super) fn run(command: &mut Command) -> Result<Output, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(source) => return Err(Error::Run { program, source }),
    };
    if output.status.success() {
        return Ok(output);
    }
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(Error::Failed { program, output: last_lines(&String::from_utf8_lossy(text), 30) })
}

/// The last `count` lines of `text`.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_reaches_a_process_and_says_when_there_is_none() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(signal(pid, Signal::Kill));
        assert!(!child.wait().unwrap().success());
        assert!(!signal(pid, Signal::Kill));
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let error = run(Command::new("sh").args(["-c", "echo well >&2; echo no >&2; exit 1"])).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: well\nno");
    }
}
