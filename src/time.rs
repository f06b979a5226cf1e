//! Points in time as PostgreSQL counts them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

/// Microseconds since 2000-01-01 00:00:00 UTC, the clock of commit timestamps and of the replication
/// protocol (`TimestampTz` in PostgreSQL's `datatype/timestamp.h`). Negative before that day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTimestamp(pub i64);

/// Seconds from 1970-01-01 to 2000-01-01.
const EPOCH_UNIX_SECONDS: i64 = 946_684_800;

impl PgTimestamp {
    /// This machine's clock.
    pub fn now() -> PgTimestamp {
        let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX);
        PgTimestamp(now.as_microsecond() - EPOCH_UNIX_SECONDS * 1_000_000)
    }

    /// Time from `earlier` to this; zero where `earlier` is later.
    pub fn since(self, earlier: PgTimestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This time and `later` more, at most the end of time.
    pub fn plus(self, later: Duration) -> PgTimestamp {
        PgTimestamp(self.0.saturating_add(i64::try_from(later.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This time and `earlier` less, at least the beginning of time.
    pub fn minus(self, earlier: Duration) -> PgTimestamp {
        PgTimestamp(self.0.saturating_sub(i64::try_from(earlier.as_micros()).unwrap_or(i64::MAX)))
    }

    fn timestamp(self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.0.checked_add(EPOCH_UNIX_SECONDS * 1_000_000)?).ok()
    }
}

/// RFC 3339 in UTC with microseconds, `2026-11-21T03:25:17.123456Z`; beyond year 9999 `infinity` or
/// `-infinity`, as PostgreSQL prints the ends of its range.
impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.timestamp() {
            Some(time) => write!(f, "{time:.6}"),
            None if self.0 < 0 => f.write_str("-infinity"),
            None => f.write_str("infinity"),
        }
    }
}

/// A time of RFC 3339, to the microsecond.
impl FromStr for PgTimestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<PgTimestamp, jiff::Error> {
        let time: Timestamp = text.parse()?;
        Ok(PgTimestamp(time.as_microsecond().saturating_sub(EPOCH_UNIX_SECONDS * 1_000_000)))
    }
}

impl<'de> Deserialize<'de> for PgTimestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PgTimestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for PgTimestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_the_year_2000() {
        assert_eq!(PgTimestamp(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!(PgTimestamp(-1).to_string(), "1999-12-31T23:59:59.999999Z");
        assert_eq!(PgTimestamp(817_615_517_123_456).to_string(), "2025-11-28T03:25:17.123456Z");
    }

    #[test]
    fn the_ends_of_the_range_print_without_overflow() {
        assert_eq!(PgTimestamp(i64::MAX).to_string(), "infinity");
        assert_eq!(PgTimestamp(i64::MIN).to_string(), "-infinity");
    }

    #[test]
    fn differences_saturate() {
        assert_eq!(PgTimestamp(5).since(PgTimestamp(9)), Duration::ZERO);
        assert_eq!(PgTimestamp(i64::MIN).since(PgTimestamp(i64::MAX)), Duration::ZERO);
        assert_eq!(PgTimestamp(9).since(PgTimestamp(5)), Duration::from_micros(4));
        assert_eq!(PgTimestamp(i64::MAX).plus(Duration::MAX), PgTimestamp(i64::MAX));
    }
}
