//! Logging in: the start-up packet, the authentication exchange, and what the server says of itself before it is ready.
//!
//! SQL and replication sessions log in through here, so that `require_auth`, `channel_binding` and
//! `target_session_attrs` hold for both and their errors read the same.

use bytes::{BufMut as _, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as ScramBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;

use super::channel::Channel;
use super::connect::{Connected, Connector};
use super::dsn::{AuthMethod, ChannelBinding, Dsn, Host, TargetSessionAttrs};
use super::error::{ConnectError, Failure};
use super::query::simple_query;
use crate::wire::Cursor;
use crate::wire::backend::Authentication;
use crate::wire::startup::SessionKind;

/// The longest message accepted before the login is done; libpq's own limit is 30,000 bytes.
const MAX_BODY: usize = 64 * 1024;

const LOGGING_IN: &str = "logging in";

/// A session that is ready for its first query.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) channel: Channel,
    pub(super) host: Host,
    /// What the server reported of its settings.
    pub(super) parameters: Vec<(String, String)>,
    /// The messages from AuthenticationOk to ReadyForQuery, as they came.
    pub(super) greeting: BytesMut,
    /// The backend's process id, where it told.
    pub(super) pid: Option<u32>,
}

impl Session {
    /// A setting that the server reported at login.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Connector {
    /// Logs in to the first host that lets in and is of the kind that `target_session_attrs` asks for.
    pub(super) async fn log_in(&self, kind: SessionKind) -> Result<Session, ConnectError> {
        self.log_in_at(&self.hosts_in_order(), kind).await
    }

    /// The same with one of these hosts.
    pub(super) async fn log_in_at(&self, hosts: &[&Host], kind: SessionKind) -> Result<Session, ConnectError> {
        let wanted = self.dsn().target_session_attrs;
        let first = match wanted {
            TargetSessionAttrs::PreferStandby => TargetSessionAttrs::Standby,
            wanted => wanted,
        };
        let found = self.attempt(hosts, |connected| log_in_if(connected, self.dsn(), kind, first)).await;
        match found {
            Err(_) if wanted == TargetSessionAttrs::PreferStandby => {
                let any = TargetSessionAttrs::Any;
                self.attempt(hosts, |connected| log_in_if(connected, self.dsn(), kind, any)).await
            }
            found => found,
        }
    }
}

async fn log_in_if(
    connected: Connected,
    dsn: &Dsn,
    kind: SessionKind,
    wanted: TargetSessionAttrs,
) -> Result<Session, Failure> {
    let mut session = log_in(connected, dsn, kind).await?;
    match rules_out(&mut session, wanted).await? {
        None => Ok(session),
        Some(what) => Err(Failure::SessionAttrs(what)),
    }
}

async fn log_in(connected: Connected, dsn: &Dsn, kind: SessionKind) -> Result<Session, Failure> {
    let Connected { stream, host, .. } = connected;
    let user = dsn.login_user().ok_or_else(|| Failure::Auth("no user is given; set user or PGUSER".into()))?;
    let binding = stream.channel_binding();
    let encrypted = stream.is_encrypted();
    let mut channel = Channel::new(stream, MAX_BODY);

    let mut parameters = vec![("user", user), ("client_encoding", "UTF8"), ("application_name", &dsn.application_name)];
    match kind {
        SessionKind::Physical => parameters.push(("replication", "true")),
        SessionKind::Logical => parameters.push(("replication", "database")),
        SessionKind::Sql => {}
    }
    if kind != SessionKind::Physical {
        parameters.extend(dsn.login_database().map(|database| ("database", database)));
    }
    // What the apply worker sets (libpqwalreceiver.c), so that text values do not vary with the server's settings. As
    // options, not as parameters of their own: poolers know these from subscribers.
    const PLAIN_TEXT: &str = "-c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=3";
    let options = match (kind, &dsn.options) {
        (SessionKind::Logical, Some(options)) => Some(format!("{options} {PLAIN_TEXT}")),
        (SessionKind::Logical, None) => Some(PLAIN_TEXT.to_owned()),
        (_, options) => options.clone(),
    };
    parameters.extend(options.as_deref().map(|options| ("options", options)));
    frontend::startup_message(parameters, channel.outgoing()).map_err(zero_byte)?;

    Exchange { channel: &mut channel, dsn, host: &host, user, binding, encrypted }.run().await?;

    let mut session = Session { channel, host, parameters: Vec::new(), greeting: BytesMut::new(), pid: None };
    session.greeting.put_slice(&[b'R', 0, 0, 0, 8, 0, 0, 0, 0]);
    loop {
        let message = session.channel.receive(LOGGING_IN).await?;
        let mut body = Cursor::new(message.body);
        match message.tag {
            b'S' => {
                let name = String::from_utf8_lossy(body.cstr("parameter name")?).into_owned();
                let value = String::from_utf8_lossy(body.cstr("parameter value")?).into_owned();
                session.parameters.push((name, value));
                session.greeting.put_slice(message.frame);
            }
            b'K' => {
                session.pid = Some(body.u32("backend process id")?);
                session.greeting.put_slice(message.frame);
            }
            b'Z' => {
                session.greeting.put_slice(message.frame);
                session.channel.allow_any_length();
                return Ok(session);
            }
            b'N' | b'v' => {}
            b'E' => return Err(message.error()),
            _ => return Err(message.unexpected(LOGGING_IN)),
        }
    }
}

