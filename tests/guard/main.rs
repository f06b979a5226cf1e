//! The guard: consumers that begin while a table would break them.

#![expect(clippy::unwrap_used, reason = "what a test's own ends do wrong ends the test")]

mod client;
mod commands;
mod consumers;
mod legs;
#[path = "../proxy/peers.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod peers;
mod pieces;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;
