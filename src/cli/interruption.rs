//! The wish that a command stops, which it does where it can be run again.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

/// Somebody wants this to stop: Ctrl-C, or SIGTERM.
pub(super) struct Interruption {
    terminate: Signal,
    interrupt: Signal,
}

impl Interruption {
    /// From now on signals do not end the process.
    pub(super) fn new() -> io::Result<Interruption> {
        Ok(Interruption { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Whether it has come.
    pub(super) async fn is_here(&mut self) -> bool {
        timeout(Duration::ZERO, self.recv()).await.is_ok()
    }

    /// Waits for it. Cancel-safe.
    pub(super) async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
