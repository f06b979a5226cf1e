//! Publications that do not go together, do not exist, publish nothing, or leave something out.

use std::ops::RangeInclusive;

use super::{By, Case, PLAIN, SINCE_15};

/// Makes a slot anew; a change; and what a stream of `$publications` makes of it. A slot sees publications as they were when
/// the change was made.
macro_rules! stream {
    ($publications:literal, $says:expr) => {
        &[
            ("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots", ""),
            ("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", ""),
            ("INSERT INTO t (b) VALUES (1)", ""),
            (
                concat!(
                    "SELECT count(*) FROM pg_logical_slot_get_binary_changes(
                         's', NULL, NULL, 'proto_version', '1', 'publication_names', '",
                    $publications,
                    "')"
                ),
                $says,
            ),
        ]
    };
}

const DIFFER: &str = "0A000: cannot use different column lists for table \"public.t\" in different publications";

/// Where a missing publication ends the stream; from 18 on it is a warning.
const BEFORE_18: RangeInclusive<u32> = 14..=17;

pub(super) static CASES: &[Case] = &[
    Case {
        name: "two lists",
        rule: "pg/column-lists-differ",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int, c int); CREATE PUBLICATION p FOR TABLE t (a, b);
                    CREATE PUBLICATION q FOR TABLE t (a, c)",
        publications: &["p", "q"],
        then: stream!("p,q", DIFFER),
        mended: By::Hand("ALTER PUBLICATION q SET TABLE t (b, a)"),
        ..PLAIN
    },
    Case {
        name: "two lists for different operations",
        rule: "pg/column-lists-differ",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int); CREATE PUBLICATION p FOR TABLE t WITH (publish = 'insert');
                    CREATE PUBLICATION q FOR TABLE t (a) WITH (publish = 'truncate')",
        publications: &["p", "q"],
        then: stream!("p,q", DIFFER),
        mended: By::Hand("ALTER PUBLICATION q SET TABLE t"),
        ..PLAIN
    },
    Case {
        name: "a list and the whole table",
        rule: "pg/column-lists-differ",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int); CREATE PUBLICATION p FOR TABLE t (a);
                    CREATE PUBLICATION q FOR TABLES IN SCHEMA public",
        publications: &["p", "q"],
        then: stream!("p,q", DIFFER),
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t (a, b)"),
        ..PLAIN
    },
    Case {
        // 15 counts columns that are not there any more as left out of the list.
        name: "a list of all columns, and one that was dropped",
        rule: "pg/column-lists-differ",
        versions: 15..=15,
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int, c int); ALTER TABLE t DROP COLUMN c;
                    CREATE PUBLICATION p FOR TABLE t (a, b); CREATE PUBLICATION q FOR ALL TABLES",
        publications: &["p", "q"],
        then: stream!("p,q", DIFFER),
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t"),
        ..PLAIN
    },
    Case {
        // 15 counts them, too, and no list can have them.
        name: "a list of all columns but a generated one",
        rule: "pg/column-lists-differ",
        versions: 15..=15,
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int, g int GENERATED ALWAYS AS (b) STORED);
                    CREATE PUBLICATION p FOR TABLE t (a, b); CREATE PUBLICATION q FOR ALL TABLES",
        publications: &["p", "q"],
        then: stream!("p,q", DIFFER),
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t"),
        ..PLAIN
    },
    Case {
        name: "a generated column here and not there",
        rule: "pg/column-lists-differ",
        versions: 18..=18,
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int, g int GENERATED ALWAYS AS (b) STORED);
                    CREATE PUBLICATION p FOR TABLE t; CREATE PUBLICATION q FOR TABLE t WITH (publish_generated_columns = stored)",
        publications: &["p", "q"],
        then: stream!(
            "p,q",
            "0A000: cannot use different values of publish_generated_columns for table \"public.t\" in different publications"
        ),
        mended: By::Hand("ALTER PUBLICATION p SET (publish_generated_columns = stored)"),
        ..PLAIN
    },
    Case {
        name: "no such publication",
        rule: "pg/publication-missing",
        versions: BEFORE_18,
        // Of a table that it does not publish, too.
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int); CREATE TABLE t2 (a serial PRIMARY KEY);
                    CREATE PUBLICATION p FOR TABLE t2",
        publications: &["p", "q"],
        tables: &[],
        then: stream!("p,q", "42704: publication \"q\" does not exist"),
        mended: By::Hand("CREATE PUBLICATION q FOR TABLE t"),
        ..PLAIN
    },
    Case {
        name: "no such publication, with a warning",
        rule: "pg/publication-missing",
        versions: 18..=18,
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int); CREATE PUBLICATION p FOR TABLE t",
        publications: &["p", "q"],
        tables: &[],
        then: stream!("p,q", ""),
        mended: By::Hand("CREATE PUBLICATION q FOR TABLE t"),
        ..PLAIN
    },
    Case {
        name: "an empty publication",
        rule: "pg/publication-empty",
        offending: "CREATE TABLE t (a serial PRIMARY KEY, b int); CREATE PUBLICATION p",
        tables: &[],
        then: stream!("p", ""),
        mended: By::Hand("ALTER PUBLICATION p ADD TABLE t"),
        ..PLAIN
    },
    Case {
        name: "full",
        rule: "pg/identity-full",
        offending: "CREATE TABLE t (a int PRIMARY KEY, j json); ALTER TABLE t REPLICA IDENTITY FULL;
                    CREATE PUBLICATION p FOR TABLE t",
        ..PLAIN
    },
    Case {
        name: "left out",
        rule: "pg/not-published",
        offending: "CREATE TABLE t (a int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t; CREATE UNLOGGED TABLE u (a int);
                    CREATE TABLE \"n Ü\" (a int); CREATE MATERIALIZED VIEW m AS SELECT 1;
                    CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
                    CREATE FOREIGN TABLE f (a int) SERVER s; CREATE TABLE r (a int) PARTITION BY LIST (a);
                    CREATE TABLE r1 PARTITION OF r DEFAULT; CREATE VIEW v AS SELECT 1; CREATE SEQUENCE q;
                    CREATE SCHEMA other; CREATE TABLE other.t (a int)",
        tables: &["public.\"n Ü\"", "public.f", "public.m", "public.r", "public.u"],
        mended: By::None,
        ..PLAIN
    },
];
