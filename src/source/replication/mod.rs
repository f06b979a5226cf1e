//! Replication sessions: the walsender's commands, and its streams (PostgreSQL's manual, "Streaming Replication
//! Protocol").
//!
//! A [`ReplicationSession`] takes one command after another; starting a stream turns it into a [`WalStream`], whose end
//! gives the session back. What is inside an XLogData is not looked at here. No method waits on a clock of its own: slot
//! creation may wait for other transactions for hours by design, so the caller sets the deadline. A command that was
//! dropped before it finished leaves the session of no use, and dropping the session closes it.

mod progress;
mod slot;

use std::fmt::{self, Write as _};

use postgres_protocol::message::frontend;

pub use progress::Progress;
pub use slot::{NewSlot, NewSlotKind, Snapshot, own_slot_name};

use super::connect::Connector;
use super::dsn::Host;
use super::error::{ConnectError, Failure};
use super::login::Session;
use super::query::{Row, data_row, send_query, simple_query};
use super::sql::major;
use crate::ident::SlotName;
use crate::lsn::Lsn;
use crate::wire::backend::put_message;
use crate::wire::copy_both::{StatusUpdate, WalMessage};
use crate::wire::startup::SessionKind;
use crate::wire::{DecodeError, HEADER};

const STREAMING: &str = "streaming";
const ENDING: &str = "ending the stream";

/// Which of the two kinds of walsender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walsender {
    /// One connected to the database: logical slots, and SQL besides.
    Database,
    /// One of the whole cluster: physical replication.
    Cluster,
}

impl Walsender {
    fn session_kind(self) -> SessionKind {
        match self {
            Walsender::Database => SessionKind::Logical,
            Walsender::Cluster => SessionKind::Physical,
        }
    }
}

/// A connection to a walsender that waits for a command.
#[derive(Debug)]
pub struct ReplicationSession {
    session: Session,
}

/// `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// What names the cluster, the same on its physical standbys.
    pub system_identifier: u64,
    /// The current timeline.
    pub timeline: u32,
    /// How far the WAL is flushed.
    pub flush: Lsn,
    /// The database connected to, if any.
    pub database: Option<String>,
}

/// `TIMELINE_HISTORY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The name of the file, `00000002.history`.
    pub file_name: String,
    /// Its text.
    pub content: String,
}

/// A slot as it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Where decoding begins; `0/0` for a physical slot.
    pub consistent_point: Lsn,
    /// The name of the exported snapshot.
    pub snapshot: Option<String>,
}

/// Where a physical stream goes on when its timeline has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTimeline {
    /// The timeline.
    pub timeline: u32,
    /// Where it begins.
    pub start: Lsn,
}

impl Connector {
    /// Opens a replication session with the first host that lets in.
    ///
    /// # Errors
    ///
    /// If no host gives a session, with the reason for each.
    pub async fn replication(&self, walsender: Walsender) -> Result<ReplicationSession, ConnectError> {
        Ok(ReplicationSession { session: self.log_in(walsender.session_kind()).await? })
    }
}

impl Connector {
    /// Opens a replication session with this host, to be chosen from [`Dsn::hosts`](super::Dsn::hosts).
    ///
    /// # Errors
    ///
    /// If the host gives no session.
    pub async fn replication_at(&self, host: &Host, walsender: Walsender) -> Result<ReplicationSession, ConnectError> {
        Ok(ReplicationSession { session: self.log_in_at(&[host], walsender.session_kind()).await? })
    }
}

