//! Gates over real servers, asked as a user would, over HTTP and from the command line: every story with the healthy path,
//! and with what the careless do. Each must end in the right state with a reason that names the thing, and none may pass
//! before it should.

mod apply;
mod careless;
mod examples;
mod healthy;
mod pglogical;
mod pollers;
mod preflight;
mod probe;
mod rollback;
mod scene;
mod servers;
mod slot;
mod standby;
mod subscribed;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod zero;
