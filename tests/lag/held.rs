//! What walgate says, held against a ledger.

use std::collections::BTreeMap;

use serde_json::Value;
use walgate::lsn::Lsn;
use walgate::scratch::Server;

use crate::support::daemon::Walgate;
use crate::support::oracle::{Exact, Oracle, Sum};
use crate::support::{Sql, eventually};

/// The counts in a report. Panics where one is null: that is for states in which nothing is known.
#[track_caller]
pub(crate) fn counts(report: &Value) -> Exact {
    let count = |of: &Value, figure: &str| of[figure].as_u64().unwrap_or_else(|| panic!("no {figure}: {report}"));
    let sum = |of: &Value| Sum {
        transactions: count(of, "transactions"),
        rows: count(of, "rows"),
        bytes: count(of, "bytes"),
    };
    let tables = report["tables"].as_array().expect("tables").iter();
    let lag = &report["lag"];
    Exact {
        pending: sum(lag),
        tables: tables.map(|table| (table["table"].as_str().expect("a name").to_owned(), sum(table))).collect(),
        oldest: None,
        open_transactions: count(lag, "open_transactions"),
        open_bytes: count(lag, "open_bytes"),
    }
}

/// Waits until the consumer has been sent everything that is in the WAL now and walgate's figures are exact; returns its
/// report, which then is as the ledger, and the ledger's figures.
#[track_caller]
pub(crate) fn settle(walgate: &Walgate, sql: &Sql, slot: &str, oracle: &Oracle) -> (Value, Exact) {
    let flushed: Lsn = sql.value("SELECT pg_current_wal_flush_lsn()").parse().expect("a position");
    eventually(&format!("{slot} to be sent everything"), || match oracle.ledger() {
        ledger if ledger.heard >= flushed => Ok(()),
        ledger => Err((ledger.heard, flushed, ledger.ended.clone())),
    });
    let report = walgate.lag_until(slot, "exact figures", |report| {
        let decoded = report["positions"]["decoded"].as_str().and_then(|position| position.parse().ok());
        report["state"] == "live" && decoded >= Some(flushed)
    });
    let exact = oracle.ledger().exact();
    same(&report, &exact);
    (report, exact)
}

/// Asserts that a report counts what the ledger does.
#[track_caller]
pub(crate) fn same(report: &Value, exact: &Exact) {
    assert_eq!(counts(report), Exact { oldest: None, ..exact.clone() }, "{report}");
    let positive = exact.oldest.is_some();
    assert_eq!(report["lag"]["seconds"].as_f64().map(|seconds| seconds > 0.0), Some(positive), "{report}");
}

/// Makes a publication `p` of some tables, each of which has an integer key `id` and a text `v`, and slots.
pub(crate) fn publish(server: &Server, tables: &[&str], slots: &[&str]) -> Sql {
    let sql = Sql::connect(&server.dsn("postgres"));
    for table in tables {
        sql.run(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v text)"));
    }
    sql.run(&format!("CREATE PUBLICATION p FOR TABLE {}", tables.join(", ")));
    for slot in slots {
        sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    }
    sql
}

/// Sums by table that are not nothing: a commit of nothing but a Truncate has no rows anywhere.
pub(crate) fn rows_by_table(exact: &Exact) -> BTreeMap<&str, u64> {
    exact.tables.iter().map(|(table, sum)| (table.as_str(), sum.rows)).collect()
}