impl ReplicationSession {
    /// `IDENTIFY_SYSTEM`
    ///
    /// # Errors
    ///
    /// Of the server or the connection; so with all commands.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, Failure> {
        const DURING: &str = "identifying the system";
        let row = self.one_row("IDENTIFY_SYSTEM", DURING).await?;
        Ok(SystemIdentity {
            system_identifier: column(&row, 0, DURING)?,
            timeline: column(&row, 1, DURING)?,
            flush: column(&row, 2, DURING)?,
            database: row.into_iter().nth(3).flatten(),
        })
    }

    /// `SHOW`, of a setting by its name.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn show(&mut self, setting: &str) -> Result<String, Failure> {
        const DURING: &str = "reading a setting";
        let row = self.one_row(&format!("SHOW {}", Quoted(setting)), DURING).await?;
        column(&row, 0, DURING)
    }

    /// `TIMELINE_HISTORY`
    ///
    /// # Errors
    ///
    /// As above; the first timeline has no history.
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<TimelineHistory, Failure> {
        const DURING: &str = "reading a timeline's history";
        let row = self.one_row(&format!("TIMELINE_HISTORY {timeline}"), DURING).await?;
        Ok(TimelineHistory { file_name: column(&row, 0, DURING)?, content: column(&row, 1, DURING)? })
    }

    /// `CREATE_REPLICATION_SLOT`. With a logical slot this waits for all transactions now running to end. A temporary slot
    /// goes with the session, and also with the next command that fails in it (`WalSndErrorCleanup`).
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn create_slot(&mut self, slot: &NewSlot) -> Result<CreatedSlot, Failure> {
        const DURING: &str = "creating a slot";
        let command = slot.command(self.server_major());
        let row = self.one_row(&command, DURING).await?;
        Ok(CreatedSlot { consistent_point: column(&row, 1, DURING)?, snapshot: row.into_iter().nth(2).flatten() })
    }

    /// `DROP_REPLICATION_SLOT`; `wait` for the one who uses it to let go.
    ///
    /// # Errors
    ///
    /// As above; without `wait`, if the slot is in use.
    pub async fn drop_slot(&mut self, slot: &SlotName, wait: bool) -> Result<(), Failure> {
        let wait = if wait { " WAIT" } else { "" };
        let command = format!("DROP_REPLICATION_SLOT {}{wait}", Quoted(slot.as_str()));
        simple_query(&mut self.session.channel, &command, "dropping a slot").await.map(drop)
    }

    /// Runs SQL, which a walsender connected to a database takes too; each row's values as text, null as `None`.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Failure> {
        simple_query(&mut self.session.channel, sql, "running a query").await
    }

    /// `START_REPLICATION … LOGICAL`, with the output plugin's options.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn start_logical(
        self,
        slot: &SlotName,
        start: Lsn,
        options: &[(&str, &str)],
    ) -> Result<WalStream, Failure> {
        let mut command = format!("START_REPLICATION SLOT {} LOGICAL {start}", Quoted(slot.as_str()));
        for (index, (name, value)) in options.iter().enumerate() {
            let before = if index == 0 { " (" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(command, "{before}{} {}", Quoted(name), Literal(value));
        }
        if !options.is_empty() {
            command.push(')');
        }
        self.start(&command).await
    }

    /// `START_REPLICATION … PHYSICAL`, of the current timeline unless another is named.
    ///
    /// # Errors
    ///
    /// As above.
    pub async fn start_physical(
        self,
        slot: Option<&SlotName>,
        start: Lsn,
        timeline: Option<u32>,
    ) -> Result<WalStream, Failure> {
        let slot = slot.map(|slot| format!("SLOT {} ", Quoted(slot.as_str()))).unwrap_or_default();
        let timeline = timeline.map(|timeline| format!(" TIMELINE {timeline}")).unwrap_or_default();
        self.start(&format!("START_REPLICATION {slot}PHYSICAL {start}{timeline}")).await
    }

    /// Says goodbye and closes the connection.
    ///
    /// # Errors
    ///
    /// If it was lost before; there is nothing to be done about it.
    pub async fn close(mut self) -> Result<(), Failure> {
        frontend::terminate(self.session.channel.outgoing());
        self.session.channel.flush("closing the session").await?;
        self.session.channel.shutdown().await
    }

    /// The major version of the server; `None` if it does not say.
    pub fn server_major(&self) -> Option<u32> {
        major(self.session.parameter("server_version")?)
    }

    /// A setting that the server reported at login.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.session.parameter(name)
    }

    /// The walsender's process id, as in `pg_stat_replication`.
    pub fn pid(&self) -> Option<u32> {
        self.session.pid
    }

    /// Which host of the connection string this is with.
    pub fn host(&self) -> &Host {
        &self.session.host
    }

    async fn start(mut self, command: &str) -> Result<WalStream, Failure> {
        const DURING: &str = "starting to stream";
        send_query(&mut self.session.channel, command, DURING)?;
        loop {
            let message = self.session.channel.receive(DURING).await?;
            match message.tag {
                b'W' => return Ok(WalStream { session: self.session, ended: false }),
                // Where a timeline ends nothing is left to stream: the walsender tells the next one at once
                // (`StartReplication`), and ignores the CopyDone that ends every stream here.
                b'T' => return Ok(WalStream { session: self.session, ended: true }),
                b'N' | b'S' => {}
                b'E' => return Err(message.error()),
                _ => return Err(message.unexpected(DURING)),
            }
        }
    }

    async fn one_row(&mut self, command: &str, during: &'static str) -> Result<Row, Failure> {
        let rows = simple_query(&mut self.session.channel, command, during).await?;
        rows.into_iter().next().ok_or(Failure::Protocol { during, problem: "no row".into() })
    }
}

