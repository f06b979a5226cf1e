//! What a keeper answers, and what it tells of.

use crate::gate::{Fence, Phase, Receipt, Refusal, Status, Verdict};
use crate::lag::ConsumerReport;
use crate::lsn::Lsn;
use crate::source::ConnectError;
use crate::time::PgTimestamp;

/// A verdict with what it rests on.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// How far behind the consumers are.
    pub consumers: Vec<ConsumerReport>,
    /// When the oldest was seen of what it rests on, by this machine's clock.
    pub observed_at: PgTimestamp,
    /// What proves a pass to others.
    pub receipt: Option<Receipt>,
}

/// Why there is no fence.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// One stands already.
    #[error("a fence stands already, at {}; lift it first", .0.target_lsn)]
    Standing(Box<Fence>),
    /// It would prove nothing.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The server cannot be asked.
    #[error("{name} cannot be asked: {error}")]
    Unreachable {
        /// Which.
        name: String,
        /// Why.
        error: ConnectError,
    },
    /// It is not the server that is watched.
    #[error("{0}")]
    Elsewhere(String),
    /// There is nobody to take it on.
    #[error("no way back is configured: name the slots on the target that lead back ([gate.reverse])")]
    NoWayBack,
}

/// Something that happens to a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateEvent {
    /// A fence was set.
    Fenced(Phase, Lsn),
    /// It was lifted.
    Released(Phase, Lsn),
    /// A phase is in another state than when it was last asked about.
    Verdict {
        /// Which.
        phase: Phase,
        /// In which state it was; `None` before it was ever asked about.
        from: Option<Status>,
        /// In which it is.
        to: Status,
        /// Why.
        reason: String,
    },
}
