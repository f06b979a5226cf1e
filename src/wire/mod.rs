//! The frontend/backend and streaming replication protocols, as bytes.

mod cursor;

pub use cursor::{Cursor, DecodeError, Fault};
