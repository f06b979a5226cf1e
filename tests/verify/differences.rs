//! Every kind of difference is found, and named by its key; what is not one is not.

use crate::scene::Pair;

/// Rows that differ in ways which poorer digests do not see: each is a table, how it is made, the rows of the source, those of
/// the target, and the keys that are to be named.
const CASES: &[(&str, &str, &str, &str, &[&str])] = &[
    ("missing", "id int PRIMARY KEY, a text", "(1, 'a'), (2, 'b')", "(1, 'a')", &["missing id=2"]),
    ("extra", "id int PRIMARY KEY, a text", "(1, 'a')", "(1, 'a'), (-3, 'a')", &["extra id=-3"]),
    ("changed", "id int PRIMARY KEY, a text", "(1, 'a'), (2, 'b')", "(1, 'a'), (2, 'B')", &["changed id=2"]),
    // The same number of rows, the same keys, and the same values.
    (
        "swapped",
        "id int PRIMARY KEY, a text",
        "(1, 'a'), (2, 'b'), (3, 'c')",
        "(1, 'b'), (2, 'a'), (3, 'c')",
        &["changed id=1", "changed id=2"],
    ),
    ("swapped_columns", "id int PRIMARY KEY, a text, b text", "(1, 'x', 'y')", "(1, 'y', 'x')", &["changed id=1"]),
    ("null_or_empty", "id int PRIMARY KEY, a text", "(1, NULL), (2, '')", "(1, ''), (2, '')", &["changed id=1"]),
    ("null_elsewhere", "id int PRIMARY KEY, a int, b int", "(1, NULL, 1)", "(1, 1, NULL)", &["changed id=1"]),
    ("boundaries", "id int PRIMARY KEY, a text, b text", "(1, 'a,b', 'c')", "(1, 'a', 'b,c')", &["changed id=1"]),
    ("quotes", "id int PRIMARY KEY, a text, b text", "(1, 'a\"', 'b')", "(1, 'a', '\"b')", &["changed id=1"]),
    ("blanks", "id int PRIMARY KEY, a text", "(1, 'a ')", "(1, 'a')", &["changed id=1"]),
    ("zeros", "id int PRIMARY KEY, a float8", "(1, '-0')", "(1, '0')", &["changed id=1"]),
    ("scale", "id int PRIMARY KEY, a numeric", "(1, 1.0)", "(1, 1.00)", &["changed id=1"]),
    ("last_digit", "id int PRIMARY KEY, a float8", "(1, 0.1)", "(1, 0.10000000000000002)", &["changed id=1"]),
    (
        "composite",
        "a int, b text, c int, PRIMARY KEY (b, a)",
        "(1, 'x', 1), (1, 'y', 1), (2, 'x', 1)",
        "(1, 'x', 1), (1, 'y', 2)",
        &["missing a=2,b=x", "changed a=1,b=y"],
    ),
    ("text_key", "k text PRIMARY KEY", "('a, b'), ('''; --')", "('a, b')", &["missing k='; --"]),
    ("unique_key", "id int NOT NULL UNIQUE, a int", "(1, 1)", "(1, 2)", &["changed id=1"]),
    ("empty", "id int PRIMARY KEY", "(1), (2)", "", &["missing id=1", "missing id=2"]),
];

#[test]
fn each_difference_is_named_by_its_key() {
    let pair = Pair::start(14, 18);
    for (name, columns, source, target, _) in CASES {
        pair.both(&format!("CREATE TABLE {name} ({columns})"));
        for (sql, rows) in [(&pair.from, source), (&pair.to, target)] {
            if !rows.is_empty() {
                sql.run(&format!("INSERT INTO {name} VALUES {rows}"));
            }
        }
    }
    // They are looked up again, which must not take anything away.
    for settle in ["0s", "1ms"] {
        let told = pair.verify(&["--settle", settle]);
        assert_eq!(told.status, Some(1), "{told:?}");
        for (name, _, _, _, expected) in CASES {
            let name = format!("public.{name}");
            assert_eq!(told.keys(&name), *expected, "{name}");
            assert_eq!(told.table(&name)["state"], "different");
        }
    }
}

