//! Tables whose rows nothing names.

use super::{By, Case, PLAIN, SINCE_15, unnamed};

/// What both writes to the table `t` say.
const BOTH: &[(&str, &str)] =
    &[("UPDATE t SET b = 2", unnamed!(UPDATE "t")), ("DELETE FROM t WHERE b = 2", unnamed!(DELETE "t"))];

pub(super) static CASES: &[Case] = &[
    Case {
        name: "no key, by name",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int); INSERT INTO t VALUES (1, 1), (2, 1); CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "no key, empty",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int NOT NULL, b int); CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "no key, of all tables",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id bigserial, b int); CREATE PUBLICATION p FOR ALL TABLES",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "no key, of a schema",
        rule: "pg/no-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (id bigserial, b int); CREATE PUBLICATION p FOR TABLES IN SCHEMA public",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "no key, nothing to go by",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1), (1, 1), (NULL, 1);
                    CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        mended: By::Hand("ALTER TABLE t ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"),
        ..PLAIN
    },
    Case {
        name: "a unique index is no identity by itself",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (a int NOT NULL UNIQUE, b int); CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "a unique index with nullable columns",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int); CREATE UNIQUE INDEX i ON t (id); INSERT INTO t VALUES (1, 1);
                    CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "a unique constraint with nullable columns",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int UNIQUE, b int); INSERT INTO t VALUES (1, 1); CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "a unique index in descending order",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int); CREATE UNIQUE INDEX i ON t (id DESC); INSERT INTO t VALUES (1, 1);
                    CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "a unique index that holds other columns",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (a int NOT NULL, b int); CREATE UNIQUE INDEX i ON t (a) INCLUDE (b);
                    CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "indexes that name no rows",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (a int NOT NULL, b int NOT NULL); CREATE UNIQUE INDEX ON t (a) WHERE b > 0;
                    CREATE UNIQUE INDEX ON t ((a + b)); CREATE INDEX ON t (b); INSERT INTO t VALUES (1, 1), (2, 1), (1, 0);
                    CREATE PUBLICATION p FOR TABLE t",
        then: &[("UPDATE t SET b = b", unnamed!(UPDATE "t")), ("DELETE FROM t", unnamed!(DELETE "t"))],
        mended: By::Hand("ALTER TABLE t REPLICA IDENTITY FULL"),
        ..PLAIN
    },
    Case {
        name: "updates alone",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int); CREATE PUBLICATION p FOR TABLE t WITH (publish = 'insert, update')",
        then: &[("UPDATE t SET b = 2", unnamed!(UPDATE "t")), ("DELETE FROM t", ""), ("TRUNCATE t", "")],
        ..PLAIN
    },
    Case {
        name: "deletes alone",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int); CREATE PUBLICATION p FOR TABLE t WITH (publish = 'delete')",
        then: &[("DELETE FROM t WHERE false", unnamed!(DELETE "t")), ("UPDATE t SET b = 2", "")],
        ..PLAIN
    },
    Case {
        name: "writes that are updates all the same",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (a int NOT NULL UNIQUE, b int); INSERT INTO t VALUES (1, 1); CREATE TABLE t2 (a int);
                    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS
                        'BEGIN UPDATE t SET b = 5; RETURN NULL; END';
                    CREATE TRIGGER f AFTER INSERT ON t2 EXECUTE FUNCTION f(); CREATE PUBLICATION p FOR TABLE t",
        then: &[
            ("INSERT INTO t VALUES (7, 1) ON CONFLICT (a) DO UPDATE SET b = 3", unnamed!(UPDATE "t")),
            ("WITH gone AS (DELETE FROM t RETURNING a) SELECT a FROM gone", unnamed!(DELETE "t")),
            ("INSERT INTO t2 VALUES (1)", unnamed!(UPDATE "t")),
            ("INSERT INTO t VALUES (8, 1) ON CONFLICT DO NOTHING", ""),
            ("SELECT a FROM t FOR UPDATE", ""),
        ],
        ..PLAIN
    },
    Case {
        name: "a merge",
        rule: "pg/no-identity",
        versions: SINCE_15,
        offending: "CREATE TABLE t (a int NOT NULL UNIQUE, b int); CREATE PUBLICATION p FOR TABLE t",
        then: &[("MERGE INTO t USING (VALUES (1)) AS v (a) ON t.a = v.a WHEN MATCHED THEN DELETE", unnamed!(DELETE "t"))],
        ..PLAIN
    },
    Case {
        name: "a cascade",
        rule: "pg/no-identity",
        offending: "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);
                    CREATE TABLE t (id int UNIQUE NOT NULL REFERENCES parent ON DELETE CASCADE, b int);
                    INSERT INTO t VALUES (1, 1); CREATE PUBLICATION p FOR TABLE t",
        then: &[("DELETE FROM parent", unnamed!(DELETE "t"))],
        ..PLAIN
    },
    Case {
        name: "names to be quoted",
        rule: "pg/no-identity",
        offending: "CREATE SCHEMA \"Größe.1\"; CREATE TABLE \"Größe.1\".\"it's a \"\"t\"\" \\\" (\"ID\" uuid NOT NULL, b int);
                    CREATE UNIQUE INDEX \"i \"\"1\"\"\" ON \"Größe.1\".\"it's a \"\"t\"\" \\\" (\"ID\");
                    CREATE PUBLICATION \"p, q\" FOR TABLE \"Größe.1\".\"it's a \"\"t\"\" \\\"",
        tables: &["\"Größe.1\".\"it's a \"\"t\"\" \\\""],
        then: &[(
            "UPDATE \"Größe.1\".\"it's a \"\"t\"\" \\\" SET b = 2",
            "55000: cannot update table \"it's a \"t\" \\\" because it does not have a replica identity and publishes updates",
        )],
        ..PLAIN
    },
    Case {
        name: "leaves of a partitioned table",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
                    CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2) PARTITION BY HASH (id);
                    CREATE TABLE t22 PARTITION OF t2 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
                    INSERT INTO t VALUES (1, 1), (2, 2); CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.t1", "public.t22"],
        then: &[
            ("UPDATE t SET b = 2 WHERE id = 1", unnamed!(UPDATE "t1")),
            ("DELETE FROM t2", unnamed!(DELETE "t22")),
            ("UPDATE t SET b = 2 WHERE id = 3", ""),
        ],
        ..PLAIN
    },
    Case {
        name: "leaves below another partition key",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
                    CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2) PARTITION BY LIST (b);
                    CREATE TABLE t22 PARTITION OF t2 FOR VALUES IN (2); INSERT INTO t VALUES (1, 1), (2, 2);
                    CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.t1", "public.t22"],
        then: &[("DELETE FROM t", unnamed!(DELETE "t1")), ("DELETE FROM t2", unnamed!(DELETE "t22"))],
        ..PLAIN
    },
    Case {
        name: "leaves with keys of their own, but one",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
                    ALTER TABLE t1 ADD PRIMARY KEY (b); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);
                    INSERT INTO t VALUES (1, 1), (2, 2); CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.t2"],
        then: &[("DELETE FROM t", unnamed!(DELETE "t2"))],
        ..PLAIN
    },
    Case {
        name: "leaves of which one has the same key",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
                    ALTER TABLE t1 ADD PRIMARY KEY (id); CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);
                    INSERT INTO t VALUES (1, 1), (2, 2); CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.t2"],
        then: &[("DELETE FROM t", unnamed!(DELETE "t2"))],
        ..PLAIN
    },
    Case {
        name: "leaves of an expression",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int) PARTITION BY LIST ((id % 2)); CREATE TABLE t0 PARTITION OF t DEFAULT;
                    INSERT INTO t VALUES (1, 1), (2, 2); CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.t0"],
        then: &[("DELETE FROM t", unnamed!(DELETE "t0"))],
        ..PLAIN
    },
    Case {
        name: "leaves of a root that has a key that is not valid",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
                    ALTER TABLE t1 ALTER id SET NOT NULL; ALTER TABLE ONLY t ADD PRIMARY KEY (id);
                    INSERT INTO t VALUES (1, 1); CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.t1"],
        then: &[("DELETE FROM t", unnamed!(DELETE "t1"))],
        ..PLAIN
    },
    Case {
        name: "leaves shown as their root",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int, b int) PARTITION BY LIST (id); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
                    ALTER TABLE t REPLICA IDENTITY FULL;
                    CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root)",
        tables: &["public.t1"],
        then: &[("UPDATE t1 SET b = 2", unnamed!(UPDATE "t1"))],
        ..PLAIN
    },
    Case {
        name: "an identity is not for leaves",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (a int NOT NULL, b int) PARTITION BY LIST (a);
                    CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
                    CREATE UNIQUE INDEX i ON t (a); ALTER TABLE t REPLICA IDENTITY USING INDEX i;
                    CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2); CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.t1", "public.t2"],
        then: &[("UPDATE t1 SET b = 2", unnamed!(UPDATE "t1")), ("UPDATE t2 SET b = 2", unnamed!(UPDATE "t2"))],
        ..PLAIN
    },
    Case {
        name: "a leaf elsewhere",
        rule: "pg/no-identity",
        versions: SINCE_15,
        offending: "CREATE SCHEMA s; CREATE TABLE s.t (id int, b int) PARTITION BY LIST (id);
                    CREATE TABLE t1 PARTITION OF s.t FOR VALUES IN (1); CREATE PUBLICATION p FOR TABLES IN SCHEMA s",
        tables: &["public.t1"],
        then: &[("UPDATE t1 SET b = 2", unnamed!(UPDATE "t1"))],
        ..PLAIN
    },
    Case {
        name: "a leaf without its root",
        rule: "pg/no-identity",
        versions: SINCE_15,
        offending: "CREATE SCHEMA s; CREATE TABLE t (id int, b int) PARTITION BY RANGE ((id % 10));
                    CREATE TABLE s.t1 PARTITION OF t DEFAULT; CREATE PUBLICATION p FOR TABLES IN SCHEMA s",
        tables: &["s.t1"],
        then: &[("UPDATE t SET b = 2", unnamed!(UPDATE "t1"))],
        // A key of the root cannot be: its partition key is an expression.
        mended: By::Hand("ALTER TABLE s.t1 ADD PRIMARY KEY (id)"),
        ..PLAIN
    },
    Case {
        name: "a child does not inherit the key",
        rule: "pg/no-identity",
        offending: "CREATE TABLE t (id int PRIMARY KEY, b int); CREATE TABLE child () INHERITS (t);
                    CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.child"],
        then: &[("UPDATE t SET b = 2", unnamed!(UPDATE "child")), ("UPDATE ONLY t SET b = 2", "")],
        ..PLAIN
    },
    Case {
        name: "nothing",
        rule: "pg/identity-nothing",
        offending: "CREATE TABLE t (id int PRIMARY KEY, b int); ALTER TABLE t REPLICA IDENTITY NOTHING;
                    CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "nothing, and no key",
        rule: "pg/identity-nothing",
        offending: "CREATE TABLE t (id int, b int); ALTER TABLE t REPLICA IDENTITY NOTHING;
                    CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "nothing, of a leaf that was attached",
        rule: "pg/identity-nothing",
        offending: "CREATE TABLE t (id int PRIMARY KEY, b int) PARTITION BY LIST (id);
                    CREATE TABLE t1 (b int, id int NOT NULL); ALTER TABLE t1 REPLICA IDENTITY NOTHING;
                    ALTER TABLE t ATTACH PARTITION t1 FOR VALUES IN (1); INSERT INTO t VALUES (1, 1);
                    CREATE PUBLICATION p FOR TABLE t WITH (publish_via_partition_root)",
        tables: &["public.t1"],
        then: &[("UPDATE t SET b = 2", unnamed!(UPDATE "t1"))],
        ..PLAIN
    },
    Case {
        name: "the index was dropped",
        rule: "pg/identity-index-missing",
        offending: "CREATE TABLE t (id int NOT NULL, b int); CREATE UNIQUE INDEX i ON t (id);
                    ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i; CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "the index was dropped, and a key does not help",
        rule: "pg/identity-index-missing",
        offending: "CREATE TABLE t (id int NOT NULL, b int); CREATE UNIQUE INDEX i ON t (id);
                    ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i; ALTER TABLE t ADD PRIMARY KEY (id);
                    CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        // What DROP INDEX CONCURRENTLY leaves that was cancelled while it waited for others.
        name: "the index was almost dropped",
        rule: "pg/identity-index-missing",
        offending: "CREATE TABLE t (id int NOT NULL, b int); CREATE UNIQUE INDEX i ON t (id);
                    ALTER TABLE t REPLICA IDENTITY USING INDEX i; CREATE PUBLICATION p FOR TABLE t;
                    UPDATE pg_index SET indisvalid = false, indisreplident = false WHERE indexrelid = 'i'::regclass",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "the index was almost dropped, and built again",
        rule: "pg/identity-index-missing",
        offending: "CREATE TABLE t (id int NOT NULL, b int); CREATE UNIQUE INDEX i ON t (id);
                    ALTER TABLE t REPLICA IDENTITY USING INDEX i; CREATE PUBLICATION p FOR TABLE t;
                    UPDATE pg_index SET indisvalid = false, indisreplident = false WHERE indexrelid = 'i'::regclass;
                    REINDEX INDEX i",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "the index is not valid",
        rule: "pg/identity-index-missing",
        offending: "CREATE TABLE t (id int NOT NULL, b int); CREATE UNIQUE INDEX i ON t (id);
                    ALTER TABLE t REPLICA IDENTITY USING INDEX i; CREATE PUBLICATION p FOR TABLE t;
                    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "a deferrable key",
        rule: "pg/deferrable-key",
        offending: "CREATE TABLE t (a int, b int, PRIMARY KEY (a) DEFERRABLE); INSERT INTO t VALUES (1, 1);
                    CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "a deferrable key, and another",
        rule: "pg/deferrable-key",
        offending: "CREATE TABLE t (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, b int);
                    CREATE UNIQUE INDEX i ON t (a); CREATE PUBLICATION p FOR TABLE t",
        then: BOTH,
        ..PLAIN
    },
    Case {
        name: "a deferrable key of a partitioned table",
        rule: "pg/deferrable-key",
        offending: "CREATE TABLE t (a int PRIMARY KEY DEFERRABLE, b int) PARTITION BY LIST (a);
                    CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE t2 PARTITION OF t DEFAULT;
                    CREATE PUBLICATION p FOR TABLE t",
        tables: &["public.t1", "public.t2"],
        then: &[("UPDATE t1 SET b = 2", unnamed!(UPDATE "t1")), ("DELETE FROM t2", unnamed!(DELETE "t2"))],
        ..PLAIN
    },
    Case {
        name: "a deferrable key cannot be chosen",
        rule: "pg/deferrable-key",
        offending: "CREATE TABLE t (a int PRIMARY KEY DEFERRABLE, b int); CREATE PUBLICATION p FOR TABLE t",
        then: &[("UPDATE t SET b = 2", unnamed!(UPDATE "t"))],
        mended: By::Hand("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a); ALTER TABLE t REPLICA IDENTITY USING INDEX i"),
        ..PLAIN
    },
];
