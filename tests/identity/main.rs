//! The identity rules against real servers: what a rule says comes true, what mends it makes it go, and what is healthy
//! is left alone.
//!
//! [`cases`] is the table of schemas that offend a rule; each is tried on each version that has the feature.
//! [`subscribers`] shows what only a subscriber meets, [`pglogical`] what that extension says. [`mixture`] and [`oracle`]
//! compare walgate with the server where nobody has thought of the case.

mod cases;
mod healthy;
mod mixture;
mod oracle;
mod pglogical;
mod proof;
mod subscribers;
#[expect(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
