//! Equal values are equal whatever the versions, the settings and the encodings.

use crate::scene::Pair;

/// Every type family, with what is extreme about it. One row a line; `id` counts them.
const TYPES: &[(&str, &[&str])] = &[
    ("bool", &["true", "false"]),
    ("int2", &["-32768", "32767"]),
    ("int4", &["-2147483648", "2147483647"]),
    ("int8", &["-9223372036854775808", "9223372036854775807"]),
    (
        "float4",
        &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "'0'", "1.17549435e-38", "3.4028235e38", "0.1", "1e-45"],
    ),
    (
        "float8",
        &["'NaN'", "'Infinity'", "'-0'", "0.1", "1/3::float8", "5e-324", "1.7976931348623157e308", "1e15", "1e16"],
    ),
    ("numeric", &["'NaN'", "'Infinity'", "'-Infinity'", "1.0", "1.00", "1e-100", "123456789012345678901234567890.5"]),
    ("numeric(20, 5)", &["1.5", "-0.00001"]),
    ("money", &["12.34::numeric::money", "(-92233720368547758.08)::numeric::money"]),
    (
        "text",
        &["''", "' '", "'a,b'", "'(\"\\)'", "'größe €😀'", "E'line\\nbreak\\ttab'", "'NULL'", "repeat('x', 100000)"],
    ),
    ("varchar(10)", &["''", "'ab '"]),
    ("char(5)", &["''", "'ab'"]),
    ("\"char\"", &["'a'", "''", "(-100)::\"char\"", "127::\"char\""]),
    ("\"char\"[]", &["ARRAY[(-100)::\"char\", 'a', NULL]"]),
    ("name", &["'n'"]),
    ("bytea", &["''", "'\\x00ff5c27'"]),
    ("date", &["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2026-11-21'"]),
    ("time", &["'00:00'", "'24:00'", "'12:34:56.789012'"]),
    ("timetz", &["'12:34:56.789+05:45'", "'00:00-15:59'"]),
    ("timestamp", &["'infinity'", "'2026-11-21 01:02:03.000001'", "'4713-01-01 00:00 BC'"]),
    (
        "timestamptz",
        &["'-infinity'", "'2026-03-29 01:30:00+00'", "'2026-10-25 00:30:00.5+00'", "'1883-11-18 12:00+00'"],
    ),
    ("interval", &["'1 year 2 mons -3 days 04:05:06.789'", "'-1 mon +1 day'", "'178000000 years'", "'0'"]),
    ("uuid", &["'00000000-0000-0000-0000-000000000000'", "'FFFFFFFF-ffff-FFFF-ffff-ffffffffffff'"]),
    ("json", &["'{\"b\": 1,  \"a\":null}'", "'[1.0, 1e2]'", "'null'"]),
    ("jsonb", &["'{\"b\": 1,  \"a\":null, \"b\": 2}'", "'[1.0, 1e2, \"\\u00e4\"]'", "'null'"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1)'"]),
    ("xml", &["'<a b=\"c\">text</a>'"]),
    ("inet", &["'10.0.0.1/8'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("bit(5)", &["B'10101'"]),
    ("varbit", &["B''", "B'1'"]),
    ("point", &["'(0.1,-0)'"]),
    ("box", &["'(1,1),(0.1,0)'"]),
    ("path", &["'[(0,0),(1,1)]'"]),
    ("circle", &["'<(0,0),0.3>'"]),
    ("tsvector", &["'a:1A b:2'", "to_tsvector('pg_catalog.english', 'The quick foxes')"]),
    ("tsquery", &["'a & !b'"]),
    ("pg_lsn", &["'0/16B3748'"]),
    ("oid", &["4294967295"]),
    ("regclass", &["'pg_catalog.pg_class'", "'public.\"Odd table\"'"]),
    ("int4range", &["'empty'", "'[1,5]'", "'(,)'"]),
    ("tstzrange", &["'[2026-01-01 00:00+00, infinity)'"]),
    ("nummultirange", &["'{[1.0,2.00),(3,)}'"]),
    ("int4[]", &["'{}'", "'{1,NULL,3}'", "'[0:1][2:3]={{1,2},{3,4}}'"]),
    ("text[]", &["'{\"\",NULL,\"NULL\",\"a,b\"}'"]),
    ("timestamptz[]", &["ARRAY['2026-11-21 00:00+00'::timestamptz]"]),
    ("mood", &["'sad'", "'Happy, \"so\"'"]),
    ("mood[]", &["'{sad}'"]),
    ("positive", &["1"]),
    ("pair", &["ROW(1, '')::pair", "ROW(NULL, NULL)::pair", "ROW(1, 'a,\"b\"')::pair"]),
    ("pair[]", &["ARRAY[ROW(1, 'x')::pair]"]),
    ("floats", &["floats(0.1, 'infinity')"]),
];

const OWN_TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'Happy, \"so\"'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TYPE pair AS (a int, b text); CREATE TYPE floats AS RANGE (subtype = float8); CREATE TABLE \"Odd table\" ()";

#[test]
fn all_types_are_equal_between_versions_whatever_the_settings() {
    let pair = Pair::with(
        14,
        &[
            ("timezone", "Asia/Kathmandu"),
            ("datestyle", "SQL, DMY"),
            ("intervalstyle", "iso_8601"),
            ("extra_float_digits", "-10"),
            ("bytea_output", "escape"),
            ("xmloption", "document"),
            ("quote_all_identifiers", "on"),
        ],
        18,
        &[("timezone", "America/St_Johns"), ("datestyle", "German"), ("intervalstyle", "sql_standard")],
    );
    // What is put in is read in one way.
    pair.both("SET datestyle = ISO; SET intervalstyle = postgres; SET xmloption = content");
    pair.both(OWN_TYPES);
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(n, (of, _))| format!("c{n} {of}")).collect();
    pair.both(&format!("CREATE TABLE wide (id int PRIMARY KEY, {})", columns.join(", ")));
    pair.both("INSERT INTO wide VALUES (0)");
    let mut id = 0;
    for (n, (of, values)) in TYPES.iter().enumerate() {
        for value in *values {
            id += 1;
            // The way a subscription gives it: as text.
            pair.both(&format!("INSERT INTO wide (id, c{n}) VALUES ({id}, ({value})::{of})"));
        }
    }
    pair.both("RESET datestyle; RESET intervalstyle");
    let text = "SELECT md5(string_agg(wide::text, '|' ORDER BY id)) FROM wide";
    assert_ne!(pair.from.value(text), pair.to.value(text), "the settings make a difference");

    let told = pair.verify(&[]);
    assert_eq!(told.status, Some(0), "{told:?}");
    assert_eq!(told.table("public.wide")["source_rows"], id + 1);
    assert_eq!(told.json()["outcome"], "equal");

    // Each value alone makes a difference, too.
    for (n, _) in TYPES.iter().enumerate() {
        pair.to
            .run(&format!("UPDATE wide SET c{n} = NULL WHERE id = (SELECT min(id) FROM wide WHERE c{n} IS NOT NULL)"));
    }
    let told = pair.verify(&["--keys", "1000"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    assert_eq!(told.table("public.wide")["rows"]["changed"], TYPES.len());
    assert_eq!(told.keys("public.wide").len(), TYPES.len());
}

#[test]
fn databases_of_different_encodings_are_compared_by_characters() {
    let mut pair = Pair::start(15, 17);
    pair.from.run("CREATE DATABASE d ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    pair.to.run("CREATE DATABASE d ENCODING 'UTF8' TEMPLATE template0");
    pair = Pair::of(pair.source, pair.target, "d");
    pair.both("CREATE TABLE t (name text PRIMARY KEY, note text); INSERT INTO t VALUES ('größe', 'é'), ('b', 'ü')");
    let (source, target) = (pair.source.dsn("d"), pair.target.dsn("d"));
    let arguments = ["verify", "--source", &source, "--target", &target, "--format", "json", "--settle", "1ms"];
    let told = crate::scene::gate(&arguments);
    assert_eq!(told.status, Some(0), "{told:?}");
    pair.to.run("UPDATE t SET note = 'e' WHERE name = 'größe'");
    let told = crate::scene::gate(&arguments);
    assert_eq!((told.status, told.keys("public.t")), (Some(1), vec!["changed name=größe".to_owned()]), "{told:?}");
}

/// The keys are ordered by each side in its own way, which must not matter.
#[test]
fn keys_may_be_of_any_type_and_any_collation() {
    let pair = Pair::start(14, 18);
    let keys = [
        ("text COLLATE \"C\"", "text COLLATE \"en-x-icu\"", ["'Zoë'", "'a b'", "'Äpfel'", "''"]),
        ("varchar(20) COLLATE \"de-x-icu\"", "varchar(20) COLLATE \"POSIX\"", ["'ß'", "'ss'", "'A'", "'a'"]),
        ("uuid", "uuid", ["md5('1')::uuid", "md5('2')::uuid", "md5('3')::uuid", "md5('4')::uuid"]),
        ("numeric", "numeric", ["1.0", "-5", "1e100", "'NaN'"]),
        (
            "timestamptz",
            "timestamptz",
            ["'infinity'", "'2026-11-21 00:00+00'", "'2000-01-01 00:00+00'", "'1900-01-01 00:00+00'"],
        ),
        ("bytea", "bytea", ["''", "'\\x00'", "'\\xff'", "'\\x27'"]),
        ("char(4)", "char(4)", ["'a'", "'b'", "'ab'", "''"]),
        ("bool", "bool", ["true", "true", "true", "false"]),
        ("int4[]", "int4[]", ["'{}'", "'{1,2}'", "'{3}'", "'{4}'"]),
        ("mood", "mood", ["'x'", "'x'", "'x'", "'y y'"]),
        ("int4range", "int4range", ["'[1,2)'", "'[3,4)'", "'empty'", "'(,)'"]),
    ];
    pair.from.run("CREATE TYPE mood AS ENUM ('x', 'y y')");
    pair.to.run("CREATE TYPE mood AS ENUM ('y y'); ALTER TYPE mood ADD VALUE 'x'");
    for (n, (of_source, of_target, values)) in keys.iter().enumerate() {
        pair.from.run(&format!("CREATE TABLE k{n} (k {of_source} PRIMARY KEY, v text)"));
        pair.to.run(&format!("CREATE TABLE k{n} (k {of_target} PRIMARY KEY, v text)"));
        for value in values {
            pair.both(&format!("INSERT INTO k{n} VALUES ({value}, 'v') ON CONFLICT DO NOTHING"));
        }
    }
    let told = pair.verify(&[]);
    assert_eq!(told.status, Some(0), "{told:?}");
    for (n, (_, _, values)) in keys.iter().enumerate() {
        let [.., last] = values;
        pair.to.run(&format!("UPDATE k{n} SET v = 'w' WHERE k = {last}"));
    }
    // They are looked up again by their keys, and differ still.
    let told = pair.verify(&["--settle", "1ms"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    for n in 0..keys.len() {
        let name = format!("public.k{n}");
        assert_eq!(told.table(&name)["rows"]["changed"], 1, "{told:?}");
        let key = pair.to.value(&format!("SELECT 'changed k=' || k::text FROM k{n} WHERE v = 'w'"));
        assert_eq!(told.keys(&name), [key]);
    }
}
