//! May we cut over now? From what was seen to a verdict, with the reason and the proof.
//!
//! Pure: evidence comes in, each piece with when it was seen and where ([`Piece`]), and a [`Verdict`] comes out. Nothing
//! here opens a connection, looks at a clock or keeps a thread; the keeper does. A check that has no fresh evidence is
//! `unknown`, and a verdict passes only if every check of its phase does: what was not seen is never claimed.

mod case;
mod check;
mod evidence;
mod fence;
mod receipt;
pub mod sequence;
mod settling;
mod terms;
#[cfg(test)]
mod tests;

pub use case::{Asked, Case};
pub use check::{Check, Status};
pub use evidence::*;
pub use fence::{Barrier, Fence, Refusal, Stray, Taken, Writer};
pub use receipt::{Receipt, ReceiptError, ReceiptKey, ReceiptKeyError, ReceiptSlot, ReceiptTerms};
pub use settling::Settling;
pub use terms::{Kind, Limits, Phase, Reverse, Terms};

use serde::Serialize;

use crate::lsn::Lsn;

/// What a gate answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Pass only if every check passed.
    pub state: Status,
    /// One line for a person: what is in the way, or that nothing is.
    pub reason: String,
    /// The position that consumers must have passed.
    pub target_lsn: Option<Lsn>,
    /// Every check of the phase, in its order.
    pub checks: Vec<Check>,
}

/// Judges a gate. The worst check decides: one that fails, then one that nobody can tell, then one that may still pass.
pub fn judge(case: &Case<'_>) -> Verdict {
    let checks = check::of(case);
    let worst = [Status::Fail, Status::Unknown, Status::Wait];
    let worst = worst.into_iter().find_map(|status| checks.iter().find(|check| check.status == status));
    let (state, reason) = match worst {
        Some(check) => (check.status, check.observed.clone()),
        // Only skipped ones prove nothing.
        None if !checks.iter().any(|check| check.status == Status::Pass) => {
            (Status::Unknown, "nothing was checked".to_owned())
        }
        None => (Status::Pass, case.pass_in_words()),
    };
    Verdict { state, reason, target_lsn: case.target_lsn(), checks }
}