/// What an authentication exchange needs to know.
struct Exchange<'a> {
    channel: &'a mut Channel,
    dsn: &'a Dsn,
    host: &'a Host,
    user: &'a str,
    /// The data that binds to the TLS channel.
    binding: Option<Vec<u8>>,
    encrypted: bool,
}

impl<'a> Exchange<'a> {
    /// Answers the server until it says AuthenticationOk.
    async fn run(mut self) -> Result<(), Failure> {
        let message = loop {
            let message = self.channel.receive(LOGGING_IN).await?;
            match message.tag {
                // NoticeResponse and NegotiateProtocolVersion: the server may say so first.
                b'N' | b'v' => {}
                b'E' => return Err(message.error()),
                b'R' => break message.body.to_vec(),
                _ => return Err(message.unexpected(LOGGING_IN)),
            }
        };
        match Authentication::parse(&message)? {
            Authentication::Ok => return self.permit(AuthMethod::None, false),
            Authentication::CleartextPassword => {
                self.permit(AuthMethod::Password, false)?;
                let password = self.password()?.as_bytes();
                frontend::password_message(password, self.channel.outgoing()).map_err(zero_byte)?;
            }
            Authentication::Md5Password(salt) => {
                self.permit(AuthMethod::Md5, false)?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), self.channel.outgoing()).map_err(zero_byte)?;
            }
            Authentication::Sasl(mechanisms) => self.scram(&mechanisms).await?,
            Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
                return Err(Failure::Protocol { during: LOGGING_IN, problem: "SASL out of order".into() });
            }
            Authentication::Other(code) => {
                return Err(Failure::Auth(format!(
                    "the server asks for an authentication method that walgate does not speak (code {code}: GSSAPI, SSPI \
                     or newer); allow scram-sha-256 or cert for this role in its pg_hba.conf"
                )));
            }
        }
        match self.request().await?.as_deref().map(Authentication::parse).transpose()? {
            Some(Authentication::Ok) => Ok(()),
            _ => Err(Failure::Protocol { during: LOGGING_IN, problem: "not AuthenticationOk".into() }),
        }
    }

    /// The next authentication request; `None` for a message that is none.
    async fn request(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let message = self.channel.receive(LOGGING_IN).await?;
            match message.tag {
                b'N' => {}
                b'E' => return Err(message.error()),
                b'R' => return Ok(Some(message.body.to_vec())),
                _ => return Ok(None),
            }
        }
    }

    async fn scram(&mut self, offered: &[&[u8]]) -> Result<(), Failure> {
        let offers = |mechanism: &str| offered.contains(&mechanism.as_bytes());
        let bindable = self.encrypted && self.dsn.channel_binding != ChannelBinding::Disable;
        let (mechanism, binding) = match self.binding.take().filter(|_| bindable) {
            Some(data) if offers(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ScramBinding::tls_server_end_point(data)),
            // "I could bind, and you did not offer it": the server notices if somebody took the offer away.
            Some(_) => (SCRAM_SHA_256, ScramBinding::unrequested()),
            None if offers(SCRAM_SHA_256_PLUS) && !self.encrypted => {
                return Err(Failure::Auth(
                    "the server offers channel binding over a connection that is not encrypted; something between may \
                     be forwarding its messages"
                        .into(),
                ));
            }
            None => (SCRAM_SHA_256, ScramBinding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(Failure::Auth("the server offers no SASL mechanism but ones unknown to walgate".into()));
        }
        self.permit(AuthMethod::ScramSha256, mechanism == SCRAM_SHA_256_PLUS)?;

        let refused = |problem: String| Failure::Auth(format!("SCRAM: {problem}"));
        let mut scram = ScramSha256::new(self.password()?.as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), self.channel.outgoing()).map_err(zero_byte)?;
        let out_of_order = || Failure::Protocol { during: LOGGING_IN, problem: "SASL out of order".into() };
        match self.request().await?.as_deref().map(Authentication::parse).transpose()? {
            Some(Authentication::SaslContinue(data)) => {
                scram.update(data).map_err(|error| refused(error.to_string()))?
            }
            _ => return Err(out_of_order()),
        }
        frontend::sasl_response(scram.message(), self.channel.outgoing()).map_err(zero_byte)?;
        match self.request().await?.as_deref().map(Authentication::parse).transpose()? {
            // Shows that the server knows the password's verifier, too.
            Some(Authentication::SaslFinal(data)) => scram.finish(data).map_err(|error| refused(error.to_string())),
            _ => Err(out_of_order()),
        }
    }

    /// Checks a method against `require_auth` and `channel_binding` before anything secret is sent.
    fn permit(&self, method: AuthMethod, bound: bool) -> Result<(), Failure> {
        if self.dsn.require_auth.as_ref().is_some_and(|allowed| !allowed.contains(&method)) {
            let asked = match method {
                AuthMethod::Password => "the password in clear",
                AuthMethod::Md5 => "an md5 hash",
                AuthMethod::ScramSha256 => "scram-sha-256",
                AuthMethod::None => "no authentication",
                AuthMethod::Other => "another method",
            };
            return Err(Failure::Auth(format!("the server asks for {asked}, which require_auth does not allow")));
        }
        if self.dsn.channel_binding == ChannelBinding::Require && !bound {
            return Err(Failure::Auth(
                "channel_binding=require, and the server offers no login that binds to the TLS channel; it takes TLS, \
                 scram-sha-256 in pg_hba.conf and a certificate with an RSA or ECDSA signature"
                    .into(),
            ));
        }
        Ok(())
    }

    fn password(&self) -> Result<&'a str, Failure> {
        self.host.password.as_ref().map(|password| password.expose()).ok_or_else(|| {
            Failure::Auth(format!(
                "the server asks for a password of \"{}\" and none is known; set PGPASSWORD, or add a line for {} to ~/.pgpass",
                self.user, self.host
            ))
        })
    }
}

