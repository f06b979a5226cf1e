//! A session that looks at slots, drops them, and ends who reads them.
//!
//! It decides nothing: who asks says which slot, and is told what the server answered. What it looks with is what the
//! poller looks with.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::connect::Connector;
use super::error::{ConnectError, Failure, ServerError};
use super::look::{DEADLINE, Looker, failed};
use super::replication::own_slot_name;
use crate::ident::SlotName;
use crate::lag::SourcePoll;

/// Ends who holds a slot, if that is still who it was. The function could wait for that itself, but looks only every 100 ms:
/// time enough for a reader that comes back.
const TERMINATE: &str = "
    SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
    WHERE slot_name = $1 AND active_pid = $2 AND active_pid <> pg_backend_pid()";

/// Such a session.
pub struct SlotSession {
    looker: Looker,
}

/// How an attempt to drop a slot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropping {
    /// It is gone by this.
    Dropped,
    /// There was none any more.
    Gone,
    /// Somebody holds it.
    Held(ServerError),
    /// The server does not let it be dropped.
    Refused(ServerError),
}

impl SlotSession {
    /// Opens one.
    ///
    /// # Errors
    /// If no host gives a session, or the server is too old.
    pub async fn open(connector: &Connector) -> Result<SlotSession, ConnectError> {
        let session = connector.sql().await?;
        within(DEADLINE, async { Ok(SlotSession { looker: Looker::new(session).await? }) }).await
    }

    /// Looks at the server.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn look(&mut self) -> Result<SourcePoll, ConnectError> {
        within(DEADLINE, self.looker.look()).await
    }

    /// What keeps walgate from seeing all there is, each with the mend.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn remarks(&self) -> Result<Vec<&'static str>, ConnectError> {
        let rights = within(DEADLINE, self.looker.rights()).await?;
        Ok(self.looker.remarks(rights))
    }

    /// Whether the role sees how far every reader is, and so whether it streams.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn sees_readers(&self) -> Result<bool, ConnectError> {
        within(DEADLINE, self.looker.sees_readers()).await
    }

    /// Whether the role may drop slots, by the server's own rule, which providers have changed: it is told before the
    /// server looks for the slot. `Err` within is what it says.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn may_drop(&self) -> Result<Result<(), ServerError>, ConnectError> {
        Ok(match self.drop_slot(&own_slot_name("none")).await? {
            Dropping::Refused(error) => Err(error),
            Dropping::Dropped | Dropping::Gone | Dropping::Held(_) => Ok(()),
        })
    }

    /// Drops a slot that nobody holds.
    ///
    /// # Errors
    /// If the session is lost: it may be dropped or not.
    pub async fn drop_slot(&self, slot: &SlotName) -> Result<Dropping, ConnectError> {
        match self.ask("SELECT pg_drop_replication_slot($1)", &[&slot.as_str()]).await? {
            Ok(_) => Ok(Dropping::Dropped),
            Err(error) if error.code == SqlState::UNDEFINED_OBJECT.code() => Ok(Dropping::Gone),
            Err(error) if error.code == SqlState::OBJECT_IN_USE.code() => Ok(Dropping::Held(error)),
            Err(error) => Ok(Dropping::Refused(error)),
        }
    }

    /// Tells the backend that holds a slot to end, which it does soon; does nothing where another holds the slot by now.
    /// `Err` within is why the server does not do it.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn end_holder(&self, slot: &SlotName, pid: i32) -> Result<Result<(), ServerError>, ConnectError> {
        let ended = self.ask(TERMINATE, &[&slot.as_str(), &pid]).await?;
        Ok(ended.map(drop))
    }

    /// How many sessions of the same database have an `application_name` that begins so.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn sessions_named(&self, prefix: &str) -> Result<usize, ConnectError> {
        let sql = "SELECT FROM pg_stat_activity
                   WHERE datname = current_database() AND starts_with(application_name, $1)";
        self.ask(sql, &[&prefix]).await?.map_err(|error| Failure::Server(error).into())
    }

    /// Returns the number of rows, or what the server has against it.
    async fn ask(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Result<usize, ServerError>, ConnectError> {
        within(DEADLINE, async {
            match self.looker.session().query(sql, parameters).await {
                Ok(rows) => Ok(Ok(rows.len())),
                Err(error) => error.as_db_error().map(|error| Err(error.into())).ok_or_else(|| failed(&error)),
            }
        })
        .await
    }
}

/// Waits no longer than that.
pub(super) async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    timeout(limit, step).await.unwrap_or(Err(Failure::Timeout(limit).into()))
}
