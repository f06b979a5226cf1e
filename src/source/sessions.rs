//! The sessions of a source: who is connected, and how much was relayed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::watched::lock;
use crate::ident::SlotName;
use crate::time::PgTimestamp;
use crate::wire::startup::{SessionKind, StartupMessage};

/// One client, from its start-up packet to its end.
#[derive(Debug)]
pub struct Session {
    /// What tells it from every other session of the source.
    pub id: u64,
    /// `sql`, `logical`, `physical` or `console`.
    pub kind: &'static str,
    /// The role that the client named.
    pub user: Box<str>,
    /// The database that it named, else its role's name.
    pub database: Box<str>,
    /// What it calls itself.
    pub application_name: Option<Box<str>>,
    /// Where it comes from.
    pub client: Box<str>,
    /// When it began.
    pub started: PgTimestamp,
    /// The server's host, once it is connected.
    pub server: OnceLock<Box<str>>,
    /// The slot that it streams.
    slot: Mutex<Option<SlotName>>,
    /// Bytes that came from the client and were passed on.
    pub received: AtomicU64,
    /// Bytes that were sent to it.
    pub sent: AtomicU64,
}

/// The longest name that is kept, in bytes: `NAMEDATALEN` less one, where PostgreSQL cuts names too.
const MAX_NAME: usize = 63;

/// What a client said of itself in its start-up packet, with what is not UTF-8 replaced, cut to 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The role.
    pub user: Box<str>,
    /// The database: the role's name, where none was given.
    pub database: Box<str>,
    /// What the client calls itself.
    pub application_name: Option<Box<str>>,
}

impl Introduction {
    /// Reads it from the start-up packet.
    pub fn of(message: &StartupMessage<'_>) -> Introduction {
        let text = |name| {
            let value = message.parameter(name).filter(|value| !value.is_empty())?;
            let text = String::from_utf8_lossy(value);
            Some(Box::<str>::from(&text[..text.floor_char_boundary(MAX_NAME)]))
        };
        let user = text("user").unwrap_or_default();
        let database = text("database").unwrap_or_else(|| user.clone());
        Introduction { user, database, application_name: text("application_name") }
    }
}

impl Session {
    /// The slot that it streams now.
    pub fn slot(&self) -> Option<SlotName> {
        lock(&self.slot).clone()
    }

    /// It begins to stream a slot, or ends it.
    pub fn set_slot(&self, slot: Option<SlotName>) {
        *lock(&self.slot) = slot;
    }
}

/// All sessions of one source.
#[derive(Debug, Default)]
pub struct Sessions {
    next: AtomicU64,
    live: Mutex<BTreeMap<u64, Arc<Session>>>,
}

impl Sessions {
    /// A client's session begins, and is listed until the guard is dropped.
    pub fn begin(&self, kind: &'static str, who: Introduction, client: &dyn fmt::Display) -> SessionGuard<'_> {
        let session = Arc::new(Session {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            kind,
            user: who.user,
            database: who.database,
            application_name: who.application_name,
            client: client.to_string().into(),
            started: PgTimestamp::now(),
            server: OnceLock::new(),
            slot: Mutex::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        lock(&self.live).insert(session.id, Arc::clone(&session));
        SessionGuard { sessions: self, session }
    }

    /// Those that there are, the oldest first.
    pub fn list(&self) -> Vec<Arc<Session>> {
        lock(&self.live).values().cloned().collect()
    }

    /// How many there are of each kind.
    pub fn counts(&self) -> [(&'static str, u64); 4] {
        let mut counts = [("console", 0), ("logical", 0), ("physical", 0), ("sql", 0)];
        for session in lock(&self.live).values() {
            for (_, count) in counts.iter_mut().filter(|(kind, _)| *kind == session.kind) {
                *count += 1;
            }
        }
        counts
    }
}

/// The label of a session that is relayed.
pub fn relayed(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Sql => "sql",
        SessionKind::Logical => "logical",
        SessionKind::Physical => "physical",
    }
}

/// A session that is listed while this lives.
#[derive(Debug)]
pub struct SessionGuard<'a> {
    sessions: &'a Sessions,
    /// The session itself.
    pub session: Arc<Session>,
}

impl Drop for SessionGuard<'_> {
    fn drop(&mut self) {
        lock(&self.sessions.live).remove(&self.session.id);
    }
}
