//! Durations and sizes, as flags and the file spell them, and as people read them.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// Bytes as `pg_size_pretty` prints them: whole numbers, rounded half up, of the unit that leaves at most 10240.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut halves = u128::from(bytes) * 2;
    let mut units = UNITS.into_iter().peekable();
    while let Some(unit) = units.next() {
        let rounded = halves.div_ceil(2);
        if rounded < 10 * 1024 || units.peek().is_none() {
            return format!("{rounded} {unit}");
        }
        halves /= 1024;
    }
    unreachable!("the last unit takes any number")
}

/// Seconds with two or three digits. Nothing but 0 prints as 0.
pub fn age(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".into(),
        ..0.001 => "<1 ms".into(),
        ..0.0995 => format!("{:.0} ms", seconds * 1e3),
        ..9.95 if seconds.fract() != 0.0 => format!("{seconds:.1} s"),
        ..119.5 => format!("{seconds:.0} s"),
        ..7_170.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.1} d", seconds / 86_400.0),
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

    #[test]
    fn sizes_are_as_pg_size_pretty_prints_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (41_000, "40 kB"),
            (16 << 20, "16 MB"),
            (10_239 << 10, "10239 kB"),
            (1_500_000_000, "1431 MB"),
            (u64::MAX, "16384 PB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn nothing_but_zero_prints_as_zero() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (0.000_01, "<1 ms"),
            (0.012, "12 ms"),
            (0.0996, "0.1 s"),
            (1.23, "1.2 s"),
            (9.96, "10 s"),
            (90.0, "90 s"),
            (180.0, "3 min"),
            (7_200.0, "2.0 h"),
            (259_200.0, "3.0 d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }
}
