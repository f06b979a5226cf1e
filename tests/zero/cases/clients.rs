//! What zero-cache's clients do not see. Every kind of key and type is tried in `agreement`.

use super::{By, Case, Met, PLAIN};

const NO_KEY: &str =
    "The \"t\" table is missing a primary key or non-null unique index and thus cannot be synced to the client";

pub(crate) static CLIENTS: &[Case] = &[
    Case {
        rule: "zero/no-key",
        offending: "CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1), (2)",
        met: Met::Refused { table: "t", columns: &[("id", "number"), ("v", "string")], with: NO_KEY },
        ..PLAIN
    },
    Case {
        rule: "zero/no-key",
        offending: "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE PUBLICATION mine FOR TABLE t (v)",
        besides: &["pg/column-list-misses-identity"],
        publications: &["mine"],
        met: Met::Refused { table: "t", columns: &[("id", "number"), ("v", "number")], with: NO_KEY },
        mended: By::Hand("ALTER PUBLICATION mine SET TABLE t (id, v), TABLE arrived"),
        ..PLAIN
    },
    Case {
        rule: "zero/type-unsupported",
        offending: "CREATE TABLE t (id int PRIMARY KEY, c bytea)",
        met: Met::Refused {
            table: "t",
            columns: &[("id", "number"), ("c", "string")],
            with: "The \"t\".\"c\" column cannot be synced because it is of an unsupported data type \"bytea\"",
        },
        mended: By::Hand("ALTER TABLE t ALTER COLUMN c TYPE text USING encode(c, 'base64')"),
        ..PLAIN
    },
    Case {
        rule: "zero/type-unsupported",
        offending: "CREATE DOMAIN code AS text; CREATE TABLE t (id code PRIMARY KEY, v int)",
        met: Met::Refused { table: "t", columns: &[("id", "string"), ("v", "number")], with: NO_KEY },
        mended: By::Hand("ALTER TABLE t ALTER COLUMN id TYPE text"),
        ..PLAIN
    },
    Case {
        rule: "zero/partition-root",
        offending: "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
                    CREATE TABLE t1 PARTITION OF t DEFAULT; CREATE PUBLICATION mine FOR TABLE t",
        publications: &["mine"],
        met: Met::Refused {
            table: "t",
            columns: &[("id", "number"), ("v", "number")],
            with: "The \"t\" table does not exist or is not one of the replicated tables",
        },
        ..PLAIN
    },
];
