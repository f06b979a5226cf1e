//! Positions of callers' own: since when each is asked about.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Way;
use crate::lsn::Lsn;
use crate::source::lock;

/// How long one is remembered that nobody asks about any more, and how many are.
const REMEMBERED: Duration = Duration::from_secs(300);
const MOST: usize = 256;

/// The positions that callers ask about.
#[derive(Default)]
pub(super) struct Positions(Mutex<HashMap<(Way, Lsn), Known>>);

struct Known {
    since: Instant,
    last: Instant,
}

impl Positions {
    /// Since when this one is asked about, which is now where it is new. It had been taken by then, so that what was seen of
    /// catalogs and slots later counts, whoever asks again; who writes is another thing from question to question.
    pub(super) fn since(&self, way: Way, position: Lsn, now: Instant) -> Instant {
        let mut positions = lock(&self.0);
        positions.retain(|_, known| now.saturating_duration_since(known.last) < REMEMBERED);
        if positions.len() >= MOST && !positions.contains_key(&(way, position)) {
            let oldest = positions.iter().min_by_key(|(_, known)| known.last).map(|(position, _)| *position);
            oldest.map(|oldest| positions.remove(&oldest));
        }
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
        assert_eq!([since(1, 0), since(1, 299), since(2, 300), since(1, 598)], [0, 0, 300, 0]);
        assert_eq!(positions.newest(), Some(begun + Duration::from_secs(300)));
        assert_eq!([since(1, 898), since(2, 899)], [898, 899], "both were forgotten meanwhile");
        for lsn in 0..MOST as u64 {
            since(1000 + lsn, 900);
        }
        assert_eq!(lock(&positions.0).len(), MOST, "of too many the oldest are forgotten");
    }
}
