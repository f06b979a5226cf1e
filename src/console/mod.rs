//! The console: walgate's own database on a proxy's address, for psql and every other client, as PgBouncer has one.
//!
//! `message` is the protocol, `session` what a client does with it, `command` the language, `show` the tables and
//! `table` their types. It reads the models that the HTTP side reads, asks no server, and changes nothing.
//!
//! Clients on this machine need no password. Others are let in only where an `auth_file` lists users; then those on
//! this machine log in as well.

mod command;
mod message;
mod session;
mod show;
mod table;

use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Config;
use crate::http::View;
use crate::ident::SlotName;
use crate::scram::Users;

/// The console of a daemon, shared by its proxies. It answers for no database until it is configured.
pub struct Console {
    view: Arc<View>,
    setup: RwLock<Setup>,
}

/// What a reload may change.
#[derive(Clone, Default)]
struct Setup {
    database: Option<String>,
    users: Option<Arc<Users>>,
    /// What `SHOW CONFIG` answers.
    settings: Vec<(String, String)>,
}

impl Console {
    /// A console that shows this.
    pub fn new(view: Arc<View>) -> Console {
        Console { view, setup: RwLock::default() }
    }

    /// Takes a configuration. Clients that are connected stay.
    pub fn configure(&self, config: &Config) {
        let setup = Setup {
            database: config.console.database.clone(),
            users: config.console.users.clone(),
            settings: settings(config),
        };
        *self.setup.write().unwrap_or_else(PoisonError::into_inner) = setup;
    }

    /// Whether this is the database that clients name for it.
    pub fn answers_for(&self, database: &str) -> bool {
        self.setup().database.as_deref() == Some(database)
    }

    fn setup(&self) -> Setup {
        self.setup.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The configuration as keys and values, without its secrets. A connection string prints without its password.
fn settings(config: &Config) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            settings.push((key.to_owned(), value));
        }
    };
    let http = config.http.as_ref();
    add("http.listen", Some(http.map_or_else(|| "off".into(), |http| http.listen.to_string())));
    add("http.token", http.and_then(|http| http.token.as_ref()).map(ToString::to_string));
    add("console.database", Some(config.console.database.clone().unwrap_or_else(|| "off".into())));
    add("console.auth_file", config.console.auth_file.as_ref().map(|file| file.display().to_string()));
    add("webhook.url", config.webhook.as_ref().map(|url| format!("*** of {}", url.host())));
    add("drain_timeout", Some(humantime::format_duration(config.drain_timeout).to_string()));
    for source in &config.sources {
        let dsn = source.connector.dsn();
        let rule_sets: Vec<&str> = source.rule_sets.iter().map(|rule_set| rule_set.as_str()).collect();
        let password = dsn.hosts().iter().find_map(|host| host.password.as_ref());
        for (key, value) in [
            ("dsn", Some(dsn.to_string())),
            ("password", password.map(ToString::to_string)),
            ("listen", source.listen.as_ref().map(ToString::to_string)),
            ("observe", Some(source.observe.as_str().to_owned())),
            ("passive", Some(source.passive.to_string())),
            ("guard", Some(source.guard.as_str().to_owned())),
            ("for", Some(rule_sets.join(", ")).filter(|names| !names.is_empty())),
            ("max_sessions", Some(source.limits.sessions.to_string())),
            ("stale_after", Some(humantime::format_duration(source.stale_after).to_string())),
        ] {
            add(&format!("source.{}.{key}", source.name), value);
        }
    }
    for gate in &config.gates {
        let (terms, limits) = (&gate.terms, &gate.terms.limits);
        let slots = |slots: &[SlotName]| slots.iter().map(SlotName::as_str).collect::<Vec<_>>().join(", ");
        let names = terms.accept_unreplicated.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let duration = |duration| Some(humantime::format_duration(duration).to_string());
        for (key, value) in [
            ("source", Some(terms.source.clone())),
            ("consumers", Some(slots(&terms.consumers))),
            ("max_lag", Some(limits.lag.to_string())),
            ("max_age", duration(limits.age)),
            ("settle", duration(limits.settle)),
            ("max_staleness", duration(limits.staleness)),
            ("max_transaction_age", duration(limits.transaction)),
            ("min_safe_wal", Some(limits.headroom.to_string())),
            ("accept_unreplicated", Some(names).filter(|names| !names.is_empty())),
            ("accept_stopped_source", Some(terms.accept_stopped_source.to_string())),
            ("barrier", Some(gate.barrier.to_string())),
            ("data", Some(terms.data.to_string())),
            ("receipt_ttl", duration(gate.receipt.ttl)),
            ("receipt_key", gate.receipt.key.as_ref().map(|key| format!("{key:?}"))),
            ("target.kind", Some(terms.kind.to_string())),
            ("target.dsn", gate.target.as_ref().map(|target| target.dsn().to_string())),
            ("target.statz_url", gate.statz.as_ref().map(|statz| format!("*** of {}", statz.url.host()))),
            ("reverse.consumers", terms.reverse.as_ref().map(|reverse| slots(&reverse.consumers))),
        ] {
            add(&format!("gate.{}.{key}", terms.name), value);
        }
    }
    settings
}
