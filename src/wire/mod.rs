//! The frontend/backend and streaming replication protocols, as bytes.
//!
//! Everything here turns a slice into borrowed values or appends to a buffer; nothing does I/O, and nothing
//! allocates by a length that was only announced. The proxy's tap and the replication sessions of `source`
//! feed it; what is inside an XLogData is the business of `pgoutput`.

pub mod backend;
pub mod command;
pub mod copy_both;
mod cursor;
mod frame;
pub mod startup;

pub use cursor::{Cursor, DecodeError, Fault};
pub use frame::{Frame, FrameReader, HEADER, MAX_BODY, body_len};
