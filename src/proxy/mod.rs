//! The proxy: clients on one side, a source on the other, and every byte between them unchanged.
//!
//! A client connection gets one upstream connection of its own, for as long as it lives. `listener` accepts,
//! `handshake` reads up to the start-up packet, `login` passes the one part of a login that encryption on two
//! legs would break, `relay` moves the bytes, `tap` reads along, and `guard` answers the one command that is not
//! relayed: to begin what a table would break. The proxy never makes up a byte of a stream; what it cannot understand it
//! relays.

mod guard;
mod handshake;
mod listener;
mod login;
mod relay;
mod session;
mod tap;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::ServerTls;
pub use guard::Guard;
pub use handshake::ALPN;
pub use listener::{BindError, ListenAddr, Proxy};
pub use tap::Tap;

/// Limits of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may take to send its start-up packet, TLS included.
    pub startup: Duration,
    /// Sessions at the same time; a client beyond that is refused with SQLSTATE 53300.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { startup: Duration::from_secs(10), sessions: 2048 }
    }
}

/// What may change while a proxy runs.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// The certificate that the next client is shown.
    pub tls: Option<Arc<ServerTls>>,
    /// The limits that hold.
    pub limits: Limits,
    /// Whether health comes from sessions, because there is no poller.
    pub passive: bool,
    /// What is done with consumers that begin while a table would break them.
    pub guard: Guard,
}

/// Whether an error only says that the other side is gone.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
