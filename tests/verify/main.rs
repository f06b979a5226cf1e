//! `walgate gate verify` and `walgate gate sequences`, the binary and the library, between real servers.

mod consumers;
mod differences;
mod gentle;
mod sample;
mod scene;
mod sequences;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod types;
