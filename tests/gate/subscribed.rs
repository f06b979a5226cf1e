//! The usual story: a database `blue`, a native subscription on `green`, and the gate between them.

use crate::scene::{Gate, Pair, Way, dsn};
use crate::support::{Sql, eventually};

/// A subscription, its slot and its two databases, all of one name.
pub(crate) struct Subscribed {
    /// The connection string of the source's database.
    pub(crate) source: String,
    /// That of the target's.
    pub(crate) target: String,
    pub(crate) name: String,
    pub(crate) blue: Sql,
    pub(crate) green: Sql,
    pub(crate) gate: Gate,
}

impl Subscribed {
    /// Everything set up, and the table copied.
    #[track_caller]
    pub(crate) fn start(pair: &Pair, name: &str, way: Way) -> Subscribed {
        Subscribed::with(pair, name, way, "", |_, _| {})
    }

    /// The same with more lines in `[[gate]]`, and with something done to both databases before.
    #[track_caller]
    pub(crate) fn with(pair: &Pair, name: &str, way: Way, more: &str, prepare: impl FnOnce(&Sql, &Sql)) -> Subscribed {
        let (blue, green) = pair.databases(name);
        prepare(&blue, &green);
        let target = format!("{more}\n[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"", dsn(&pair.target, name));
        let (source, to_target) = (pair.source.dsn(name), pair.target.dsn(name));
        green.run(&format!("CREATE SUBSCRIPTION {name} CONNECTION '{source}' PUBLICATION everything"));
        copied(&green);
        let gate = Gate::start(&dsn(&pair.source, name), way, &[name], &target);
        let subscribed = Subscribed { source, target: to_target, name: name.to_owned(), blue, green, gate };
        if way == Way::Proxy {
            let proxied = pair.source.dsn_via(subscribed.gate.walgate.port(), name);
            subscribed.alter(&format!("CONNECTION '{proxied}'"));
            let walgate = &subscribed.gate.walgate;
            walgate.lag_until(name, "its stream to pass", |report| report["observe"] == "proxy");
        }
        subscribed
    }

    /// Waits until every table is copied.
    #[track_caller]
    pub(crate) fn ready(&self) {
        copied(&self.green);
    }

    /// Writes one order on the source, and returns its number.
    #[track_caller]
    pub(crate) fn order(&self) -> String {
        self.blue.value("INSERT INTO orders SELECT max(id) + 1, 'next' FROM orders RETURNING id")
    }

    /// Waits until the target has as many orders as the source.
    #[track_caller]
    pub(crate) fn arrived(&self) {
        let orders = self.blue.value("SELECT count(*) FROM orders");
        self.green.until("SELECT count(*) FROM orders", &orders);
    }

    /// Alters the subscription.
    #[track_caller]
    pub(crate) fn alter(&self, what: &str) {
        self.green.run(&format!("ALTER SUBSCRIPTION {} {what}", self.name));
    }

    /// A session with the source that calls itself something.
    #[track_caller]
    pub(crate) fn application(&self, name: &str) -> Sql {
        session_of(&self.source, name)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // The next story on these servers is not to be disturbed. What has been ended already needs no end.
        let name = &self.name;
        for statement in ["DISABLE", "SET (slot_name = NONE)"] {
            let _ = self.green.try_rows(&format!("ALTER SUBSCRIPTION {name} {statement}"));
        }
        let _ = self.green.try_rows(&format!("DROP SUBSCRIPTION IF EXISTS {name}"));
        let held = "pg_replication_slots WHERE database = current_database() AND NOT temporary";
        let _ = self.blue.try_rows(&format!("SELECT pg_terminate_backend(active_pid) FROM {held} AND active"));
        eventually("the slot to be dropped", || {
            match self.blue.try_rows(&format!("SELECT pg_drop_replication_slot(slot_name) FROM {held}")) {
                Err(error) if !error.is_closed() => Err(error),
                _ => Ok(()),
            }
        });
    }
}

#[track_caller]
fn copied(target: &Sql) {
    target.until("SELECT string_agg(DISTINCT srsubstate::text, '') FROM pg_subscription_rel", "r");
}

/// A session that calls itself something.
#[track_caller]
pub(crate) fn session_of(dsn: &str, application: &str) -> Sql {
    Sql::connect(&format!("{dsn} application_name={application}"))
}
