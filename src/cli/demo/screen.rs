//! What is shown: one line that is written over again where there is a terminal, else a line a second, and lines that
//! stay.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

pub(super) struct Screen {
    terminal: bool,
    /// The phase that was shown last, and when.
    printed: Option<(String, Instant)>,
}

impl Screen {
    pub(super) fn new() -> Screen {
        Screen { terminal: io::stdout().is_terminal(), printed: None }
    }

    /// The state of things: on a terminal in place, else once a second and whenever a phase begins.
    pub(super) fn line(&mut self, phase: &str, line: &str) -> io::Result<()> {
        let is_new =
            self.printed.as_ref().is_none_or(|(shown, at)| shown != phase || at.elapsed() >= Duration::from_secs(1));
        if self.terminal {
            let mut output = io::stdout();
            write!(output, "\r\x1b[2K{line}")?;
            output.flush()?;
        } else if is_new {
            say(line)?;
        }
        if is_new {
            self.printed = Some((phase.to_owned(), Instant::now()));
        }
        Ok(())
    }

    /// A line that stays: what happens.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        self.stay(&format!("-- {text}"))
    }

    /// A line that stays.
    pub(super) fn stay(&mut self, text: &str) -> io::Result<()> {
        let below = if self.printed.take().is_some() && self.terminal { "\n" } else { "" };
        say(&format!("{below}{text}"))
    }
}

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more.
pub(super) fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
