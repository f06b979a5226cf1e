//! The proxy against clients and servers that behave badly, and against real ones where it matters.

#![expect(clippy::unwrap_used, reason = "what a test's own ends do wrong ends the test")]

mod drain;
mod peers;
mod relay;
mod servers;
mod startup;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test program uses a part of it")]
mod support;
mod tls;
