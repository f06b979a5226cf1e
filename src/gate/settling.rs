//! Whether consumers have been within their limits without a break, for as long as a gate wants.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::lag::{ConsumerReport, Observe, State};

/// Samples that are kept: an hour of one a second.
const KEPT: usize = 3600;

/// How far behind the worst consumer was, sample by sample.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    /// Seconds and bytes of the worst; `None` where one could not be told.
    worst: Option<(f64, u64)>,
}

/// The most that a consumer can be behind, in seconds and bytes; `None` where that cannot be told.
pub(super) fn most(report: &ConsumerReport) -> Option<(f64, u64)> {
    if !matches!(report.state, State::Live | State::Bounded) {
        return None;
    }
    // Where nothing is decoded, WAL bounds what can be pending.
    let pending = report.lag.bytes_max.or((report.observe == Observe::Poll).then_some(0))?;
    Some((report.lag.seconds_max?, pending.saturating_add(report.lag.undecoded_wal_bytes?)))
}

impl Settling {
    /// Takes how far behind all consumers of the gate are now; not to be called without all of them.
    pub fn note<'a>(&mut self, reports: impl IntoIterator<Item = Option<&'a ConsumerReport>>, now: Instant) {
        let worst = reports.into_iter().try_fold((0.0_f64, 0_u64), |(seconds, bytes), report| {
            let most = most(report?)?;
            Some((seconds.max(most.0), bytes.max(most.1)))
        });
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at: now, worst });
    }

    /// For how long before `now` every sample was within these limits, with none missing for longer than `gap`.
    pub fn within(&self, seconds: f64, bytes: u64, gap: Duration, now: Instant) -> Duration {
        let mut since = now;
        for sample in self.samples.iter().rev() {
            let fits = sample.worst.is_some_and(|worst| worst.0 <= seconds && worst.1 <= bytes);
            if !fits || sample.at > since || since.duration_since(sample.at) > gap {
                break;
            }
            since = sample.at;
        }
        now.saturating_duration_since(since)
    }
}
