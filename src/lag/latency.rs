//! How long commits wait for their acknowledgement.

use std::time::Duration;

/// A histogram of times from sending a commit to its acknowledgement, cumulative as Prometheus has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AckLatency {
    /// Commits of each bucket of [`AckLatency::BOUNDS`], and of none.
    counts: [u64; AckLatency::BOUNDS.len() + 1],
    seconds: f64,
}

impl AckLatency {
    /// The upper bounds of the buckets, in seconds.
    pub const BOUNDS: [f64; 16] =
        [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

    /// So many commits were acknowledged after this time.
    pub(super) fn record(&mut self, latency: Duration, commits: u32) {
        let seconds = latency.as_secs_f64();
        let bucket = AckLatency::BOUNDS.iter().take_while(|bound| seconds > **bound).count();
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += u64::from(commits);
        }
        self.seconds += seconds * f64::from(commits);
    }

    /// Each bound with the commits that took no longer.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        AckLatency::BOUNDS.into_iter().zip(self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    /// All commits.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of their times.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_took_no_longer() {
        let mut latency = AckLatency::default();
        for (millis, commits) in [(0, 2), (1, 3), (2, 1), (90_000, 4)] {
            latency.record(Duration::from_millis(millis), commits);
        }
        let buckets: Vec<_> = latency.buckets().collect();
        assert_eq!(buckets[..3], [(0.0005, 2), (0.001, 5), (0.0025, 6)]);
        assert_eq!((buckets[15], latency.count()), ((60.0, 6), 10));
        assert!((latency.seconds() - 360.005).abs() < 1e-9);
    }
}