/// A stream of WAL or of an output plugin's messages.
#[derive(Debug)]
pub struct WalStream {
    session: Session,
    /// The server has sent its CopyDone.
    ended: bool,
}

/// A CopyData message of the stream.
#[derive(Clone, Copy, Debug)]
pub struct CopyData<'a> {
    frame: &'a [u8],
}

impl<'a> CopyData<'a> {
    /// The whole message as on the wire: `d`, length, body.
    pub fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// Reads the body.
    ///
    /// # Errors
    ///
    /// If it is neither XLogData nor a keepalive.
    pub fn message(&self) -> Result<WalMessage<'a>, DecodeError> {
        WalMessage::parse(self.frame.get(HEADER..).unwrap_or_default())
    }
}

impl WalStream {
    /// The next CopyData message, `None` when the server has ended the stream. Writes what is queued while it waits.
    ///
    /// Cancel-safe: if another branch of a `select!` is taken first, no byte is lost and the next call goes on.
    ///
    /// # Errors
    ///
    /// Of the server or the connection; a server that shuts down counts as closed.
    pub async fn next(&mut self) -> Result<Option<CopyData<'_>>, Failure> {
        while !self.ended {
            match self.session.channel.advance(STREAMING).await? {
                b'd' => return Ok(Some(CopyData { frame: self.session.channel.current().frame })),
                b'c' => self.ended = true,
                b'N' | b'S' => {}
                // Without a CopyDone before it: what a walsender says when its server shuts down (WalSndDone).
                b'C' => return Err(Failure::Closed("streaming: it is shutting down")),
                b'E' => return Err(self.session.channel.current().error()),
                _ => return Err(self.session.channel.current().unexpected(STREAMING)),
            }
        }
        Ok(None)
    }

    /// What has come of the stream, cut anywhere, for a caller that finds the messages' borders itself and needs no more
    /// than their beginnings: a message of a gigabyte takes no memory. Writes what is queued while it waits. Not to be
    /// mixed with [`WalStream::next`]. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Of the connection.
    pub async fn next_piece(&mut self) -> Result<&[u8], Failure> {
        self.session.channel.read_piece(STREAMING).await
    }

    /// Queues a status update; the next [`WalStream::next`] or [`WalStream::flush`] writes it.
    pub fn queue_status(&mut self, status: &StatusUpdate) {
        put_message(self.session.channel.outgoing(), b'd', |body| status.encode(body));
    }

    /// Writes what is queued. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Of the connection.
    pub async fn flush(&mut self) -> Result<(), Failure> {
        self.session.channel.flush(STREAMING).await
    }

    /// Ends the stream in order, CopyDone both ways, and gives the session back. What the server still sends is dropped;
    /// it ends a transaction that it has begun to send, so set a deadline and drop the stream past it.
    ///
    /// A physical stream whose timeline has ended tells the next one.
    ///
    /// # Errors
    ///
    /// Of the server or the connection.
    pub async fn finish(mut self) -> Result<(ReplicationSession, Option<NextTimeline>), Failure> {
        let channel = &mut self.session.channel;
        frontend::copy_done(channel.outgoing());
        let mut next = None;
        let mut error = None;
        loop {
            match channel.advance(ENDING).await? {
                b'D' => {
                    let row = data_row(channel.current().body)?;
                    next = Some(NextTimeline { timeline: column(&row, 0, ENDING)?, start: column(&row, 1, ENDING)? });
                }
                b'd' | b'c' | b'T' | b'C' | b'N' | b'S' => {}
                b'E' => {
                    error.get_or_insert(channel.current().error());
                }
                b'Z' => break,
                _ => return Err(channel.current().unexpected(ENDING)),
            }
        }
        match error {
            Some(error) => Err(error),
            None => Ok((ReplicationSession { session: self.session }, next)),
        }
    }

    /// The walsender's process id, as in `pg_stat_replication`.
    pub fn pid(&self) -> Option<u32> {
        self.session.pid
    }

    /// Which host of the connection string this is with.
    pub fn host(&self) -> &Host {
        &self.session.host
    }
}

