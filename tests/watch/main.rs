//! The watch: findings that appear and go while walgate runs, and everyone who is told of them.

#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

mod findings;
mod measured;
mod told;
