//! Publications of a part of a table, which leave out what names its rows.

use std::ops::RangeInclusive;

use super::{By, Case, PLAIN, SINCE_15, refused, unnamed};

/// PostgreSQL 18 alone: before, publishers let generated columns pass, and subscribers stop.
const SINCE_18: RangeInclusive<u32> = 18..=18;

/// What both writes to the table `t` say.
const LIST: &[(&str, &str)] =
    &[("UPDATE t SET b = 2", refused!(list, UPDATE "t")), ("DELETE FROM t WHERE b = 2", refused!(list, DELETE "t"))];
const FILTER: &[(&str, &str)] = &[
    ("UPDATE t SET b = 2", refused!(filter, UPDATE "t")),
    ("DELETE FROM t WHERE b = 2", refused!(filter, DELETE "t")),
];
const GENERATED: &[(&str, &str)] = &[
    ("UPDATE t SET b = 2", refused!(generated, UPDATE "t")),
    ("DELETE FROM t WHERE b = 2", refused!(generated, DELETE "t")),
];

const WITHOUT_LIST: By = By::Hand("ALTER PUBLICATION p SET TABLE t");

pub(super) static CASES: &[Case] = &[
    Case {
        name: "a list without the key",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, c int); CREATE PUBLICATION p FOR TABLE t (b, c)",
        then: LIST,
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t (a, b)"),
        ..PLAIN
    },
    Case {
        name: "a list with half of the key",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int, b int, c int, PRIMARY KEY (a, c)); CREATE PUBLICATION p FOR TABLE t (a, b)",
        then: LIST,
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t (c, b, a)"),
        ..PLAIN
    },
    Case {
        name: "a list without the index that was chosen",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, c int NOT NULL UNIQUE);
                    ALTER TABLE t REPLICA IDENTITY USING INDEX t_c_key; CREATE PUBLICATION p FOR TABLE t (a, b)",
        then: LIST,
        mended: By::Hand("ALTER TABLE t REPLICA IDENTITY DEFAULT"),
        ..PLAIN
    },
    Case {
        name: "a list with all columns, but full",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int); ALTER TABLE t REPLICA IDENTITY FULL;
                    CREATE PUBLICATION p FOR TABLE t (a, b)",
        besides: &["pg/identity-full"],
        then: LIST,
        ..PLAIN
    },
    Case {
        name: "a list, full, and no key",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int, b int); ALTER TABLE t REPLICA IDENTITY FULL;
                    CREATE PUBLICATION p FOR TABLE t (a, b)",
        besides: &["pg/identity-full"],
        then: LIST,
        mended: WITHOUT_LIST,
        ..PLAIN
    },
    Case {
        name: "a list of what is updated alone",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int);
                    CREATE PUBLICATION p FOR TABLE t (b) WITH (publish = 'insert, update')",
        then: &[("UPDATE t SET b = 2", refused!(list, UPDATE "t")), ("DELETE FROM t WHERE b = 2", "")],
        mended: By::Hand("ALTER PUBLICATION p SET (publish = 'insert')"),
        ..PLAIN
    },
    Case {
        name: "a list, and all of it elsewhere",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE PUBLICATION p FOR TABLE t (b);
                    CREATE PUBLICATION q FOR ALL TABLES",
        then: LIST,
        mended: By::Hand("ALTER PUBLICATION p DROP TABLE t; ALTER PUBLICATION p ADD TABLE t (a)"),
        ..PLAIN
    },
    Case {
        name: "a list of the root, by name",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, c int) PARTITION BY LIST (a);
                    CREATE TABLE t1 (c int, b int, a int NOT NULL); ALTER TABLE t ATTACH PARTITION t1 FOR VALUES IN (1);
                    CREATE PUBLICATION p FOR TABLE t (c) WITH (publish_via_partition_root)",
        tables: &["public.t1"],
        then: &[("UPDATE t1 SET b = 2", refused!(list, UPDATE "t1")), ("DELETE FROM t1", refused!(list, DELETE "t1"))],
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t (a)"),
        ..PLAIN
    },
    Case {
        name: "a list of a leaf",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, c int) PARTITION BY LIST (a);
                    CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE PUBLICATION p FOR TABLE t, t1 (c)",
        tables: &["public.t1"],
        then: &[("UPDATE t1 SET b = 2", refused!(list, UPDATE "t1"))],
        mended: By::Hand("ALTER PUBLICATION p SET (publish_via_partition_root)"),
        ..PLAIN
    },
    Case {
        name: "a leaf's own identity",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int) PARTITION BY LIST (a);
                    CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); ALTER TABLE t1 REPLICA IDENTITY FULL;
                    CREATE PUBLICATION p FOR TABLE t (a) WITH (publish_via_partition_root)",
        tables: &["public.t1"],
        besides: &["pg/identity-full"],
        then: &[("UPDATE t1 SET b = 2", refused!(list, UPDATE "t1"))],
        ..PLAIN
    },
    Case {
        name: "a list, but no key",
        rule: "pg/no-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (id int, b int); INSERT INTO t VALUES (1, 1), (2, 1); CREATE PUBLICATION p FOR TABLE t (id)",
        then: &[("UPDATE t SET b = 2", unnamed!(UPDATE "t")), ("DELETE FROM t", unnamed!(DELETE "t"))],
        ..PLAIN
    },
    Case {
        name: "a filter outside of the key",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL); CREATE PUBLICATION p FOR TABLE t WHERE (a > b)",
        then: FILTER,
        ..PLAIN
    },
    Case {
        name: "a filter on what may be null",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE PUBLICATION p FOR TABLE t WHERE (b IS NOT NULL)",
        then: FILTER,
        mended: By::Hand("ALTER TABLE t REPLICA IDENTITY FULL"),
        ..PLAIN
    },
    Case {
        // FULL would do for the WHERE, and not for the list.
        name: "a filter here and a list there",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int); CREATE PUBLICATION p FOR TABLE t WHERE (b IS NOT NULL);
                    CREATE PUBLICATION q FOR TABLE t (a)",
        then: FILTER,
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t WHERE (a > 0)"),
        ..PLAIN
    },
    Case {
        name: "a filter on another key",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, c int NOT NULL UNIQUE);
                    CREATE PUBLICATION p FOR TABLE t WHERE (c > 0)",
        then: FILTER,
        ..PLAIN
    },
    Case {
        name: "a filter and a list",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL);
                    CREATE PUBLICATION p FOR TABLE t (a, b) WHERE (b > 0)",
        then: FILTER,
        ..PLAIN
    },
    Case {
        name: "a filter of what is deleted alone",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int);
                    CREATE PUBLICATION p FOR TABLE t WHERE (b > 0) WITH (publish = 'delete')",
        then: &[("DELETE FROM t", refused!(filter, DELETE "t")), ("UPDATE t SET b = 2", "")],
        mended: WITHOUT_LIST,
        ..PLAIN
    },
    Case {
        name: "a filter of the root",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int) PARTITION BY LIST (a);
                    CREATE TABLE t1 (b int, a int NOT NULL); ALTER TABLE t ATTACH PARTITION t1 FOR VALUES IN (1);
                    CREATE PUBLICATION p FOR TABLE t WHERE (b > 0) WITH (publish_via_partition_root)",
        tables: &["public.t1"],
        then: &[("UPDATE t1 SET b = 2", refused!(filter, UPDATE "t1"))],
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t WHERE (a > 0)"),
        ..PLAIN
    },
    Case {
        // All rows are published, and pg_publication_tables shows no filter; updates are refused all the same.
        name: "a filter that a schema overrides",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int);
                    CREATE PUBLICATION p FOR TABLES IN SCHEMA public, TABLE t WHERE (b > 0)",
        then: FILTER,
        mended: By::Hand("ALTER PUBLICATION p DROP TABLE t"),
        ..PLAIN
    },
    Case {
        name: "a filter on a stored column",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, g int GENERATED ALWAYS AS (a * 2) STORED);
                    CREATE PUBLICATION p FOR TABLE t WHERE (g > 0)",
        then: FILTER,
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t WHERE (a * 2 > 0)"),
        ..PLAIN
    },
    Case {
        name: "a filter on a virtual column",
        rule: "pg/row-filter-misses-identity",
        versions: SINCE_18,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL, g int GENERATED ALWAYS AS (b * 2) VIRTUAL);
                    CREATE PUBLICATION p FOR TABLE t WHERE (g > 0)",
        then: FILTER,
        ..PLAIN
    },
    Case {
        name: "a generated key",
        rule: "pg/generated-identity",
        versions: SINCE_18,
        offending: "CREATE TABLE t (a int, b int, g int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY);
                    CREATE PUBLICATION p FOR TABLE t",
        then: GENERATED,
        mended: By::Hand("ALTER PUBLICATION p SET (publish_generated_columns = stored)"),
        ..PLAIN
    },
    Case {
        name: "a generated key that was chosen",
        rule: "pg/generated-identity",
        versions: SINCE_18,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, g int GENERATED ALWAYS AS (a * 2) STORED NOT NULL);
                    CREATE UNIQUE INDEX i ON t (a, g); ALTER TABLE t REPLICA IDENTITY USING INDEX i;
                    CREATE PUBLICATION p FOR ALL TABLES",
        then: GENERATED,
        ..PLAIN
    },
    Case {
        name: "a generated key, published elsewhere",
        rule: "pg/generated-identity",
        versions: SINCE_18,
        offending: "CREATE TABLE t (a int, b int, g int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY);
                    CREATE PUBLICATION p FOR TABLE t;
                    CREATE PUBLICATION q FOR TABLE t WITH (publish_generated_columns = stored)",
        then: GENERATED,
        mended: By::Hand("ALTER TABLE t ALTER COLUMN g DROP EXPRESSION"),
        ..PLAIN
    },
    Case {
        name: "a stored column, but full",
        rule: "pg/generated-identity",
        versions: SINCE_18,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, g int GENERATED ALWAYS AS (a * 2) STORED);
                    ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION p FOR TABLE t",
        besides: &["pg/identity-full"],
        then: GENERATED,
        ..PLAIN
    },
    Case {
        name: "a virtual column, but full",
        rule: "pg/generated-identity",
        versions: SINCE_18,
        offending: "CREATE TABLE t (a int PRIMARY KEY, b int, g int GENERATED ALWAYS AS (a * 2) VIRTUAL);
                    ALTER TABLE t REPLICA IDENTITY FULL;
                    CREATE PUBLICATION p FOR TABLE t WITH (publish_generated_columns = stored)",
        besides: &["pg/identity-full"],
        then: GENERATED,
        ..PLAIN
    },
    Case {
        name: "a generated key that is not listed",
        rule: "pg/column-list-misses-identity",
        versions: SINCE_18,
        offending: "CREATE TABLE t (a int, b int, g int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY);
                    CREATE PUBLICATION p FOR TABLE t (a)",
        then: LIST,
        mended: By::Hand("ALTER PUBLICATION p SET TABLE t (a, g)"),
        ..PLAIN
    },
];
