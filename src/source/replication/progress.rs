//! When the server is to hear how far a reader of a stream is.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::time::PgTimestamp;
use crate::wire::copy_both::StatusUpdate;

/// Ticks without progress after which the server hears of the reader all the same.
const IDLE_TICKS: u32 = 10;

/// How far a reader has told the server that it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    reported: Lsn,
    idle_ticks: u32,
}

impl Progress {
    /// How often to ask whether a report is due.
    pub const INTERVAL: Duration = Duration::from_secs(1);

    /// Whether a report is due at this tick: if the reader is any further, and else at every tenth.
    pub fn is_due(&mut self, position: Lsn) -> bool {
        self.idle_ticks += 1;
        position > self.reported || self.idle_ticks >= IDLE_TICKS
    }

    /// The report that everything up to here is done.
    pub fn report(&mut self, position: Lsn) -> StatusUpdate {
        *self = Progress { reported: position, idle_ticks: 0 };
        StatusUpdate::all(position, PgTimestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_due_with_progress_and_at_every_tenth_tick_without() {
        let mut progress = Progress::default();
        assert!(progress.is_due(Lsn(5)));
        assert_eq!(progress.report(Lsn(5)).flush, Lsn(5));
        let due: Vec<bool> = (0..10).map(|_| progress.is_due(Lsn(5))).collect();
        assert_eq!(due, [[false; 9].as_slice(), &[true]].concat());
        progress.report(Lsn(5));
        assert!(!progress.is_due(Lsn(5)) && progress.is_due(Lsn(6)));
    }
}
