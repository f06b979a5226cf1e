//! The usual story: a database `blue`, a native subscription on `green`, and the gate between them.

use walgate::scratch::Server;

use crate::scene::{Gate, Pair, Way, dsn};
use crate::support::Sql;

/// A subscription, its slot and its two databases, all of one name.
pub(crate) struct Subscribed<'a> {
    pub(crate) pair: &'a Pair,
    pub(crate) name: String,
    pub(crate) blue: Sql,
    pub(crate) green: Sql,
    pub(crate) gate: Gate,
}

impl<'a> Subscribed<'a> {
    /// Everything set up, and the table copied.
    #[track_caller]
    pub(crate) fn start(pair: &'a Pair, name: &str, way: Way) -> Subscribed<'a> {
        Subscribed::with(pair, name, way, "", |_, _| {})
    }

    /// The same with more lines in `[[gate]]`, and with something done to both databases before.
    #[track_caller]
    pub(crate) fn with(
        pair: &'a Pair,
        name: &str,
        way: Way,
        more: &str,
        prepare: impl FnOnce(&Sql, &Sql),
    ) -> Subscribed<'a> {
        let (blue, green) = pair.databases(name);
        prepare(&blue, &green);
        let target = format!("{more}\n[gate.target]\nkind = \"subscription\"\ndsn = \"{}\"", dsn(&pair.target, name));
        let gate = Gate::start(&dsn(&pair.source, name), way, &[name], &target);
        let subscribed = Subscribed { pair, name: name.to_owned(), blue, green, gate };
        subscribed.subscribe(way, "");
        subscribed
    }

    /// Creates the subscription, with more options, and waits for its first copy.
    #[track_caller]
    pub(crate) fn subscribe(&self, way: Way, options: &str) {
        let port = if way == Way::Proxy { self.gate.walgate.port() } else { self.pair.source.port() };
        self.green.run(&format!(
            "CREATE SUBSCRIPTION {0} CONNECTION '{1}' PUBLICATION everything {options}",
            self.name,
            self.pair.source.dsn_via(port, &self.name)
        ));
        self.ready();
    }

    /// Waits until every table is copied.
    #[track_caller]
    pub(crate) fn ready(&self) {
        self.green
            .until("SELECT coalesce(string_agg(DISTINCT srsubstate::text, ''), 'r') FROM pg_subscription_rel", "r");
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

    /// The fence, with all that is needed for it to be proven quiet.
    #[track_caller]
    pub(crate) fn alter(&self, what: &str) {
        self.green.run(&format!("ALTER SUBSCRIPTION {} {what}", self.name));
    }

    /// A session with the source that calls itself something.
    #[track_caller]
    pub(crate) fn application(&self, name: &str) -> Sql {
        session_of(&self.pair.source, &self.name, name)
    }
}

impl Drop for Subscribed<'_> {
    fn drop(&mut self) {
        // The next story on these servers is not to be disturbed. What is not there any more needs no end.
        let name = &self.name;
        for statement in ["DISABLE", "SET (slot_name = NONE)"] {
            let _ = self.green.try_rows(&format!("ALTER SUBSCRIPTION {name} {statement}"));
        }
        let _ = self.green.try_rows(&format!("DROP SUBSCRIPTION IF EXISTS {name}"));
        let _ = self.blue.try_rows(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()",
        );
        for _ in 0..100 {
            let dropped = self.blue.try_rows(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
            );
            if dropped.is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A session with a database that calls itself something.
#[track_caller]
pub(crate) fn session_of(server: &Server, database: &str, application: &str) -> Sql {
    Sql::connect(&format!("{} application_name={application}", server.dsn(database)))
}