/// What makes XOR, or a sum of a hash for each column, blind.
#[test]
fn rows_that_cancel_out_are_noticed_without_a_key() {
    let pair = Pair::start(15, 17);
    let cases = [
        ("twice", "('a'), ('a'), ('c')", "('b'), ('b'), ('c')"),
        ("four", "('a'), ('a'), ('a'), ('b')", "('a'), ('b'), ('b'), ('b')"),
        ("more", "('a'), ('a'), ('a')", "('a')"),
        ("nothing", "('a'), ('a')", ""),
        ("empty_or_null", "(NULL), ('')", "(NULL), (NULL)"),
    ];
    for (name, source, target) in cases {
        pair.both(&format!("CREATE TABLE {name} (v text)"));
        for (sql, rows) in [(&pair.from, source), (&pair.to, target)] {
            if !rows.is_empty() {
                sql.run(&format!("INSERT INTO {name} VALUES {rows}"));
            }
        }
    }
    pair.both("CREATE TABLE same (v text)");
    pair.from.run("INSERT INTO same VALUES ('a'), ('b'), ('a')");
    pair.to.run("INSERT INTO same VALUES ('b'), ('a'), ('a')");
    // What would not have noticed.
    let xor = "SELECT bit_xor(hashtextextended(v, 0)) FROM ";
    for name in ["twice", "more"] {
        let [source, target] = [&pair.from, &pair.to].map(|sql| sql.value(&format!("{xor} {name}")));
        assert_eq!(source, target, "{name}");
    }
    let told = pair.verify(&[]);
    for (name, ..) in cases {
        let table = told.table(&format!("public.{name}"));
        assert_eq!(table["state"], "different", "{told:?}");
        assert!(table["reason"].as_str().unwrap().contains("no key to name them by"), "{table}");
        assert!(table["rows"].is_null(), "{table}");
    }
    assert_eq!(told.table("public.same")["state"], "equal");
    assert_eq!((told.table("public.more")["source_rows"].as_u64(), told.status), (Some(3), Some(1)));
}

