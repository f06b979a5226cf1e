//! How fast a consumer comes on, and when it will have caught up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::report::Rates;
use crate::lsn::Lsn;

/// Speeds are of the last half minute, and not known before two seconds of it.
const WINDOW: Duration = Duration::from_secs(30);
const LEAST: Duration = Duration::from_secs(2);

/// Between two marks.
const EVERY: Duration = Duration::from_secs(1);

/// How far everything had come at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bytes of published change committed, and acknowledged.
    pub(super) added_bytes: u64,
    pub(super) acked_bytes: u64,
    /// The source's flush position, the server's position in decoding, and the consumer's acknowledgement.
    pub(super) flushed: Lsn,
    pub(super) decoded: Lsn,
    pub(super) acked: Lsn,
}

/// Marks of the last half minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    marks: VecDeque<(Instant, Mark)>,
}

/// What is left of a way, and how fast it gets less.
struct Way {
    left: u64,
    /// A second; not above 0 where it does not get less.
    closing: f64,
}

impl Pace {
    pub(super) fn note(&mut self, mark: Mark, now: Instant) {
        if self.marks.back().is_some_and(|(last, _)| now.saturating_duration_since(*last) < EVERY) {
            return;
        }
        while self.marks.pop_front_if(|(at, _)| now.saturating_duration_since(*at) > WINDOW).is_some() {}
        self.marks.push_back((now, mark));
    }

    pub(super) fn rates(&self) -> Rates {
        let Some((first, last, seconds)) = self.ends() else { return Rates::default() };
        let rate = |from: u64, to: u64| Some(to.saturating_sub(from) as f64 / seconds);
        Rates {
            in_bytes_per_second: rate(first.added_bytes, last.added_bytes),
            acked_bytes_per_second: rate(first.acked_bytes, last.acked_bytes),
        }
    }

    /// Seconds until `pending_bytes` of published change are acknowledged; `None` where they do not get less.
    pub(super) fn until_acked(&self, pending_bytes: u64) -> Option<f64> {
        let rates = self.rates();
        let closing = rates.acked_bytes_per_second? - rates.in_bytes_per_second?;
        Way { left: pending_bytes, closing }.seconds()
    }

    /// Seconds until the server has decoded what it has flushed.
    pub(super) fn until_decoded(&self) -> Option<f64> {
        self.until_at_flushed(|mark| mark.decoded)
    }

    /// Seconds until the consumer has acknowledged what the server has flushed.
    pub(super) fn until_at_end(&self) -> Option<f64> {
        self.until_at_flushed(|mark| mark.acked)
    }

    fn until_at_flushed(&self, position: impl Fn(&Mark) -> Lsn) -> Option<f64> {
        let (first, last, seconds) = self.ends()?;
        let left = |mark: &Mark| Some(mark.flushed.valid()?.bytes_since(position(mark).valid()?));
        let (before, now) = (left(first)?, left(last)?);
        Way { left: now, closing: (before as f64 - now as f64) / seconds }.seconds()
    }

    fn ends(&self) -> Option<(&Mark, &Mark, f64)> {
        let ((from, first), (to, last)) = (self.marks.front()?, self.marks.back()?);
        let time = to.saturating_duration_since(*from);
        (time >= LEAST).then_some((first, last, time.as_secs_f64()))
    }
}

impl Way {
    fn seconds(&self) -> Option<f64> {
        match self.left {
            0 => Some(0.0),
            left => (self.closing > 0.0).then(|| left as f64 / self.closing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(of: impl Fn(u64) -> Mark) -> Pace {
        let (mut pace, start) = (Pace::default(), Instant::now());
        for second in 0..100 {
            pace.note(of(second), start + Duration::from_secs(second));
        }
        pace
    }

    #[test]
    fn speeds_are_of_the_last_half_minute() {
        let pace = marks(|second| Mark {
            added_bytes: 1000 * second.min(70) + 100 * second.saturating_sub(70),
            acked_bytes: 300 * second,
            ..Mark::default()
        });
        let rates = pace.rates();
        assert!(rates.in_bytes_per_second < Some(150.0), "{rates:?}");
        assert_eq!(rates.acked_bytes_per_second, Some(300.0));
        assert_eq!(marks(|_| Mark::default()).until_acked(0), Some(0.0));
    }

    #[test]
    fn there_is_no_end_to_what_does_not_get_less() {
        let falling_behind =
            marks(|second| Mark { added_bytes: 500 * second, acked_bytes: 400 * second, ..Mark::default() });
        assert_eq!(falling_behind.until_acked(1000), None);
        let catching_up =
            marks(|second| Mark { added_bytes: 400 * second, acked_bytes: 500 * second, ..Mark::default() });
        assert_eq!(catching_up.until_acked(1000), Some(10.0));
    }

    #[test]
    fn positions_close_up_to_what_is_flushed() {
        let pace = marks(|second| Mark {
            flushed: Lsn(100_000 + second),
            decoded: Lsn(1 + 101 * second),
            acked: Lsn(1),
            ..Mark::default()
        });
        assert_eq!(pace.until_decoded(), Some((99_999.0 - 99.0 * 100.0) / 100.0));
        assert_eq!(pace.until_at_end(), None);
        assert_eq!(Pace::default().until_decoded(), None);
    }
}
