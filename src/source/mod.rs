//! The way to a PostgreSQL server: connection strings, TLS, logging in, and the two kinds of session walgate has,
//! SQL and replication.
//!
//! There is one dialling path. A [`Dsn`] says where and how, a [`Connector`] holds it with the certificates read, and
//! opens a [`Stream`]: bare, as the proxy wants it, or logged in as a [`replication`] or [`sql`] session. Nothing here
//! waits without a deadline unless the user asked for it (`connect_timeout=0`), and nothing prints a password.

mod auditor;
mod audits;
pub mod catalog;
mod channel;
pub mod checkup;
mod connect;
pub mod dsn;
mod error;
pub mod evidence;
mod fencing;
mod login;
mod look;
mod observer;
mod poller;
mod proofs;
mod query;
pub mod replication;
mod secret;
mod sessions;
pub mod slots;
pub mod sql;
mod stream;
mod tls;
mod watched;

pub use audits::{AuditReport, FindingChanges, NotAudited};
pub use connect::{Connected, Connector};
pub use dsn::Dsn;
pub use error::{ConnectError, Failure, ServerError};
pub use fencing::take_fence;
pub use query::Row;
pub use secret::Secret;
pub use sessions::{Introduction, Session, SessionGuard, Sessions, relayed};
pub use stream::Stream;
pub(crate) use watched::lock;
pub use watched::{Health, Source, SourceReport};

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::lag::Observe;

/// Watches a source until `stop`: looks at it once a second, audits it every few seconds, and follows copies of slots where
/// that is how it is observed, or a gate wants it.
pub async fn watch(source: Arc<Source>, stop: CancellationToken) {
    tokio::join!(look(&source, &stop), auditor::audit(&source, &stop));
}

/// The same without the audits.
pub async fn look(source: &Arc<Source>, stop: &CancellationToken) {
    let copies = source.lag().observe() != Observe::Poll;
    tokio::join!(poller::poll(source, stop), async {
        if copies {
            observer::follow(source, stop).await;
        }
    });
}
