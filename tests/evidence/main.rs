//! What a gate's evidence says of real servers, well and unwell, to a role that has the rights it needs and no others.

mod activity;
mod pglogical;
mod replica;
mod scene;
mod schema;
mod settings;
mod standby;
mod subscription;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod unreplicated;
