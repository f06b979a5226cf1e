//! Whether a server has taken over, or let go.

use std::time::Instant;

use super::{piece, rows};
use crate::gate::Piece;
use crate::source::error::ConnectError;
use crate::source::sql::SqlSession;

/// A message is written in read-only transactions, too; so what is set for new sessions is asked for first. Nobody reads it:
/// a consumer decodes it and passes it by.
const WRITE: &str = r"
    SELECT to_json(CASE WHEN pg_is_in_recovery() THEN 'it is in recovery'
                        WHEN current_setting('transaction_read_only')::bool
                            THEN 'transactions are read-only (default_transaction_read_only)'
                        WHEN pg_logical_emit_message(true, 'walgate/write', '') IS NULL THEN 'it writes no WAL' END)";

/// Whether a transaction is committed on the server of the session, or why not. Needs no right.
///
/// # Errors
/// If the session is lost.
pub async fn writable(session: &SqlSession) -> Result<Piece<Result<(), String>>, ConnectError> {
    let begun = Instant::now();
    let refused = rows::<Option<String>>(session, WRITE).await.map(|rows| rows.into_iter().flatten().next());
    piece("a write", begun, refused.map(|refused| refused.map_or(Ok(()), Err)))
}
