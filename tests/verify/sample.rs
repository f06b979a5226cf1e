//! A sample says what it is, and is never called equal.

use crate::scene::{Pair, gate};

#[test]
fn a_sample_is_never_equal_and_finds_what_it_looks_at() {
    let pair = Pair::start(14, 18);
    pair.both(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 100000) n;
         CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small VALUES (1);
         CREATE TABLE keyless (id int); INSERT INTO keyless SELECT generate_series(1, 5000); ANALYZE",
    );
    // Rows lie elsewhere on the target.
    pair.to.run("UPDATE t SET v = v WHERE id % 2 = 0; ANALYZE t");
    let told = pair.verify(&["--sample", "1000", "--seed", "7"]);
    assert_eq!((told.status, told.json()["outcome"].as_str()), (Some(3), Some("incomplete")), "{told:?}");
    let t = told.table("public.t");
    assert_eq!(t["state"], "sampled");
    let rows = t["sample"]["rows"].as_u64().unwrap();
    assert!((500..20_000).contains(&rows), "{t}");
    assert_eq!((t["sample"]["of_about"].as_u64(), &t["source_rows"]), (Some(100_000), &serde_json::Value::Null));
    assert_eq!(told.table("public.small")["state"], "equal", "all of it was looked at");
    let keyless = told.table("public.keyless");
    assert_eq!(keyless["state"], "unknown");
    assert!(keyless["reason"].as_str().unwrap().contains("no key"), "{keyless}");
    assert_eq!(
        pair.verify(&["--sample", "1000", "--seed", "7"]).table("public.t"),
        t,
        "the same seed, the same sample"
    );

    let (source, target) = (pair.source.dsn("postgres"), pair.target.dsn("postgres"));
    let shown = gate(&["verify", "--source", &source, "--target", &target, "--sample", "1%", "--table", "public.t"]);
    assert!(shown.output.contains("no difference in the sample: "), "{shown:?}");
    assert!(shown.output.contains(" of about 100000 rows looked at, the rest not"), "{shown:?}");
    assert!(shown.output.contains("not everything was looked at") && !shown.output.contains("equal"), "{shown:?}");
    assert_eq!(shown.status, Some(3));

    let whole = pair.verify(&["--sample", "100%", "--table", "public.t"]);
    assert_eq!((whole.status, whole.table("public.t")["state"].as_str()), (Some(0), Some("equal")));

    // In both directions.
    pair.to.run("UPDATE t SET v = '' WHERE id <= 50000; DELETE FROM t WHERE id > 50000; INSERT INTO t SELECT -n, '' FROM generate_series(1, 50000) n");
    let told = pair.verify(&["--sample", "10000", "--table", "public.t"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    let rows = &told.table("public.t")["rows"];
    for kind in ["missing", "extra", "changed"] {
        assert!(rows[kind].as_u64().unwrap() > 0, "{kind}: {rows}");
    }
}

#[test]
fn a_sample_that_makes_no_sense_is_refused() {
    for sample in ["0", "-1", "0%", "101%", "x", "1.5"] {
        let told = gate(&["verify", "--source", "host=h", "--target", "host=h", &format!("--sample={sample}")]);
        assert_eq!(told.status, Some(2), "{sample}: {told:?}");
    }
}
