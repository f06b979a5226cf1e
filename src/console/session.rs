//! One client of the console, from behind its start-up packet to its end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
    TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey};
use pgwire::messages::{PgWireFrontendMessage as Request, ProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Console;
use super::command::{Command, error, parse, parse_all};
use super::message::{self, put};
use super::table::{Column, Kind, Row, Value};
use crate::scram::{self, ScramError, Users};
use crate::source::{Session, Stream};
use crate::wire::Cursor;
use crate::wire::backend::ErrorFields;
use crate::wire::startup::StartupMessage;

/// The longest message that is read: commands are short.
const MAX_MESSAGE: usize = 64 * 1024;

/// Answers are sent when this much of them waits.
const SEND_AT: usize = 64 * 1024;

/// Prepared statements, and portals, that a client may have.
const MAX_OBJECTS: usize = 1000;

/// How long a login may take, as with PostgreSQL's `authentication_timeout`.
const LOGIN: Duration = Duration::from_secs(60);

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
    /// By name, as are the portals; the unnamed one has none.
    statements: HashMap<Option<String>, Command>,
    portals: HashMap<Option<String>, Portal>,
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
        let names = startup.parameters.iter().map(|&(name, _)| name);
        let unknown: Vec<String> =
            names.filter(|name| name.starts_with(b"_pq_.")).map(|name| String::from_utf8_lossy(name).into()).collect();
        let newest = ProtocolVersion::PROTOCOL3_2;
        if startup.minor > newest.version_number().1 || !unknown.is_empty() {
            put(&mut self.out, NegotiateProtocolVersion::new(newest.into(), unknown));
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
        put(&mut self.out, Authentication::Ok);
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
            put(&mut self.out, ParameterStatus::new(name.to_owned(), value.to_owned()));
        }
        // No query here runs long enough to be cancelled; clients want a key all the same.
        put(&mut self.out, BackendKeyData::new(self.session.id as i32, SecretKey::default()));
        Ok(self.ready().await?)
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
        put(&mut self.out, Authentication::SASL(vec![scram::MECHANISM.to_owned()]));
        let body = self.password_message().await?;
        let malformed = |_| ErrorFields::fatal("08P01", "malformed SASLInitialResponse");
        let client_first = initial_response(&body).map_err(malformed)?;
        let exchange = users.begin(&user, client_first).map_err(|error| failed(error, &user))?;
        put(&mut self.out, Authentication::SASLContinue(exchange.server_first().to_owned().into()));
        let body = self.password_message().await?;
        let server_final = exchange.finish(&body).map_err(|error| failed(error, &user))?;
        put(&mut self.out, Authentication::SASLFinal(server_final.into()));
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
            let malformed = |error| ErrorFields::fatal("08P01", format!("malformed message: {error}"));
            match message::parse(tag, &body).map_err(malformed)? {
                Some(Request::Terminate(_)) => return Ok(()),
                Some(Request::Sync(_)) => {
                    skipping = false;
                    // There is no transaction that would keep them.
                    self.portals.clear();
                    self.ready().await?;
                }
                _ if skipping => {}
                Some(Request::Query(query)) => {
                    if let Err(error) = self.query(&query.query).await? {
                        error.encode(&mut self.out);
                    }
                    self.ready().await?;
                }
                Some(Request::Flush(_)) => self.send().await?,
                None => {
                    let text = format!("the console has no use for messages of type {:?}", char::from(tag));
                    return Err(ErrorFields::fatal("08P01", text).into());
                }
                Some(request) => {
                    if let Err(error) = self.extended(request) {
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
            put(&mut self.out, EmptyQueryResponse::new());
        }
        for statement in statements {
            let command = match statement {
                Ok(command) => command,
                Err(error) => return Ok(Err(error)),
            };
            let rows = match self.rows(&command) {
                Ok(rows) => rows,
                Err(error) => return Ok(Err(error)),
            };
            if let Some(columns) = columns(&command) {
                put(&mut self.out, message::description(columns, &[]));
            }
            for row in rows {
                put(&mut self.out, message::row(&row, &[]));
                if self.out.len() >= SEND_AT {
                    self.send().await?;
                }
            }
            self.complete(&command);
        }
        Ok(Ok(()))
    }

    /// The extended protocol.
    fn extended(&mut self, request: Request) -> Answer {
        match request {
            Request::Parse(Parse { name, query, .. }) => {
                if let (Some(name), true) = (&name, self.statements.contains_key(&name)) {
                    return Err(error("42P05", format!("prepared statement \"{name}\" already exists")));
                }
                let command = parse(&query)?;
                bounded(self.statements.len())?;
                self.statements.insert(name, command);
                put(&mut self.out, ParseComplete::new());
            }
            Request::Bind(bind) => {
                let Bind { portal_name, statement_name, parameters, result_column_format_codes: formats, .. } = bind;
                let command = self.statement(statement_name)?.clone();
                let width = columns(&command).map_or(0, <[Column]>::len);
                if !parameters.is_empty() {
                    let text = format!("{} parameters were given, and none is taken", parameters.len());
                    return Err(error("08P01", text));
                }
                if formats.len() > 1 && formats.len() != width {
                    return Err(error("08P01", format!("{} formats were given for {width} columns", formats.len())));
                }
                if let Some(format) = formats.iter().find(|format| !matches!(format, 0 | 1)) {
                    return Err(error("22023", format!("unsupported format code: {format}")));
                }
                bounded(self.portals.len())?;
                self.portals.insert(portal_name, Portal { command, formats, rows: None });
                put(&mut self.out, BindComplete::new());
            }
            Request::Describe(Describe { target_type: TARGET_TYPE_BYTE_STATEMENT, name, .. }) => {
                let columns = columns(self.statement(name)?);
                put(&mut self.out, ParameterDescription::default());
                describe(&mut self.out, columns, &[]);
            }
            Request::Describe(Describe { name, .. }) => {
                let portal = self.portals.get(&name).ok_or_else(|| missing("34000", "portal", name))?;
                describe(&mut self.out, columns(&portal.command), &portal.formats);
            }
            Request::Execute(Execute { name, max_rows, .. }) => {
                let Some(mut portal) = self.portals.remove(&name) else {
                    return Err(missing("34000", "portal", name));
                };
                let mut rows = match portal.rows.take() {
                    Some(rows) => rows,
                    None => self.rows(&portal.command)?.into(),
                };
                // 0 is no limit.
                let max_rows = usize::try_from(max_rows).ok().filter(|&max| max > 0).unwrap_or(usize::MAX);
                for row in rows.drain(..max_rows.min(rows.len())) {
                    put(&mut self.out, message::row(&row, &portal.formats));
                }
                if rows.is_empty() {
                    self.complete(&portal.command);
                } else {
                    put(&mut self.out, PortalSuspended::new());
                }
                portal.rows = Some(rows);
                self.portals.insert(name, portal);
            }
            Request::Close(Close { target_type, name, .. }) => {
                if target_type == TARGET_TYPE_BYTE_STATEMENT {
                    self.statements.remove(&name);
                } else {
                    self.portals.remove(&name);
                }
                put(&mut self.out, CloseComplete::new());
            }
            // Answered where they are received, or never parsed.
            _ => {}
        }
        Ok(())
    }

    fn statement(&self, name: Option<String>) -> Result<&Command, ErrorFields<'static>> {
        self.statements.get(&name).ok_or_else(|| missing("26000", "prepared statement", name))
    }

    fn rows(&self, command: &Command) -> Result<Vec<Row>, ErrorFields<'static>> {
        Ok(match command {
            // PostgreSQL's "object_not_in_prerequisite_state".
            Command::Show(show) => show.rows(self.console).map_err(|why| error("55000", why.to_string()))?,
            Command::Describe(columns) => {
                let row = |(name, kind): &(String, String)| vec![Value::from(name.as_str()), kind.as_str().into()];
                columns.iter().map(row).collect()
            }
            Command::Set | Command::Empty => Vec::new(),
        })
    }

    fn complete(&mut self, command: &Command) {
        let tag = match command {
            Command::Show(_) => "SHOW".to_owned(),
            Command::Set => "SET".to_owned(),
            Command::Describe(columns) => format!("SELECT {}", columns.len()),
            Command::Empty => return put(&mut self.out, EmptyQueryResponse::new()),
        };
        put(&mut self.out, CommandComplete::new(tag));
    }

    /// Ends an answer, outside of a transaction: there are none.
    async fn ready(&mut self) -> io::Result<()> {
        put(&mut self.out, ReadyForQuery::new(TransactionStatus::Idle));
        self.send().await
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
        Some(columns) => put(out, message::description(columns, formats)),
        None => put(out, NoData::new()),
    }
}

fn missing(code: &'static str, what: &str, name: Option<String>) -> ErrorFields<'static> {
    error(code, format!("{what} \"{}\" does not exist", name.unwrap_or_default()))
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
