//! The guard: a consumer that begins while a table would break it is warned of, or refused.

use std::str::FromStr;

/// What is done with a consumer that begins while a table would break it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    Off,
    /// It is logged.
    #[default]
    Warn,
    /// The consumer is refused, with the SQL that mends the table.
    Block,
}

impl Guard {
    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Guard::Off => "off",
            Guard::Warn => "warn",
            Guard::Block => "block",
        }
    }
}

impl FromStr for Guard {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Guard, Self::Err> {
        let known = [Guard::Off, Guard::Warn, Guard::Block];
        known.into_iter().find(|guard| guard.as_str() == text).ok_or("expected off, warn or block")
    }
}