#[test]
fn a_row_that_is_there_twice_on_one_side_is_changed() {
    let pair = Pair::start(16, 16);
    pair.both("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    pair.to.run("ALTER TABLE t DROP CONSTRAINT t_pkey; INSERT INTO t VALUES (1, 'a')");
    let told = pair.verify(&[]);
    assert_eq!((told.keys("public.t"), told.status), (vec!["changed id=1".to_owned()], Some(1)));
}

#[test]
fn what_a_table_looks_like_inside_makes_no_difference() {
    let pair = Pair::start(14, 18);
    // Names as bad as names can be, and columns in another order.
    pair.both(r#"CREATE SCHEMA "s.1 'x"; CREATE TYPE "s.1 'x"."k ind" AS ENUM ('a', 'b')"#);
    pair.from.run(
        r#"CREATE TABLE "s.1 'x"."größe.""; --" ("a ""b" int, "select" "s.1 'x"."k ind", gone int, "ÄÖ $1" text, r int, PRIMARY KEY ("select", "a ""b"));
           ALTER TABLE "s.1 'x"."größe.""; --" DROP COLUMN gone"#,
    );
    pair.to.run(
        r#"CREATE TABLE "s.1 'x"."größe.""; --" (r int, "ÄÖ $1" text, "a ""b" int, "select" "s.1 'x"."k ind", PRIMARY KEY ("a ""b", "select"))"#,
    );
    let insert = r#"INSERT INTO "s.1 'x"."größe.""; --" ("a ""b", "select", "ÄÖ $1", r) VALUES "#;
    pair.both(&format!("{insert} (1, 'a', 'x', 7), (2, 'b', NULL, 8)"));
    // Partitions by other bounds, none at all, and what inherits.
    pair.from.run(
        "CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (500);
         CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (500) TO (2000) PARTITION BY RANGE (id);
         CREATE TABLE part_2_1 PARTITION OF part_2 FOR VALUES FROM (500) TO (2000);
         CREATE TABLE plain (id int PRIMARY KEY, v text); CREATE TABLE nothing (id int) PARTITION BY RANGE (id)",
    );
    pair.to.run(
        "CREATE TABLE part (v text, id int PRIMARY KEY);
         CREATE TABLE plain (id int PRIMARY KEY, v text) PARTITION BY HASH (id);
         CREATE TABLE plain_0 PARTITION OF plain FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE plain_1 PARTITION OF plain FOR VALUES WITH (MODULUS 2, REMAINDER 1); CREATE TABLE nothing (id int)",
    );
    pair.both(
        "INSERT INTO part (id, v) SELECT n, 'v' || n FROM generate_series(0, 999) n;
         INSERT INTO plain (id, v) SELECT n, 'v' || n FROM generate_series(0, 999) n;
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
         INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1), (2); CREATE TABLE no_columns ();
         CREATE TABLE generated (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
         INSERT INTO generated VALUES (1)",
    );
    // Other pages, other order, dead rows.
    pair.to.run(
        "UPDATE part SET v = v WHERE id % 3 = 0; DELETE FROM part WHERE id = 5; INSERT INTO part VALUES ('v5', 5)",
    );
    let told = pair.verify(&[]);
    assert_eq!(told.status, Some(0), "{told:?}");
    let tables = told.json()["tables"].as_array().unwrap().len();
    assert_eq!(tables, 8, "each once, without partitions: {told:?}");
    assert_eq!(told.table("public.part")["target_rows"], 1000);

    pair.to.run("UPDATE plain SET v = '' WHERE id = 77; DELETE FROM part WHERE id = 700; INSERT INTO child VALUES (3)");
    pair.to.run(r#"UPDATE "s.1 'x"."größe.""; --" SET r = 0 WHERE r = 7"#);
    let told = pair.verify(&["--settle", "1ms"]);
    assert_eq!(told.keys("public.plain"), ["changed id=77"]);
    assert_eq!(told.keys("public.part"), ["missing id=700"]);
    assert_eq!(told.keys("public.child"), ["extra id=3"]);
    assert_eq!(told.table("public.parent")["state"], "equal");
    let name = r#""s.1 'x"."größe.""; --""#;
    assert_eq!(told.keys(name), ["changed a \"b=1,select=a"]);
    let alone = pair.verify(&["--table", name]);
    assert_eq!(alone.json()["tables"].as_array().unwrap().len(), 1, "{alone:?}");
}

#[test]
fn tables_and_columns_that_are_not_the_same_are_differences_and_no_failures() {
    let pair = Pair::start(17, 15);
    pair.both("CREATE TABLE fine (id int PRIMARY KEY); CREATE UNLOGGED TABLE unlogged (id int)");
    pair.from.run("CREATE TABLE lost (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, a int, b text)");
    pair.to.run("CREATE TABLE found (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, a bigint, d text)");
    pair.both("INSERT INTO c VALUES (1, 1, 'x'), (2, 2, 'y')");
    pair.from.run("CREATE TABLE view (id int PRIMARY KEY)");
    pair.to.run("UPDATE c SET a = 3 WHERE id = 2; CREATE VIEW view AS SELECT 1 AS id");
    let told = pair.verify(&[]);
    assert_eq!(told.status, Some(1), "{told:?}");
    let state = |name: &str| told.table(name)["state"].as_str().unwrap().to_owned();
    for (name, expected) in [("lost", "different"), ("found", "different"), ("fine", "equal"), ("unlogged", "unknown")]
    {
        assert_eq!(state(&format!("public.{name}")), expected, "{told:?}");
    }
    assert!(told.table("public.lost")["reason"].as_str().unwrap().contains("not on the target"));
    assert!(told.table("public.found")["reason"].as_str().unwrap().contains("not on the source"));
    assert_ne!(state("public.view"), "equal");
    let c = told.table("public.c");
    let differing: Vec<_> = c["columns"].as_array().unwrap().iter().map(|it| it["column"].as_str().unwrap()).collect();
    assert_eq!((differing, told.keys("public.c")), (vec!["a", "b", "d"], vec!["changed id=2".to_owned()]), "{c}");
}

#[test]
fn many_differences_are_counted_and_a_few_named() {
    let pair = Pair::start(16, 18);
    pair.both("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (LIKE t INCLUDING ALL)");
    pair.both("INSERT INTO u SELECT n, 'v' FROM generate_series(1, 5000) n");
    pair.from.run("INSERT INTO t SELECT n, 'v' FROM generate_series(1, 300000) n");
    pair.to.run("UPDATE u SET v = 'w' WHERE id <= 1500");
    let told = pair.verify(&[]);
    assert_eq!(told.keys("public.t").len(), 20);
    let (t, u) = (told.table("public.t"), told.table("public.u"));
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert!((100_000..300_000).contains(&number(&t["rows"]["missing"])), "{t}");
    assert!(number(&t["rows"]["not_narrowed"]) > 0, "{t}");
    assert_eq!((number(&u["rows"]["changed"]), number(&u["rows"]["not_narrowed"])), (1500, 0), "{u}");
    // For people.
    let (source, target) = (pair.source.dsn("postgres"), pair.target.dsn("postgres"));
    let shown =
        crate::scene::gate(&["verify", "--source", &source, "--target", &target, "--keys", "3", "--settle", "0s"]);
    assert_eq!(shown.status, Some(1), "{shown:?}");
    assert!(shown.output.contains("at least ") && shown.output.contains("ranges of keys differ"), "{shown:?}");
    assert!(shown.output.contains("and 1497 more"), "{shown:?}");
    assert_eq!(shown.errors, "", "no bar without a terminal");
}