/// The only thing that cannot be put into a message.
fn zero_byte(_: std::io::Error) -> Failure {
    Failure::Auth("a user, password, database or option contains a zero byte".into())
}

/// Why a server does not meet `target_session_attrs`; `None` if it does. PostgreSQL 14 and later report what it takes at
/// login; a pooler between may not pass that on, and then the server is asked.
async fn rules_out(session: &mut Session, wanted: TargetSessionAttrs) -> Result<Option<&'static str>, Failure> {
    if matches!(wanted, TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby) {
        return Ok(None);
    }
    let reported = |name| session.parameter(name).map(|value| value == "on");
    let (in_recovery, read_only) = (reported("in_hot_standby"), reported("default_transaction_read_only"));
    let in_recovery = match in_recovery {
        Some(in_recovery) => in_recovery,
        None => ask(session, "SELECT pg_catalog.pg_is_in_recovery()").await? == "t",
    };
    let read_only = match wanted {
        TargetSessionAttrs::ReadWrite | TargetSessionAttrs::ReadOnly => match read_only {
            Some(read_only) => in_recovery || read_only,
            None => ask(session, "SHOW transaction_read_only").await? == "on",
        },
        _ => in_recovery,
    };
    Ok(match wanted {
        TargetSessionAttrs::ReadWrite if read_only => Some("read-only"),
        TargetSessionAttrs::ReadOnly if !read_only => Some("writable"),
        TargetSessionAttrs::Primary if in_recovery => Some("a standby"),
        TargetSessionAttrs::Standby if !in_recovery => Some("a primary"),
        _ => None,
    })
}

async fn ask(session: &mut Session, sql: &str) -> Result<String, Failure> {
    let rows = simple_query(&mut session.channel, sql, "checking target_session_attrs").await?;
    Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
}
