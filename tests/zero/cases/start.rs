//! What zero-cache does not start with.

use super::{By, Case, Met, PLAIN};

/// A column whose type zero-cache takes for an array.
macro_rules! taken_for_an_array {
    ($sql_type:literal, $mended:expr) => {
        Case {
            rule: "zero/type-aborts-sync",
            offending: concat!("CREATE TABLE t (id int PRIMARY KEY, c ", $sql_type, ")"),
            met: Met::AtStart(concat!(
                "TEXT_ARRAY_ATTRIBUTE and [] must be consistent in dataType: ",
                $sql_type,
                "|TEXT_ARRAY"
            )),
            mended: $mended,
            ..PLAIN
        }
    };
}

pub(crate) static START: &[Case] = &[
    taken_for_an_array!("point", By::Hand("ALTER TABLE t ALTER COLUMN c TYPE text")),
    taken_for_an_array!("box", By::Elsewhere),
    taken_for_an_array!("lseg", By::Elsewhere),
    taken_for_an_array!("line", By::Elsewhere),
    taken_for_an_array!("name", By::Elsewhere),
    Case {
        rule: "zero/type-aborts-sync",
        offending: "CREATE TABLE t AS SELECT 1 AS id, ARRAY[1, 2] AS c; ALTER TABLE t ADD PRIMARY KEY (id)",
        met: Met::AtStart("TEXT_ARRAY_ATTRIBUTE and [] must be consistent in dataType: _int4|TEXT_ARRAY"),
        ..PLAIN
    },
    Case {
        rule: "zero/type-aborts-sync",
        offending: "CREATE SCHEMA other; CREATE TABLE other.s (id int PRIMARY KEY, c varchar(9)[]);
                    CREATE TABLE t (LIKE other.s INCLUDING ALL)",
        met: Met::AtStart("TEXT_ARRAY_ATTRIBUTE and [] must be consistent in dataType: _varchar|TEXT_ARRAY"),
        // A type with a collation: a person says which.
        mended: By::Hand("ALTER TABLE t ALTER COLUMN c TYPE varchar(9)[]"),
        ..PLAIN
    },
    Case {
        rule: "zero/identity-nothing",
        offending: "CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING",
        met: Met::AtStart(r#"Table "t" with REPLICA IDENTITY NOTHING cannot be replicated"#),
        ..PLAIN
    },
    Case {
        rule: "zero/identity-index-missing",
        offending: "CREATE TABLE t (id int PRIMARY KEY, c int NOT NULL); CREATE UNIQUE INDEX i ON t (c);
                    ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
        met: Met::AtStart(r#"Table "t" is missing its REPLICA IDENTITY INDEX"#),
        ..PLAIN
    },
    Case {
        rule: "zero/publication-operations",
        offending: "CREATE TABLE t (id int PRIMARY KEY);
                    CREATE PUBLICATION mine FOR TABLE t WITH (publish = 'insert, update, delete')",
        table: "",
        publications: &["mine"],
        met: Met::AtStart("PUBLICATION mine must publish insert, update, delete, and truncate"),
        ..PLAIN
    },
    Case {
        rule: "zero/publication-name",
        offending: r#"CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION "my-own" FOR TABLE t"#,
        table: "",
        publications: &["my-own"],
        met: Met::AtStart(r#"Invalid publication name "my-own"."#),
        mended: By::Naming(r#"ALTER PUBLICATION "my-own" RENAME TO mine"#, &["mine"]),
        ..PLAIN
    },
    Case {
        rule: "zero/publication-name",
        offending: "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION _mine FOR TABLE t",
        table: "",
        publications: &["_mine"],
        met: Met::AtStart(r#"Publication names starting with "_" are reserved for internal use."#),
        mended: By::Naming("ALTER PUBLICATION _mine RENAME TO mine", &["mine"]),
        ..PLAIN
    },
    Case {
        rule: "zero/column-lists-differ",
        offending: "CREATE TABLE t (id int PRIMARY KEY, a int, b int); CREATE PUBLICATION one FOR TABLE t (id, a);
                    CREATE PUBLICATION two FOR TABLE t (id, b)",
        besides: &["pg/column-lists-differ"],
        publications: &["one", "two"],
        met: Met::AtStart("Table t is exported with different columns: [id,a] vs [id,b]"),
        mended: By::Hand("ALTER PUBLICATION two SET TABLE t (id, a)"),
        ..PLAIN
    },
    Case {
        rule: "zero/reserved-name",
        offending: "CREATE TABLE t (id int PRIMARY KEY, _0_version int)",
        met: Met::AtStart(r#"Table "t" uses reserved column name "_0_version""#),
        mended: By::Hand("ALTER TABLE t RENAME COLUMN _0_version TO version"),
        ..PLAIN
    },
    Case {
        rule: "zero/reserved-name",
        offending: r#"CREATE TABLE "SQLite_t" (id int CONSTRAINT k PRIMARY KEY)"#,
        table: r#"public."SQLite_t""#,
        met: Met::AtStart("object name reserved for internal use: SQLite_t"),
        mended: By::Hand(r#"ALTER TABLE "SQLite_t" RENAME TO t"#),
        ..PLAIN
    },
    Case {
        rule: "zero/reserved-name",
        offending: r#"CREATE TABLE t (id int PRIMARY KEY, "_0_Version" int)"#,
        met: Met::AtStart("duplicate column name: _0_version"),
        mended: By::Hand(r#"ALTER TABLE t RENAME COLUMN "_0_Version" TO version"#),
        ..PLAIN
    },
    Case {
        rule: "zero/invalid-name",
        offending: r#"CREATE TABLE "to do" (id int PRIMARY KEY)"#,
        table: r#"public."to do""#,
        met: Met::AtStart(r#"Table "to do" has invalid characters."#),
        mended: By::Hand(r#"ALTER TABLE "to do" RENAME TO "to-do""#),
        ..PLAIN
    },
    Case {
        rule: "zero/invalid-name",
        offending: r#"CREATE TABLE t (id int PRIMARY KEY, "größe" int)"#,
        met: Met::AtStart(r#"Column "größe" in table "t" has invalid characters."#),
        mended: By::Hand(r#"ALTER TABLE t RENAME COLUMN "größe" TO "width.cm""#),
        ..PLAIN
    },
    Case {
        rule: "zero/case-collision",
        offending: r#"CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE "T" (id int CONSTRAINT k PRIMARY KEY)"#,
        table: r#"public."T""#,
        met: Met::AtStart(r#"already exists: CREATE TABLE \"t\""#),
        mended: By::Hand(r#"ALTER TABLE "T" RENAME TO u"#),
        ..PLAIN
    },
    Case {
        rule: "zero/case-collision",
        offending: r#"CREATE TABLE t (id int PRIMARY KEY, a int, "A" int)"#,
        met: Met::AtStart("duplicate column name: A"),
        mended: By::Hand(r#"ALTER TABLE t RENAME COLUMN "A" TO b"#),
        ..PLAIN
    },
    Case {
        rule: "zero/case-collision",
        offending: r#"CREATE TABLE s (id int PRIMARY KEY, a int); CREATE TABLE t (id int PRIMARY KEY, a int);
                      CREATE INDEX i ON s (a); CREATE INDEX "I" ON t (a)"#,
        met: Met::AtStart("index I already exists"),
        mended: By::Hand(r#"ALTER INDEX "I" RENAME TO j"#),
        ..PLAIN
    },
    Case {
        rule: "zero/case-collision",
        offending: r#"CREATE TABLE s (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, a int);
                      CREATE INDEX "S" ON t (a)"#,
        met: Met::AtStart("there is already a table named S"),
        mended: By::Hand(r#"ALTER INDEX "S" RENAME TO i"#),
        ..PLAIN
    },
    Case {
        rule: "zero/inheritance",
        offending: "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (t);
                    INSERT INTO t VALUES (1); INSERT INTO child VALUES (1)",
        met: Met::AtStart("UNIQUE constraint failed: t.id"),
        mended: By::Hand("ALTER TABLE child NO INHERIT t"),
        ..PLAIN
    },
    Case {
        rule: "zero/numeric-unique",
        offending: "CREATE TABLE t (id int PRIMARY KEY, n numeric UNIQUE);
                    INSERT INTO t VALUES (1, 0.1), (2, 0.10000000000000000001)",
        met: Met::AtStart("UNIQUE constraint failed: t.n"),
        mended: By::Hand("ALTER TABLE t ALTER COLUMN n TYPE text"),
        ..PLAIN
    },
    Case {
        // What CREATE UNIQUE INDEX CONCURRENTLY leaves behind where it fails.
        rule: "zero/invalid-unique",
        offending:
            "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1), (2, 1); CREATE INDEX i ON t (a);
                    UPDATE pg_index SET indisunique = true, indisvalid = false WHERE indexrelid = 'i'::regclass",
        met: Met::AtStart("UNIQUE constraint failed: t.a"),
        mended: By::Hand("DROP INDEX i"),
        ..PLAIN
    },
];
