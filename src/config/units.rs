//! Durations and sizes, as flags and the file spell them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A text that is no duration or size, with what is expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No duration.
    #[error("{0}; expected a duration like 5s or 500ms")]
    Duration(String),
    /// No size.
    #[error("expected a size like 16MB, in B, kB, MB, GB or TB of 1024 each")]
    Size,
}

/// Parses a duration above zero: `500ms`, `5s`, `1min 30s`, `2h`.
///
/// # Errors
/// A text that is none, or zero.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err(UnitError::Duration("must be more than 0s".into())),
        Err(error) => Err(UnitError::Duration(error.to_string())),
    }
}

/// A number of bytes, spelled as in PostgreSQL's settings: units of 1024, and the usual `KiB`, `MiB`… as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Size, UnitError> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let shift = match unit.trim_start() {
            "B" => 0,
            "kB" | "KB" | "KiB" => 10,
            "MB" | "MiB" => 20,
            "GB" | "GiB" => 30,
            "TB" | "TiB" => 40,
            _ => return Err(UnitError::Size),
        };
        let number: u64 = number.parse().map_err(|_| UnitError::Size)?;
        number.checked_mul(1 << shift).map(Size).ok_or(UnitError::Size)
    }
}

/// In the largest unit that divides it.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "kB", "MB", "GB", "TB"];
        let (mut number, mut unit) = (self.0, 0);
        while number != 0 && number.is_multiple_of(1024) && unit + 1 < units.len() {
            number /= 1024;
            unit += 1;
        }
        write!(f, "{number}{}", units.get(unit).unwrap_or(&"B"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_units_of_1024() {
        for (text, bytes) in [("1B", 1), ("16MB", 16 << 20), ("2 GB", 2 << 30), ("3KiB", 3072), ("0B", 0)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "16", "MB", "-1MB", "1.5GB", "16mb", "99999999999TB", "1 0MB"] {
            assert_eq!(text.parse::<Size>(), Err(UnitError::Size), "{text}");
        }
        assert_eq!([Size(0), Size(1536), Size(16 << 20)].map(|size| size.to_string()), ["0B", "1536B", "16MB"]);
    }

    #[test]
    fn durations_are_above_zero() {
        assert_eq!(duration("1min 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "5", "0s", "-1s", "five"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
