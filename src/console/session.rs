//! One client of the console, from behind its start-up packet to its end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Console;
use super::command::{Command, error, parse, parse_all};
use super::message::{self, Message};
use super::table::{Column, Kind, Row, Value};
use crate::scram::{self, ScramError, Users};
use crate::source::{Session, Stream};
use crate::wire::Cursor;
use crate::wire::backend::{ErrorFields, put_message};
use crate::wire::startup::StartupMessage;

/// The longest message that is read: commands are short.
const MAX_MESSAGE: usize = 64 * 1024;

/// Answers are sent when this much of them waits.
const SEND_AT: usize = 64 * 1024;

/// Prepared statements, and portals, that a client may have.
const MAX_OBJECTS: usize = 1000;

/// How long a login may take, as with PostgreSQL's `authentication_timeout`.
const LOGIN: Duration = Duration::from_secs(60);

/// 3.2, the newest protocol spoken.
const NEWEST_PROTOCOL: (u16, u32) = (2, 3 << 16 | 2);

/// The columns of what psql shows for `\gdesc`.
const DESCRIBE: &[Column] = &[Column { name: "Column", kind: Kind::Text }, Column { name: "Type", kind: Kind::Text }];

type Answer = Result<(), ErrorFields<'static>>;

/// Why a session ended before the client said so.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{}", .0.message)]
    Fatal(ErrorFields<'static>),
}

impl From<ErrorFields<'static>> for End {
    fn from(error: ErrorFields<'static>) -> End {
        End::Fatal(error)
    }
}

impl Console {
    /// Serves a client that asked for the console. `local` says whether it is on this machine.
    pub(crate) async fn serve(
        &self,
        stream: Stream,
        startup: &StartupMessage<'_>,
        local: bool,
        session: &Session,
        drain: &CancellationToken,
    ) {
        let mut client = Client {
            console: self,
            session,
            stream,
            incoming: BytesMut::new(),
            out: BytesMut::new(),
            statements: HashMap::new(),
            portals: HashMap::new(),
        };
        let served = async {
            client.begin(startup, local).await?;
            client.answer().await
        };
        let ended = drain.run_until_cancelled(served).await;
        let shutdown = || ErrorFields::fatal("57P01", "walgate is shutting down").into();
        match ended.unwrap_or_else(|| Err(shutdown())) {
            Ok(()) => {}
            Err(End::Io(error)) => tracing::debug!(client = %session.client, %error, "console ended"),
            Err(End::Fatal(error)) => {
                tracing::info!(client = %session.client, error = %error.message, "console ended");
                error.encode(&mut client.out);
            }
        }
        // What goes wrong here no longer matters; a client that does not read is not waited for.
        let _ = timeout(Duration::from_secs(1), async {
            client.send().await?;
            client.stream.shutdown().await
        })
        .await;
    }
}

/// Whether a client may come in, and has to show a password: `None` where it may not.
fn asks_password(local: bool, users: bool) -> Option<bool> {
    match (local, users) {
        (_, true) => Some(true),
        (true, false) => Some(false),
        (false, false) => None,
    }
}

struct Client<'a> {
    console: &'a Console,
    session: &'a Session,
    stream: Stream,
    incoming: BytesMut,
    out: BytesMut,
    statements: HashMap<String, Command>,
    portals: HashMap<String, Portal>,
}

/// A bound statement.
struct Portal {
    command: Command,
    formats: Vec<i16>,
    /// What is left of its rows once it runs.
    rows: Option<VecDeque<Row>>,
}

