//! The way to a PostgreSQL server: connection strings, TLS, logging in, and the two kinds of session walgate has,
//! SQL and replication.
//!
//! There is one dialling path. A [`Dsn`] says where and how, a [`Connector`] holds it with the certificates read, and
//! opens a [`Stream`]: bare, as the proxy wants it, or logged in as a [`replication`] or [`sql`] session. Nothing here
//! waits without a deadline unless the user asked for it (`connect_timeout=0`), and nothing prints a password.

mod channel;
mod connect;
pub mod dsn;
mod error;
mod login;
mod poller;
mod query;
pub mod replication;
mod secret;
pub mod sql;
mod stream;
mod tls;
mod watched;

pub use connect::{Connected, Connector};
pub use dsn::Dsn;
pub use error::{ConnectError, Failure, ServerError};
pub use poller::poll;
pub use query::Row;
pub use secret::Secret;
pub use stream::Stream;
pub use watched::{Health, SessionCount, Source};
