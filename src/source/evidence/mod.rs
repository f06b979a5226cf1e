//! What a gate rests its verdict on, read from real servers: one file per subject, one look each.
//!
//! Every reader takes a session that was made [`ready`] and answers with a [`Piece`]: what was seen, with the moment when the
//! look began, or why nothing can be said. What the role may not see is such a reason, with the GRANT that mends it; it is
//! never taken for nothing. Only a lost session is an error. No reader waits on a clock of its own: the caller sets the
//! deadline.
//!
//! Each row comes as an object in JSON, of which every name is spelled in the statement.

pub mod activity;
mod pglogical;
pub mod receiver;
pub mod replica;
pub mod schema;
pub mod settings;
pub mod subscription;
pub mod takeover;
pub mod timeline;
pub mod unreplicated;

use std::time::Instant;

use serde::de::DeserializeOwned;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::error::{ConnectError, Failure};
use super::look::{OLDEST, failed};
use super::sql::SqlSession;
use crate::gate::Piece;
use crate::time::PgTimestamp;

/// What every look is made under. Printing an expression waits for whoever locks its table; and who has asked waits no
/// longer than that, so that a statement must not run on.
const LIMITS: &str = "
    SELECT pg_catalog.set_config('lock_timeout', '1s', false), pg_catalog.set_config('statement_timeout', '4s', false), pg_catalog.set_config('jit', 'off', false),
           pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
           pg_catalog.set_config('synchronous_commit', 'local', false), pg_catalog.pg_backend_pid() AS pid,
           (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8 - 946684800000000 AS running_since";

/// Makes a session ready to look, and to write a message that nobody waits for a standby with. Says since when its server
/// runs.
///
/// # Errors
/// If the session is lost, the server is too old, or a pooler shares the session out among backends.
pub async fn ready(session: &SqlSession) -> Result<PgTimestamp, ConnectError> {
    if let Some(major) = session.server_major().filter(|major| *major < OLDEST) {
        return Err(Failure::Version(major).into());
    }
    session.harden().await.map_err(|error| failed(&error))?;
    let row = session.query_one(LIMITS, &[]).await.map_err(|error| failed(&error))?;
    let backend: i32 = row.try_get("pid").map_err(|error| failed(&error))?;
    match session.pid() {
        Some(told) if i32::try_from(told) != Ok(backend) => Err(Failure::Pooler.into()),
        _ => row.try_get("running_since").map(PgTimestamp).map_err(|error| failed(&error)),
    }
}

/// Why a look gave nothing.
pub(super) enum Unseen {
    /// The role lacks a right, in the server's words.
    Denied(String),
    /// The server refuses, or answers what says nothing.
    Reason(String),
    /// The session is of no more use.
    Lost(ConnectError),
}

impl From<tokio_postgres::Error> for Unseen {
    fn from(error: tokio_postgres::Error) -> Unseen {
        let Some(refused) = error.as_db_error() else { return Unseen::Lost(failed(&error)) };
        match *refused.code() {
            SqlState::INSUFFICIENT_PRIVILEGE => Unseen::Denied(refused.message().to_owned()),
            SqlState::LOCK_NOT_AVAILABLE => {
                Unseen::Reason("somebody has locked a table that has to be looked at".into())
            }
            // The session is ended, or the server.
            SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::IDLE_SESSION_TIMEOUT => {
                Unseen::Lost(failed(&error))
            }
            _ => Unseen::Reason(refused.message().to_owned()),
        }
    }
}

impl Unseen {
    /// Says how the right is given that the role lacks.
    fn mended_by(self, grant: &str) -> Unseen {
        match self {
            Unseen::Denied(said) => Unseen::Reason(format!("{said}; {grant}")),
            other => other,
        }
    }
}

/// The outcome of a look as a piece of evidence, which is as old as the look's beginning.
fn piece<T>(from: &'static str, begun: Instant, seen: Result<T, Unseen>) -> Result<Piece<T>, ConnectError> {
    match seen {
        Ok(value) => Ok(Piece::Seen { value, at: begun, from }),
        Err(Unseen::Denied(why) | Unseen::Reason(why)) => Ok(Piece::Unseen(format!("{from}: {why}"))),
        Err(Unseen::Lost(error)) => Err(error),
    }
}

/// Runs statements in one message, and reads the first column of each of their rows. As text and not prepared: a round trip
/// less.
pub(super) async fn rows<T: DeserializeOwned>(session: &SqlSession, sql: &str) -> Result<Vec<T>, Unseen> {
    let mut rows = Vec::new();
    for message in session.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            let row = serde_json::from_str(row.get(0).unwrap_or("null"));
            rows.push(row.map_err(|error| unexpected(error.to_string()))?);
        }
    }
    Ok(rows)
}

/// Asks for the one row that there is.
pub(super) async fn row<T: DeserializeOwned>(session: &SqlSession, sql: &str) -> Result<T, Unseen> {
    rows(session, sql).await?.pop().ok_or_else(|| unexpected("no row".into()))
}

fn unexpected(problem: String) -> Unseen {
    Unseen::Lost(Failure::Protocol { during: "gathering evidence", problem }.into())
}
