//! What the commands for people share: where their answers go.

use std::io::{self, IsTerminal as _, Write as _};

/// Writes to standard output; says whether anybody reads on. Who has seen enough may leave, as head(1) does.
pub(super) fn print(text: &str) -> io::Result<bool> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output: {error}"))),
    }
}

/// Asks on standard error; says whether the answer was yes. None is a no.
pub(super) fn ask(question: &str) -> io::Result<bool> {
    let mut output = io::stderr().lock();
    write!(output, "{question} [y/N] ")?;
    output.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Colours are for a terminal that has them, unless they are not wanted (no-color.org).
pub(super) fn is_coloured() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}
