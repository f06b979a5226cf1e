//! Positions of callers' own: since when each is asked about.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Way;
use crate::lsn::Lsn;
use crate::source::lock;

/// How long one is remembered that nobody asks about any more.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The positions that callers ask about.
#[derive(Default)]
pub(super) struct Positions(Mutex<HashMap<(Way, Lsn), Known>>);

struct Known {
    since: Instant,
    last: Instant,
}

impl Positions {
    /// Since when this one is asked about, which is now where it is new. The caller had taken it by then, so that what was seen
    /// later counts, whoever asks again.
    pub(super) fn since(&self, way: Way, position: Lsn, now: Instant) -> Instant {
        let mut positions = lock(&self.0);
        positions.retain(|_, known| now.saturating_duration_since(known.last) < REMEMBERED);
        let known = positions.entry((way, position)).or_insert(Known { since: now, last: now });
        known.last = now;
        known.since
    }

    /// Since when the newest of them is asked about.
    pub(super) fn newest(&self) -> Option<Instant> {
        lock(&self.0).values().map(|known| known.since).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_keeps_the_moment_of_its_first_question_while_somebody_asks() {
        let (positions, begun) = (Positions::default(), Instant::now());
        let since = |lsn, second| {
            positions.since(Way::Forward, Lsn(lsn), begun + Duration::from_secs(second)).duration_since(begun).as_secs()
        };
        assert_eq!([since(1, 0), since(1, 9), since(2, 10), since(1, 18)], [0, 0, 10, 0]);
        assert_eq!(positions.newest(), Some(begun + Duration::from_secs(10)));
        assert_eq!([since(1, 28), since(2, 29)], [28, 29], "both were forgotten meanwhile");
    }
}
