//! Where the changes of a consumer are seen, and why they are not.

use std::time::Instant;

use super::transactions::Transactions;

/// Why a stream cannot be followed. The bytes go on all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Untapped {
    /// A physical stream: there is nothing to decode.
    Physical,
    /// An output plugin other than pgoutput.
    Plugin,
    /// Consumers are to be observed by their positions only.
    Unwanted,
    /// The server has turned out to be of another history since it began.
    History,
    /// The command that started the stream was too long or not understood.
    Command,
    /// Message borders were lost.
    Frame,
    /// A message that is malformed or not known.
    Message,
}

impl Untapped {
    /// The reason as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Untapped::Physical => "physical",
            Untapped::Plugin => "plugin",
            Untapped::Unwanted => "unwanted",
            Untapped::History => "history",
            Untapped::Command => "command",
            Untapped::Frame => "frame",
            Untapped::Message => "message",
        }
    }
}

/// Where its changes are seen.
#[derive(Debug)]
pub(super) enum Reading {
    /// Nowhere: nobody streams through the proxy, and there is no copy.
    Nowhere,
    /// On its own stream, by the number of the attachment.
    Stream(u64, Box<Transactions>),
    /// On a stream of a copy of its slot.
    Copy(u64, Copied, Box<Transactions>),
    /// On its own stream, which cannot be followed.
    Untapped(u64, Untapped),
}

/// What there is to know of a copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    /// When it was made: an acknowledgement seen earlier may be of commits that the copy does not hold.
    pub(super) at: Instant,
    /// The consumer's publications are not known, and the copy is of all there are.
    pub(super) assumed: bool,
}
