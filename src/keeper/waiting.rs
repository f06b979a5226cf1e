//! How many wait for a gate.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Somebody waits while this lives.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    pub(super) fn begin(waiting: &AtomicUsize) -> Waiting<'_> {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
