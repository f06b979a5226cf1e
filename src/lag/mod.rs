//! How far behind each consumer of a source is: pure models, without sockets, clocks or tasks.
//!
//! The proxy's tap feeds every message of a replication stream into the [`Consumer`] that its slot names,
//! and the source's poller feeds what its own SQL session sees into [`SourceLag`]. Both pass in "now". What
//! comes out is a [`ConsumerReport`], which HTTP and metrics render. A figure that is not known is `None`
//! there and never 0.

mod clock;
mod consumer;
mod estimate;
mod events;
mod latency;
mod life;
mod pace;
mod poll;
mod reading;
mod report;
mod source;
#[cfg(test)]
mod tests;
mod timeline;
mod transactions;

use std::iter::Sum;
use std::ops::{AddAssign, SubAssign};

pub use clock::{ServerClock, WalClock};
pub use consumer::{Consumer, Followed};
pub use events::{Aspect, Event};
pub use latency::AckLatency;
pub use life::{Renewed, SlotLife};
pub use poll::{History, Reader, SlotRow, SourcePoll};
pub use reading::Untapped;
pub use report::{ConsumerReport, Lag, LagReport, Observe, Positions, Rates};
pub use report::{SlotKind, SlotReport, SlotsReport, Stage, State, TableReport};
pub use source::{Attachment, SourceLag};
pub use timeline::{Figures, Pending, TablePending, Timeline};
pub use transactions::{PublishedCommit, Transactions};

/// Rows and bytes of published change: Insert, Update and Delete messages, and their length from the tag
/// byte to their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Messages.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl AddAssign for Volume {
    fn add_assign(&mut self, other: Volume) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

impl SubAssign for Volume {
    fn sub_assign(&mut self, other: Volume) {
        self.rows -= other.rows;
        self.bytes -= other.bytes;
    }
}

impl Sum for Volume {
    fn sum<I: Iterator<Item = Volume>>(volumes: I) -> Volume {
        volumes.fold(Volume::default(), |mut sum, volume| {
            sum += volume;
            sum
        })
    }
}
