//! `walgate doctor`, the binary, as somebody runs it at three in the morning. Each of its rules is seen to find what it is about
//! on a real server, and to find nothing once that is mended.

mod bundle;
mod scene;
mod server;
mod slots;
mod subscriptions;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod wrong;
