//! What is said of lag, held against what is known of it: a consumer that keeps a ledger reads real servers through the
//! proxy. `cargo test --test lag -- --nocapture` prints a table of situations, with what is usually asked beside it.

mod delay;
mod exact;
mod held;
mod large;
mod quiet;
mod scene;
mod servers;
mod slots;
mod stalled;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