impl Client<'_> {
    /// Lets the client in, and tells it what a server tells.
    async fn begin(&mut self, startup: &StartupMessage<'_>, local: bool) -> Result<(), End> {
        let unknown: Vec<&[u8]> =
            startup.parameters.iter().map(|&(name, _)| name).filter(|name| name.starts_with(b"_pq_.")).collect();
        if startup.minor > NEWEST_PROTOCOL.0 || !unknown.is_empty() {
            put_message(&mut self.out, b'v', |body| {
                body.put_u32(NEWEST_PROTOCOL.1);
                body.put_u32(unknown.len() as u32);
                for name in unknown {
                    message::put_cstr(body, &String::from_utf8_lossy(name));
                }
            });
        }
        let users = self.console.setup().users;
        match (asks_password(local, users.is_some()), users) {
            (Some(true), Some(users)) => match timeout(LOGIN, self.log_in(&users)).await {
                Ok(logged_in) => logged_in?,
                Err(_) => return Err(ErrorFields::fatal("08006", "the login took too long").into()),
            },
            (Some(_), _) => {}
            (None, _) => {
                let error = ErrorFields::fatal("28000", "the console takes clients on walgate's own machine only");
                return Err(error.with_hint("With an auth_file it takes users from elsewhere too.").into());
            }
        }
        message::put_authentication(&mut self.out, 0, &[]);
        let application_name = self.session.application_name.as_deref().unwrap_or_default();
        for (name, value) in [
            ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/walgate")),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
            ("is_superuser", "off"),
            ("session_authorization", &self.session.user),
            ("application_name", application_name),
        ] {
            message::put_parameter(&mut self.out, name, value);
        }
        // No query here runs long enough to be cancelled; clients want a key all the same.
        put_message(&mut self.out, b'K', |body| {
            body.put_u32(self.session.id as u32);
            body.put_u32(0);
        });
        message::put_ready(&mut self.out);
        Ok(self.send().await?)
    }

    /// SCRAM-SHA-256, as PostgreSQL does it.
    async fn log_in(&mut self, users: &Users) -> Result<(), End> {
        let failed = |error, user: &str| match error {
            ScramError::Malformed(_) => ErrorFields::fatal("08P01", error.to_string()),
            ScramError::Refused => {
                ErrorFields::fatal("28P01", format!("password authentication failed for user \"{user}\""))
            }
        };
        let user = self.session.user.clone();
        message::put_authentication(&mut self.out, 10, format!("{}\0\0", scram::MECHANISM).as_bytes());
        let body = self.password_message().await?;
        let malformed = |_| ErrorFields::fatal("08P01", "malformed SASLInitialResponse");
        let client_first = initial_response(&body).map_err(malformed)?;
        let exchange = users.begin(&user, client_first).map_err(|error| failed(error, &user))?;
        message::put_authentication(&mut self.out, 11, exchange.server_first().as_bytes());
        let body = self.password_message().await?;
        let server_final = exchange.finish(&body).map_err(|error| failed(error, &user))?;
        message::put_authentication(&mut self.out, 12, server_final.as_bytes());
        Ok(())
    }

    async fn password_message(&mut self) -> Result<BytesMut, End> {
        self.send().await?;
        match self.receive().await? {
            Some((b'p', body)) => Ok(body),
            Some(_) => Err(ErrorFields::fatal("08P01", "expected a password message").into()),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Answers until the client leaves.
    async fn answer(&mut self) -> Result<(), End> {
        // After an error of the extended protocol, everything up to Sync is passed over.
        let mut skipping = false;
        while let Some((tag, body)) = self.receive().await? {
            let parsed = match Message::parse(tag, &body) {
                Ok(parsed) => parsed,
                Err(error) => {
                    return Err(ErrorFields::fatal("08P01", format!("malformed message: {error}")).into());
                }
            };
            match parsed {
                Message::Terminate => return Ok(()),
                Message::Sync => {
                    skipping = false;
                    // There is no transaction that would keep them.
                    self.portals.clear();
                    message::put_ready(&mut self.out);
                    self.send().await?;
                }
                _ if skipping => {}
                Message::Query(text) => {
                    if let Err(error) = self.query(&text).await? {
                        error.encode(&mut self.out);
                    }
                    message::put_ready(&mut self.out);
                    self.send().await?;
                }
                Message::Flush => self.send().await?,
                Message::Other(tag) => {
                    let text = format!("the console has no use for messages of type {:?}", char::from(tag));
                    return Err(ErrorFields::fatal("08P01", text).into());
                }
                parsed => {
                    if let Err(error) = self.extended(parsed) {
                        error.encode(&mut self.out);
                        skipping = true;
                    }
                    if self.out.len() >= SEND_AT {
                        self.send().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The simple protocol.
    async fn query(&mut self, text: &str) -> Result<Answer, End> {
        let statements = parse_all(text);
        if statements.is_empty() {
            message::put_empty(&mut self.out, b'I');
        }
        for statement in statements {
            let command = match statement {
                Ok(command) => command,
                Err(error) => return Ok(Err(error)),
            };
            if let Some(columns) = columns(&command) {
                message::put_columns(&mut self.out, columns, &[]);
            }
            for row in self.rows(&command) {
                message::put_row(&mut self.out, &row, &[]);
                if self.out.len() >= SEND_AT {
                    self.send().await?;
                }
            }
            self.complete(&command);
        }
        Ok(Ok(()))
    }

    /// The extended protocol.
    fn extended(&mut self, message: Message<'_>) -> Answer {
        match message {
            Message::Parse { statement, text } => {
                if !statement.is_empty() && self.statements.contains_key(&*statement) {
                    return Err(error("42P05", format!("prepared statement \"{statement}\" already exists")));
                }
                let command = parse(&text)?;
                bounded(self.statements.len())?;
                self.statements.insert(statement.into_owned(), command);
                message::put_empty(&mut self.out, b'1');
            }
            Message::Bind { portal, statement, parameters, formats } => {
                let command = self.statement(&statement)?.clone();
                let width = columns(&command).map_or(0, <[Column]>::len);
                if parameters > 0 {
                    return Err(error("08P01", format!("{parameters} parameters were given, and none is taken")));
                }
                if formats.len() > 1 && formats.len() != width {
                    return Err(error("08P01", format!("{} formats were given for {width} columns", formats.len())));
                }
                if let Some(format) = formats.iter().find(|format| !matches!(format, 0 | 1)) {
                    return Err(error("22023", format!("unsupported format code: {format}")));
                }
                bounded(self.portals.len())?;
                self.portals.insert(portal.into_owned(), Portal { command, formats, rows: None });
                message::put_empty(&mut self.out, b'2');
            }
            Message::DescribeStatement(name) => {
                let columns = columns(self.statement(&name)?);
                // No parameters.
                put_message(&mut self.out, b't', |body| body.put_u16(0));
                describe(&mut self.out, columns, &[]);
            }
            Message::DescribePortal(name) => {
                let portal = self.portals.get(&*name).ok_or_else(|| no_portal(&name))?;
                describe(&mut self.out, columns(&portal.command), &portal.formats);
            }
            Message::Execute { portal: name, max_rows } => {
                let mut portal = self.portals.remove(&*name).ok_or_else(|| no_portal(&name))?;
                let mut rows = portal.rows.take().unwrap_or_else(|| self.rows(&portal.command).into());
                for row in rows.drain(..max_rows.min(rows.len())) {
                    message::put_row(&mut self.out, &row, &portal.formats);
                }
                if rows.is_empty() {
                    self.complete(&portal.command);
                } else {
                    message::put_empty(&mut self.out, b's');
                }
                portal.rows = Some(rows);
                self.portals.insert(name.into_owned(), portal);
            }
            Message::CloseStatement(name) => {
                self.statements.remove(&*name);
                message::put_empty(&mut self.out, b'3');
            }
            Message::ClosePortal(name) => {
                self.portals.remove(&*name);
                message::put_empty(&mut self.out, b'3');
            }
            // Answered where it is received.
            Message::Query(_) | Message::Flush | Message::Sync | Message::Terminate | Message::Other(_) => {}
        }
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<&Command, ErrorFields<'static>> {
        let missing = || error("26000", format!("prepared statement \"{name}\" does not exist"));
        self.statements.get(name).ok_or_else(missing)
    }

    fn rows(&self, command: &Command) -> Vec<Row> {
        match command {
            Command::Show(show) => show.rows(self.console),
            Command::Describe(columns) => {
                let row = |(name, kind): &(String, String)| vec![Value::from(name.as_str()), kind.as_str().into()];
                columns.iter().map(row).collect()
            }
            Command::Set | Command::Empty => Vec::new(),
        }
    }

    fn complete(&mut self, command: &Command) {
        match command {
            Command::Show(_) => message::put_text(&mut self.out, b'C', "SHOW"),
            Command::Set => message::put_text(&mut self.out, b'C', "SET"),
            Command::Describe(columns) => message::put_text(&mut self.out, b'C', &format!("SELECT {}", columns.len())),
            Command::Empty => message::put_empty(&mut self.out, b'I'),
        }
    }

    /// The next message, `None` at the client's end. Cancel-safe.
    async fn receive(&mut self) -> Result<Option<(u8, BytesMut)>, End> {
        loop {
            if let Some(&[tag, a, b, c, d]) = self.incoming.first_chunk() {
                let len = u32::from_be_bytes([a, b, c, d]) as usize;
                if !(4..=MAX_MESSAGE).contains(&len) {
                    return Err(ErrorFields::fatal("08P01", format!("invalid message length: {len}")).into());
                }
                if self.incoming.len() > len {
                    let mut message = self.incoming.split_to(1 + len);
                    message.advance(5);
                    return Ok(Some((tag, message)));
                }
            }
            match self.stream.read_buf(&mut self.incoming).await? {
                0 => return Ok(None),
                len => self.session.received.fetch_add(len as u64, Ordering::Relaxed),
            };
        }
    }

    /// Sends what was answered so far. Cancel-safe.
    async fn send(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let len = self.stream.write_buf(&mut self.out).await?;
            if len == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.session.sent.fetch_add(len as u64, Ordering::Relaxed);
        }
        self.stream.flush().await
    }
}

/// The columns that a command answers with, if it has rows.
fn columns(command: &Command) -> Option<&'static [Column]> {
    match command {
        Command::Show(show) => Some(show.columns()),
        Command::Describe(_) => Some(DESCRIBE),
        Command::Set | Command::Empty => None,
    }
}

fn describe(out: &mut BytesMut, columns: Option<&[Column]>, formats: &[i16]) {
    match columns {
        Some(columns) => message::put_columns(out, columns, formats),
        None => message::put_empty(out, b'n'),
    }
}

fn no_portal(name: &str) -> ErrorFields<'static> {
    error("34000", format!("portal \"{name}\" does not exist"))
}

fn bounded(objects: usize) -> Answer {
    if objects < MAX_OBJECTS {
        return Ok(());
    }
    Err(error("54000", format!("the console keeps {MAX_OBJECTS} prepared statements and portals for a client")))
}

/// The client's first SCRAM message in a SASLInitialResponse; a mechanism that was not offered has none.
fn initial_response(body: &[u8]) -> Result<&[u8], ()> {
    let mut cursor = Cursor::new(body);
    let mechanism = cursor.cstr("SASL mechanism").map_err(drop)?;
    if mechanism != scram::MECHANISM.as_bytes() {
        return Err(());
    }
    let len = cursor.i32("SASL response length").ok().and_then(|len| usize::try_from(len).ok()).ok_or(())?;
    cursor.take(len, "SASL response").map_err(drop)
}

#[cfg(test)]
mod tests {
    use super::asks_password;

    #[test]
    fn clients_from_elsewhere_need_an_auth_file_and_with_one_everybody_logs_in() {
        assert_eq!(asks_password(true, false), Some(false));
        assert_eq!(asks_password(false, false), None);
        assert_eq!(asks_password(true, true), Some(true));
        assert_eq!(asks_password(false, true), Some(true));
    }
}
