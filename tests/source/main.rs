//! Connecting to real servers: every way to log in, every `sslmode`, several hosts, and the walsender's commands.

mod hosts;
mod login;
mod streams;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod watching;
