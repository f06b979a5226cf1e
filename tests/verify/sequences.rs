//! Sequences: who is behind, and how it is brought up.

use crate::scene::Pair;
use crate::support::command::{Outcome, answered, walgate};

const NAMES: &str = r#"
    CREATE SEQUENCE up; CREATE SEQUENCE fresh; CREATE SEQUENCE ahead; CREATE SEQUENCE down INCREMENT -2 MAXVALUE 100 START 100;
    CREATE SEQUENCE by_ten INCREMENT 10; CREATE SEQUENCE tiny AS smallint; CREATE SCHEMA "s.1 'x";
    CREATE SEQUENCE "s.1 'x"."größe""; --"; CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, n serial)"#;

#[test]
fn a_sequence_that_is_behind_is_brought_up_and_never_back() {
    let pair = Pair::start(14, 18);
    pair.both(NAMES);
    pair.from.run(
        r#"SELECT setval('up', 100), setval('ahead', 5), setval('down', 50), setval('by_ten', 31, false), setval('tiny', 32767),
           setval('"s.1 ''x"."größe""; --"', 7), setval('t_id_seq', 9), setval('t_n_seq', 3, false);
           CREATE SEQUENCE absent; CREATE TEMP SEQUENCE temporary"#,
    );
    pair.to.run("SELECT setval('up', 100, false), setval('ahead', 1000), setval('by_ten', 11)");
    let told = pair.sequences(&["--format", "json"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    let standing = |told: &Outcome, name: &str| {
        let body = told.json();
        let found = body["sequences"].as_array().unwrap().iter().find(|one| one["sequence"] == name).cloned();
        found.unwrap_or_else(|| panic!("{name}: {told:?}"))["standing"].as_str().unwrap().to_owned()
    };
    let own = r#""s.1 'x"."größe""; --""#;
    for (name, expected) in [
        ("public.up", "behind"),
        ("public.fresh", "level"),
        ("public.ahead", "level"),
        ("public.down", "behind"),
        ("public.by_ten", "behind"),
        ("public.tiny", "behind"),
        (own, "behind"),
        ("public.t_id_seq", "behind"),
        ("public.t_n_seq", "behind"),
        ("public.absent", "missing"),
    ] {
        assert_eq!(standing(&told, name), expected, "{name}");
    }
    assert_eq!(told.json()["sequences"].as_array().unwrap().len(), 10, "no temporary one: {told:?}");

    // Nothing is done without a yes.
    for answer in ["", "n\n"] {
        let (source, target) = (pair.source.dsn("postgres"), pair.target.dsn("postgres"));
        let asked = ["gate", "sequences", "--source", &source, "--target", &target, "--apply"];
        let told = answered(&mut walgate(&asked), answer);
        assert!(told.status == Some(1) && told.errors.ends_with("Not run.\n"), "{told:?}");
        assert_eq!(pair.to.value("SELECT is_called FROM up"), "f");
    }

    let applied = pair.sequences(&["--apply", "--yes"]);
    assert_eq!(applied.status, Some(1), "one is missing still: {applied:?}");
    assert_eq!(applied.output.matches("; -- done").count(), 7, "{applied:?}");
    pair.to.run("CREATE SEQUENCE absent");
    let again = pair.sequences(&["--apply", "--yes"]);
    assert_eq!((again.status, again.output.contains("-- done")), (Some(0), false), "{again:?}");
    for (sequence, expected) in
        [("up", "101"), ("ahead", "1001"), ("down", "48"), ("by_ten", "31"), ("t_id_seq", "10"), ("t_n_seq", "3")]
    {
        assert_eq!(pair.to.value(&format!("SELECT nextval('{sequence}')")), expected, "{sequence}");
    }
    assert!(pair.to.try_rows("SELECT nextval('tiny')").is_err(), "it is used up, as on the source");
}

/// What is printed can be run by hand, later, and twice.
#[test]
fn a_statement_that_was_printed_leaves_alone_what_is_past_by_then() {
    let pair = Pair::start(18, 15);
    pair.both("CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -1");
    pair.from.run("SELECT setval('up', 100), setval('down', -100)");
    let told = pair.sequences(&[]);
    let printed: Vec<&str> = told.output.lines().filter(|line| line.starts_with("SELECT ")).collect();
    assert_eq!(printed.len(), 2, "{told:?}");
    pair.to.run("SELECT setval('up', 200), setval('down', -99)");
    for statement in &printed {
        pair.to.run(statement);
        pair.to.run(statement);
    }
    assert_eq!(
        (pair.to.value("SELECT nextval('up')"), pair.to.value("SELECT nextval('down')")),
        ("201".into(), "-101".into())
    );
    assert_eq!(pair.sequences(&[]).status, Some(0));
}

#[test]
fn what_cannot_be_read_or_reached_is_said() {
    let pair = Pair::start(16, 17);
    pair.both("CREATE ROLE reader LOGIN; CREATE SEQUENCE secret; CREATE SEQUENCE turned; CREATE SEQUENCE short");
    let nothing = pair.sequences(&[]);
    assert_eq!(nothing.status, Some(0), "{nothing:?}");
    let [source, target] = [&pair.source, &pair.target].map(|server| format!("{} user=reader", server.dsn("postgres")));
    let blind = crate::scene::gate(&["sequences", "--source", &source, "--target", &target]);
    assert_eq!(blind.status, Some(3), "{blind:?}");
    assert!(blind.output.contains("3 unknown"), "{blind:?}");
    // Rights to look are no rights to change.
    pair.both("GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader");
    pair.from.run("SELECT nextval('secret') FROM generate_series(1, 2)");
    let refused = crate::scene::gate(&["sequences", "--source", &source, "--target", &target, "--apply", "--yes"]);
    assert_eq!(refused.status, Some(1), "{refused:?}");
    assert!(refused.errors.contains("GRANT UPDATE ON ALL SEQUENCES IN SCHEMA"), "{refused:?}");
    pair.to.run("GRANT UPDATE ON ALL SEQUENCES IN SCHEMA public TO reader");
    let applied = crate::scene::gate(&["sequences", "--source", &source, "--target", &target, "--apply", "--yes"]);
    assert_eq!((applied.status, &*applied.errors), (Some(0), ""), "{applied:?}");
    pair.to.run("ALTER SEQUENCE turned INCREMENT -1 MINVALUE -5; ALTER SEQUENCE short MAXVALUE 10");
    pair.from.run("SELECT setval('short', 11)");
    let told = pair.sequences(&["--apply", "--yes"]);
    assert_eq!(told.status, Some(1), "{told:?}");
    assert!(told.output.contains("2 different") && told.output.contains("from 1 to 10 on the target"), "{told:?}");
}
