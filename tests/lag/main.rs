//! What is said of lag, held against what is known of it: a consumer that keeps a ledger reads real servers through the
//! proxy.

mod delay;
mod exact;
mod held;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
