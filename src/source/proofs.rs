//! What a gate and the streams of a source tell each other: a gate asks for proof of how far a consumer is, and the streams
//! say when one has got further.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::watched::{Source, lock};
use crate::ident::SlotName;

/// The questions and answers of a source.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    /// How often each slot's stream was asked for proof.
    asked: Mutex<BTreeMap<SlotName, u64>>,
    wanted: Notify,
    progress: Notify,
}

impl Source {
    /// Asks the streams of these slots that pass the proxy for proof of how far they are: the server, by a status update
    /// that repeats the client's last one and wants a reply.
    pub fn want_proof<'a>(&self, slots: impl IntoIterator<Item = &'a SlotName>) {
        {
            let mut asked = lock(&self.proofs.asked);
            for slot in slots {
                *asked.entry(slot.clone()).or_default() += 1;
            }
        }
        self.proofs.wanted.notify_waiters();
    }

    /// Waits until a proof is asked for. Cancel-safe.
    pub(crate) fn proof_wanted(&self) -> Notified<'_> {
        self.proofs.wanted.notified()
    }

    /// How often a slot's stream was asked for proof.
    pub(crate) fn proofs_asked(&self, slot: &SlotName) -> u64 {
        lock(&self.proofs.asked).get(slot).copied().unwrap_or(0)
    }

    /// Waits until a consumer or its server has said on a stream how far it is. Cancel-safe.
    pub fn progress(&self) -> Notified<'_> {
        self.proofs.progress.notified()
    }

    pub(crate) fn note_progress(&self) {
        self.proofs.progress.notify_waiters();
    }
}