/// Publications as the option `publication_names` of pgoutput takes them.
pub fn publication_names(names: &[String]) -> String {
    names.iter().map(|name| Quoted(name).to_string()).collect::<Vec<_>>().join(",")
}

/// The publications that a consumer has named so, read as the server reads them (`SplitIdentifierString` in `varlena.c`).
pub fn listed_publications(names: &str) -> Vec<String> {
    let mut publications = Vec::new();
    let mut rest = names.trim_start();
    while !rest.is_empty() {
        let name = if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            loop {
                let Some((part, behind)) = quoted.split_once('"') else { return publications };
                name.push_str(part);
                match behind.strip_prefix('"') {
                    Some(more) => (name, quoted) = (name + "\"", more),
                    None => break rest = behind,
                }
            }
            name
        } else {
            let (name, _) = rest.split_once(',').unwrap_or((rest, ""));
            rest = rest.get(name.len()..).unwrap_or_default();
            name.trim_end().to_lowercase()
        };
        publications.push(name);
        rest = rest.trim_start().strip_prefix(',').unwrap_or_default().trim_start();
    }
    publications
}

/// Whether a stream of this application that acknowledges would be taken for a synchronous standby
/// (`SyncRepGetStandbyPriority` in `syncrep.c`), and release commits that no standby has. In doubt, yes.
pub fn is_counted_on(synchronous_standby_names: &str, application_name: &str) -> bool {
    let names = synchronous_standby_names.to_lowercase();
    names.contains('*') || (!names.is_empty() && names.contains(&application_name.to_lowercase()))
}

/// A column that must be there and of this type.
fn column<T: std::str::FromStr>(row: &Row, index: usize, during: &'static str) -> Result<T, Failure> {
    let value = row.get(index).and_then(Option::as_deref);
    value
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Failure::Protocol { during, problem: format!("column {} is missing or malformed", index + 1) })
}

/// A name between double quotes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// A string between single quotes. The replication grammar knows no backslashes.
struct Literal<'a>(&'a str);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}'", self.0.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synchronous_standby_is_named_or_any() {
        for (names, counted) in
            [("", false), ("ANY 1 (*)", true), ("a, \"Walgate\"", true), ("FIRST 1 (standby1, standby2)", false)]
        {
            assert_eq!(is_counted_on(names, "walgate"), counted, "{names}");
        }
    }

    #[test]
    fn names_and_values_are_quoted_for_the_replication_grammar() {
        assert_eq!(Quoted("a\"b").to_string(), "\"a\"\"b\"");
        assert_eq!(Literal("a'b\\").to_string(), "'a''b\\'");
    }
}
