//! Logs: one line an event on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Sends events to standard error, filtered by `WALGATE_LOG` (the syntax of `RUST_LOG`; without it by `level`).
///
/// # Errors
/// If the variable does not parse.
pub fn init(level: &str) -> Result<(), ParseError> {
    let filter = match std::env::var("WALGATE_LOG") {
        Ok(filter) => EnvFilter::try_new(filter)?,
        Err(_) => EnvFilter::new(level),
    };
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    Ok(())
}
