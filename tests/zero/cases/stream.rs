//! What zero-cache starts with, and then ends at, or has wrong.

use super::{By, Case, Met, PLAIN};

pub(crate) static STREAM: &[Case] = &[
    Case {
        rule: "zero/full-without-key",
        offending: "CREATE TABLE t (id int, v text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1), (2)",
        then: "INSERT INTO t VALUES (3)",
        met: Met::Later(r#"Cannot replicate table \"t\" without a PRIMARY KEY or UNIQUE INDEX"#),
        ..PLAIN
    },
    Case {
        rule: "zero/full-without-key",
        offending: "CREATE TABLE t (id bytea PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY FULL",
        besides: &["zero/type-unsupported"],
        then: "INSERT INTO t VALUES ('one')",
        met: Met::Later(r#"Cannot replicate table \"t\" without a PRIMARY KEY or UNIQUE INDEX"#),
        mended: By::Elsewhere,
        ..PLAIN
    },
    Case {
        // PostgreSQL is content with the key of the partition.
        rule: "zero/no-key",
        offending: "CREATE TABLE t (id int, v int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t DEFAULT;
                    ALTER TABLE t1 ADD PRIMARY KEY (id); INSERT INTO t VALUES (1, 1), (2, 1)",
        then: "UPDATE t SET v = 2",
        met: Met::Later(r#"Cannot replicate table \"t\" without a PRIMARY KEY or UNIQUE INDEX"#),
        mended: By::Hand("ALTER TABLE t ADD PRIMARY KEY (id)"),
        ..PLAIN
    },
    Case {
        rule: "zero/reserved-name",
        offending: "CREATE TABLE sqlites (id int PRIMARY KEY); CREATE VIEW v AS TABLE sqlites",
        table: "public.sqlites",
        then: "INSERT INTO v VALUES (1)",
        met: Met::Later("Unknown table sqlites"),
        mended: By::Elsewhere,
        ..PLAIN
    },
    Case {
        rule: "zero/reserved-name",
        offending: "CREATE SCHEMA _zero; CREATE TABLE _zero.t (id int PRIMARY KEY);
                    CREATE VIEW v AS TABLE _zero.t; CREATE PUBLICATION mine FOR TABLE _zero.t",
        table: "_zero.t",
        publications: &["mine"],
        then: "INSERT INTO v VALUES (1)",
        met: Met::Later("Unknown table _zero.t"),
        mended: By::Hand("ALTER SCHEMA _zero RENAME TO app"),
        ..PLAIN
    },
    Case {
        rule: "zero/deferrable-unique",
        offending: "CREATE TABLE t (id int PRIMARY KEY, place int UNIQUE DEFERRABLE); INSERT INTO t VALUES (1, 1), (2, 2)",
        then: "UPDATE t SET place = place + 10; SET CONSTRAINTS ALL DEFERRED; UPDATE t SET place = 23 - place",
        met: Met::Later("UNIQUE constraint failed: t.place"),
        // The application must then go by way of a third place.
        mended: By::Hand("ALTER TABLE t DROP CONSTRAINT t_place_key"),
        ..PLAIN
    },
    Case {
        rule: "zero/numeric-unique",
        offending: "CREATE TABLE t (id int PRIMARY KEY, n numeric UNIQUE); INSERT INTO t VALUES (1, 0.1)",
        then: "INSERT INTO t VALUES (2, 0.10000000000000000001)",
        met: Met::Wrong { replica: "SELECT count(*) AS answer FROM t", server: "SELECT count(*) FROM t" },
        mended: By::Hand("ALTER TABLE t ALTER COLUMN n TYPE text"),
        ..PLAIN
    },
    Case {
        rule: "zero/inheritance",
        offending: "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (t);
                    INSERT INTO t VALUES (1); INSERT INTO child VALUES (2)",
        met: Met::Wrong { replica: "SELECT count(*) AS answer FROM t", server: "SELECT count(*) FROM ONLY t" },
        mended: By::Hand("ALTER TABLE child NO INHERIT t"),
        ..PLAIN
    },
    Case {
        rule: "zero/numeric-unique",
        offending: "CREATE TABLE t (id int PRIMARY KEY, at time UNIQUE); INSERT INTO t VALUES (1, '12:00:00.000001')",
        then: "INSERT INTO t VALUES (2, '12:00:00.000002')",
        met: Met::Wrong { replica: "SELECT count(*) AS answer FROM t", server: "SELECT count(*) FROM t" },
        mended: By::Elsewhere,
        ..PLAIN
    },
    Case {
        rule: "zero/array-elements",
        offending: "CREATE TABLE t (id int PRIMARY KEY, seen inet[]); INSERT INTO t VALUES (1, '{10.0.0.1}')",
        met: Met::Wrong { replica: "SELECT seen ->> 0 AS answer FROM t", server: "SELECT host(seen[1]::inet) FROM t" },
        mended: By::Hand("ALTER TABLE t ALTER COLUMN seen TYPE text[] USING ARRAY[host(seen[1])]"),
        ..PLAIN
    },
    Case {
        rule: "zero/row-filters-differ",
        offending: "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3);
                    CREATE PUBLICATION mine FOR TABLE t WHERE (id > 2); CREATE PUBLICATION all_of_it FOR TABLE t",
        publications: &["mine", "all_of_it"],
        met: Met::Wrong { replica: "SELECT count(*) AS answer FROM t", server: "SELECT count(*) FROM t" },
        mended: By::Hand("ALTER PUBLICATION all_of_it DROP TABLE t; ALTER PUBLICATION mine SET TABLE t, arrived"),
        ..PLAIN
    },
    Case {
        rule: "zero/publication-name",
        offending: r#"CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION "Mine" FOR TABLE t"#,
        table: "",
        publications: &["Mine"],
        met: Met::Silent(r#"skipped loading publication \"mine\""#),
        mended: By::Naming(r#"ALTER PUBLICATION "Mine" RENAME TO mine"#, &["mine"]),
        ..PLAIN
    },
];
