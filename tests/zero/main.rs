//! The rules of zero-cache against a real one: what a rule says comes true, what mends it makes it go.
//!
//! [`cases`] is the table of schemas that offend a rule; each is tried on a database and a zero-cache of its own, and once
//! more mended. [`special`] are those that need more than a schema, [`agreement`] is about all types and keys at once,
//! [`healthy`] about what is to be left alone, and [`alembic`] is a whole story.

mod agreement;
mod alembic;
mod cases;
mod healthy;
mod proof;
mod special;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
