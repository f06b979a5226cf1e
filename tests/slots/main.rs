//! `walgate slots`, the binary, as people and their runbooks run it.

mod drop;
mod list;
mod reset;
mod scene;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod zero;
