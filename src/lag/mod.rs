//! How far behind each consumer of a source is: pure models, without sockets, clocks or tasks.
//!
//! The proxy's tap feeds every message of a replication stream into the [`Consumer`] that its slot names,
//! and the source's poller feeds what its own SQL session sees into [`SourceLag`]. Both pass in "now". What
//! comes out is a [`ConsumerReport`], which HTTP and metrics render. A figure that is not known is `None`
//! there and never 0.

mod clock;
mod consumer;
mod report;
mod source;
mod timeline;
mod transactions;

use std::ops::{AddAssign, SubAssign};

pub use clock::{ServerClock, WalClock};
pub use consumer::{Consumer, Untapped};
pub use report::{ConsumerReport, Lag, Observe, Positions, Rates, SlotKind, SlotReport, Stage, State, TableReport};
pub use source::{Attachment, History, SlotRow, SourceLag, SourcePoll};
pub use timeline::{TablePending, Timeline};
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
