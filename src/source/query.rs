//! The simple query protocol, for the commands and the few queries of replication sessions.

use postgres_protocol::message::frontend;

use super::channel::Channel;
use super::error::Failure;
use crate::wire::{Cursor, DecodeError, Fault};

/// A row's values as text; `None` for null.
pub type Row = Vec<Option<String>>;

/// Runs a command and gives its rows. An error leaves the session ready for the next command. Not cancel-safe: a session
/// whose command was abandoned is out of step and of no further use.
pub(super) async fn simple_query(channel: &mut Channel, text: &str, during: &'static str) -> Result<Vec<Row>, Failure> {
    send_query(channel, text, during)?;
    let mut rows = Vec::new();
    let mut error = None;
    loop {
        let message = channel.receive(during).await?;
        match message.tag {
            b'D' => rows.push(data_row(message.body)?),
            // RowDescription, CommandComplete, EmptyQueryResponse, notices and changed settings.
            b'T' | b'C' | b'I' | b'N' | b'S' | b'A' => {}
            b'E' => {
                let failure = message.error();
                // FATAL and PANIC end the session, without ReadyForQuery.
                if matches!(&failure, Failure::Server(error) if error.severity != "ERROR") {
                    return Err(failure);
                }
                error.get_or_insert(failure);
            }
            b'Z' => return error.map_or(Ok(rows), Err),
            _ => return Err(message.unexpected(during)),
        }
    }
}

/// Queues a query; the next receive writes it.
pub(super) fn send_query(channel: &mut Channel, text: &str, during: &'static str) -> Result<(), Failure> {
    frontend::query(text, channel.outgoing())
        .map_err(|_| Failure::Protocol { during, problem: "the command contains a zero byte".into() })
}

/// The values of a DataRow.
pub(super) fn data_row(body: &[u8]) -> Result<Row, DecodeError> {
    let mut cursor = Cursor::new(body);
    let columns = cursor.count("DataRow columns")?;
    let mut row = Row::new();
    for _ in 0..columns {
        row.push(match cursor.i32("DataRow length")? {
            -1 => None,
            length => {
                let fault = Fault::Length(length.into());
                let length = usize::try_from(length).map_err(|_| cursor.error(fault, "DataRow length"))?;
                Some(String::from_utf8_lossy(cursor.take(length, "DataRow value")?).into_owned())
            }
        });
    }
    cursor.finish("DataRow").map(|()| row)
}
