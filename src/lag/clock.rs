//! Two clocks that are the server's: its time of day, and the time at which WAL was written.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::lsn::Lsn;
use crate::time::PgTimestamp;

/// How long the fastest frame is trusted to tell the server's time.
const WINDOW: Duration = Duration::from_secs(300);

/// The server's time of day, from the send times in its own frames, so that no clock of this machine or of
/// the consumer's comes into a lag.
///
/// The newest frame is not always the best witness: what lay in socket buffers while a consumer stalled
/// comes with an old send time. So the frame that was fastest within the last two windows counts. A server
/// clock that is set back is followed after at most two windows.
#[derive(Clone, Debug, Default)]
pub struct ServerClock {
    /// Best frames of the window under way, then of the one before.
    windows: Option<(Window, Option<Window>)>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    send_time: PgTimestamp,
    received: Instant,
}

impl Window {
    fn now(&self, now: Instant) -> PgTimestamp {
        self.send_time.plus(now.saturating_duration_since(self.received))
    }
}

impl ServerClock {
    /// Takes a frame's send time.
    #[inline]
    pub fn frame(&mut self, send_time: PgTimestamp, received: Instant) {
        let frame = Window { since: received, send_time, received };
        match &mut self.windows {
            None => self.windows = Some((frame, None)),
            Some((current, previous)) => {
                if received.saturating_duration_since(current.since) > WINDOW {
                    *previous = Some(*current);
                    *current = frame;
                } else if send_time >= current.now(received) {
                    *current = Window { since: current.since, ..frame };
                }
            }
        }
    }

    /// The server's time of day; `None` before its first frame.
    pub fn now(&self, now: Instant) -> Option<PgTimestamp> {
        let (current, previous) = self.windows.as_ref()?;
        Some(previous.map_or(PgTimestamp(i64::MIN), |window| window.now(now)).max(current.now(now)))
    }
}

/// The most samples a [`WalClock`] holds.
const SAMPLES: usize = 1024;

/// When the server's WAL reached which position: samples of (flush LSN, server time), each second or so,
/// thinned as they age.
#[derive(Clone, Debug, Default)]
pub struct WalClock {
    samples: VecDeque<(Lsn, PgTimestamp)>,
}

impl WalClock {
    /// Takes a sample. One whose position or time lies before the last one's is of another history: the
    /// clock starts anew.
    pub fn sample(&mut self, flushed: Lsn, time: PgTimestamp) {
        if let Some((last, last_time)) = self.samples.back_mut() {
            if flushed < *last || time < *last_time {
                self.samples.clear();
            } else if flushed == *last {
                // Nothing was written since: the position is as young as this.
                *last_time = time;
                return;
            }
        }
        if self.samples.len() == SAMPLES {
            // Every second sample of the older half goes, so that precision fades with age.
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index > SAMPLES / 2 || index % 2 == 1
            });
        }
        self.samples.push_back((flushed, time));
    }

    /// Whether nothing was sampled since it started.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The last moment known at which WAL did not reach beyond `position`: what was written behind it was
    /// written later. `None` where the samples do not go back that far.
    pub fn last_within(&self, position: Lsn) -> Option<PgTimestamp> {
        let behind = self.samples.partition_point(|(flushed, _)| *flushed <= position);
        self.samples.get(behind.checked_sub(1)?).map(|(_, time)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> PgTimestamp {
        PgTimestamp(seconds * 1_000_000)
    }

    #[test]
    fn server_time_runs_on_between_frames_and_ignores_delayed_ones() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut clock = ServerClock::default();
        assert_eq!(clock.now(start), None);
        clock.frame(at(1000), start);
        assert_eq!(clock.now(later(5)), Some(at(1005)));
        // A stall of a minute: what was buffered comes with the send times of before.
        clock.frame(at(1006), later(60));
        assert_eq!(clock.now(later(60)), Some(at(1060)));
        // Even where the stall was longer than a window.
        clock.frame(at(1007), later(900));
        clock.frame(at(1008), later(901));
        assert_eq!(clock.now(later(901)), Some(at(1901)));
    }

    #[test]
    fn a_server_clock_set_back_is_followed() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut clock = ServerClock::default();
        for second in 0..100 {
            clock.frame(at(10_000 + second as i64), later(second));
        }
        for second in 100..800 {
            clock.frame(at(second as i64), later(second));
        }
        assert_eq!(clock.now(later(800)), Some(at(800)));
    }

    #[test]
    fn a_position_is_dated_by_the_last_sample_within_it() {
        let mut wal = WalClock::default();
        assert_eq!(wal.last_within(Lsn(5)), None);
        for (lsn, second) in [(10, 1), (20, 2), (20, 3), (20, 4), (30, 5)] {
            wal.sample(Lsn(lsn), at(second));
        }
        assert_eq!(wal.last_within(Lsn(9)), None);
        assert_eq!(wal.last_within(Lsn(10)), Some(at(1)));
        assert_eq!(wal.last_within(Lsn(29)), Some(at(4)));
        assert_eq!(wal.last_within(Lsn(30)), Some(at(5)));
        wal.sample(Lsn(3), at(6));
        assert_eq!(wal.last_within(Lsn(2)), None);
        assert_eq!(wal.last_within(Lsn(30)), Some(at(6)));
    }

    #[test]
    fn thinning_keeps_days_in_bounded_memory_and_never_flatters() {
        let mut wal = WalClock::default();
        let day = 86_400;
        for second in 0..day {
            wal.sample(Lsn(second as u64 * 100), at(second));
        }
        assert!(wal.samples.len() <= SAMPLES);
        for second in (day / 2..day).step_by(1000) {
            let dated = wal.last_within(Lsn(second as u64 * 100 + 50)).unwrap();
            assert!(dated <= at(second), "a bound on the age is never too low");
        }
        assert!(wal.last_within(Lsn((day as u64 - 300) * 100)).unwrap() == at(day - 300), "the last minutes are exact");
    }
}
