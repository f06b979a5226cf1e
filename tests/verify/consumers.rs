//! What is compared is what the consumers are sent, while it is sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use walgate::verify::{self, Error, Options, Outcome, Report, Scope};

use crate::scene::{Pair, gate as gate_command};
use crate::support::client::connector;
use crate::support::command;

impl Pair {
    /// Compares by the library what the readers of a slot are sent.
    fn run(&self, options: &Options) -> Result<Report, Error> {
        let [source, target] = [&self.source, &self.target].map(|server| connector(&server.dsn("postgres")));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(verify::run(&source, &target, options, &|_| {}))
    }

    fn subscribe(&self, slot: &str, publications: &str) {
        let dsn = self.source.dsn("postgres");
        self.to.run(&format!("CREATE SUBSCRIPTION {slot} CONNECTION '{dsn}' PUBLICATION {publications}"));
        self.to.until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    }
}

fn consumer(slot: &str) -> Options {
    Options { scope: Scope::Consumers(vec![slot.parse().expect("it is a name")]), ..Options::default() }
}

#[test]
fn only_what_is_published_is_compared() {
    let pair = Pair::start(15, 18);
    pair.both(
        "CREATE TABLE filtered (id int PRIMARY KEY, keep bool, v text); CREATE TABLE listed (id int PRIMARY KEY, a int, b int);
         CREATE TABLE other (id int PRIMARY KEY); CREATE TABLE audit (at date); CREATE TABLE twice (id int PRIMARY KEY, n int)",
    );
    pair.both("CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)");
    pair.from.run(
        "CREATE TABLE root_1 PARTITION OF root FOR VALUES FROM (0) TO (10); CREATE TABLE root_2 PARTITION OF root DEFAULT;
         INSERT INTO filtered VALUES (1, true, 'x'), (2, false, 'y'), (3, NULL, 'z'); INSERT INTO listed VALUES (1, 1, 1);
         INSERT INTO other VALUES (1); INSERT INTO twice VALUES (1, 1), (2, 5), (3, 9); INSERT INTO root VALUES (1, 'a'), (11, 'b');
         ALTER TABLE filtered REPLICA IDENTITY FULL; ALTER TABLE twice REPLICA IDENTITY FULL;
         CREATE PUBLICATION p FOR TABLE filtered WHERE (keep), listed (id, a), twice WHERE (n < 3);
         CREATE PUBLICATION q FOR TABLE root, twice WHERE (n > 7) WITH (publish_via_partition_root, publish = 'insert, update')",
    );
    pair.to.run("CREATE TABLE root_all PARTITION OF root DEFAULT; ALTER TABLE listed ADD COLUMN own int; UPDATE listed SET b = 5");
    pair.subscribe("s", "p, q");
    let told = pair.verify(&["--publication", "p", "--publication", "q"]);
    assert_eq!(told.status, Some(0), "{told:?}");
    let names: Vec<_> = told.json()["tables"].as_array().unwrap().iter().map(|it| it["table"].clone()).collect();
    assert_eq!(names, ["public.filtered", "public.listed", "public.root", "public.twice"]);
    assert_eq!(
        (told.table("public.filtered")["source_rows"].as_u64(), told.table("public.twice")["source_rows"].as_u64()),
        (Some(1), Some(2))
    );
    let notes = |name: &str| told.table(name)["notes"].to_string();
    assert!(
        notes("public.filtered").contains("only the published rows are compared: keep"),
        "{}",
        notes("public.filtered")
    );
    assert!(notes("public.listed").contains("not compared: b") && notes("public.listed").contains("own"));
    assert!(notes("public.root").contains("q does not publish delete"));
    // The same, found by the slot: as long as it is read, and when only the subscription knows.
    assert_eq!(pair.run(&consumer("s")).expect("it is compared").outcome, Outcome::Equal);
    pair.to.run("ALTER SUBSCRIPTION s DISABLE");
    pair.from.until("SELECT count(*) FROM pg_stat_replication", "0");
    let accepted = vec!["public.audit".to_owned(), "public.nosuch".to_owned()];
    let report = pair.run(&Options { accepted: accepted.clone(), ..consumer("s") }).expect("it is compared");
    assert_eq!(report.outcome, Outcome::Equal);
    let audit = report.tables.iter().find(|table| table.table.to_string() == "public.audit").expect("it is mentioned");
    // It has no key, so that nothing can replicate it: it is to be carried over by hand.
    assert_eq!(audit.state, verify::State::Equal);
    let asked = Options { accepted, tables: vec!["public.audit".to_owned()], ..consumer("s") };
    assert_eq!(pair.run(&asked).expect("it is compared").tables[0].state, verify::State::Equal);
    pair.to.run("UPDATE root SET v = 'B' WHERE id = 11; DELETE FROM twice WHERE id = 3");
    let told = pair.verify(&["--publication", "p", "--publication", "q"]);
    assert_eq!(
        (told.keys("public.root"), told.keys("public.twice")),
        (vec!["changed id=11".into()], vec!["missing id=3".into()])
    );
    assert!(matches!(pair.run(&consumer("nosuch")), Err(Error::NothingKnown(_))));
}

/// By a file, as a cutover job does it.
#[test]
fn a_gate_says_what_is_compared_with_what() {
    let pair = Pair::start(16, 17);
    pair.both("CREATE TABLE t (id serial PRIMARY KEY); CREATE TABLE audit (at date); CREATE TABLE log (id int PRIMARY KEY); CREATE SEQUENCE own");
    pair.from.run("INSERT INTO audit VALUES ('today'); INSERT INTO log VALUES (1); INSERT INTO t DEFAULT VALUES; SELECT setval('own', 5); CREATE PUBLICATION p FOR TABLE t");
    pair.subscribe("green_sub", "p");
    let (source, target) = (pair.source.dsn("postgres"), pair.target.dsn("postgres"));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("walgate.toml");
    let gate = |name: &str, kind: &str, target: &str| {
        format!(
            "[[gate]]\nname = \"{name}\"\nsource = \"blue\"\nconsumers = [\"green_sub\"]\n\
             accept_unreplicated = [\"public.audit\", \"public.log\", \"public.own\"]\n[gate.target]\nkind = \"{kind}\"\n{target}\n"
        )
    };
    let configuration = format!(
        "[[source]]\nname = \"blue\"\ndsn = \"{source}\"\n{}{}",
        gate("blue-green", "subscription", &format!("dsn = \"{target}\"")),
        gate("elsewhere", "slot", "")
    );
    std::fs::write(&file, configuration).expect("it is written");
    let file = file.to_str().expect("it is UTF-8");
    let verified = || gate_command(&["verify", "blue-green", "-c", file, "--format", "json"]);
    let told = verified();
    assert_eq!(told.status, Some(1), "{told:?}");
    let state = |told: &command::Outcome, table: &str| told.table(table)["state"].as_str().unwrap().to_owned();
    assert_eq!(
        (state(&told, "public.t"), state(&told, "public.audit"), state(&told, "public.log")),
        ("equal".into(), "different".into(), "skipped".into()),
        "what has no key is carried over by hand, and the rest left alone"
    );
    pair.to.run("INSERT INTO audit VALUES ('today')");
    assert_eq!(verified().status, Some(0));
    let told = gate_command(&["verify", "blue-green", "-c", file]);
    assert!(
        told.output.contains("2 equal, 1 skipped: all rows are equal of the tables that were looked at."),
        "{told:?}"
    );
    let told = gate_command(&["sequences", "blue-green", "-c", file, "--apply", "--yes"]);
    assert_eq!(
        (told.status, told.output.contains("public.own")),
        (Some(0), false),
        "what was accepted is left alone: {told:?}"
    );
    assert_eq!(pair.to.value("SELECT nextval('t_id_seq')"), "2");
    // Now the target is ahead, and behind it is the source.
    let back = gate_command(&["sequences", "blue-green", "-c", file, "--phase", "rollback"]);
    assert!(back.status == Some(1) && back.output.contains("setval('public.t_id_seq', 2, true)"), "{back:?}");
    assert!(
        back.output.contains("-- On the source, which a rollback takes for the target, or by --apply."),
        "{back:?}"
    );

    for arguments in [
        &["blue-green"][..],
        &["nosuch", "-c", file],
        &["elsewhere", "-c", file],
        &["blue-green", "-c", file, "--source", "host=h", "--target", "host=h"],
        &["--source", "host=h"],
        &[],
    ] {
        let told = gate_command(&[&["verify"], arguments].concat());
        assert_eq!(told.status, Some(2), "{told:?}");
    }
}

#[test]
fn the_replication_sets_of_pglogical_say_what_is_compared() {
    let installation = walgate::scratch::find(15).expect("Debian's PostgreSQL 15 is installed, with pglogical");
    let start = || {
        let builder = walgate::scratch::Server::builder(installation.clone());
        builder.setting("shared_preload_libraries", "pglogical").start().expect("the server starts")
    };
    let pair = Pair::of(start(), start(), "postgres");
    for (sql, server, name) in [(&pair.from, &pair.source, "provider"), (&pair.to, &pair.target, "subscriber")] {
        // The last minor versions ask which output plugins may be used; others do not know the setting.
        let _ = sql.try_rows("ALTER SYSTEM SET output_plugin_libraries = pgoutput, pglogical_output");
        sql.run("SELECT pg_reload_conf()");
        sql.run("CREATE EXTENSION pglogical");
        sql.run(&format!("SELECT pglogical.create_node('{name}', '{}')", server.dsn("postgres")));
    }
    pair.both(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE listed (id int PRIMARY KEY, a int, b int);
         CREATE TABLE filtered (id int PRIMARY KEY, keep bool); CREATE TABLE keyless (v text)",
    );
    pair.from.run(
        "INSERT INTO t VALUES (1, 'a'); INSERT INTO listed VALUES (1, 1, 1); INSERT INTO filtered VALUES (1, true), (2, false);
         INSERT INTO keyless VALUES ('a');
         SELECT pglogical.replication_set_add_table('default', 't');
         SELECT pglogical.replication_set_add_table('default', 'listed', columns := '{id, a}');
         SELECT pglogical.replication_set_add_table('default', 'filtered', row_filter := 'keep')",
    );
    let provider = pair.source.dsn("postgres");
    pair.to.run(&format!(
        "SELECT pglogical.create_subscription('s', '{provider}', '{{default}}', synchronize_data := true)"
    ));
    pair.to.until("SELECT status FROM pglogical.show_subscription_status()", "replicating");
    pair.to.until("SELECT count(*) FROM pglogical.local_sync_status WHERE sync_status NOT IN ('y', 'r')", "0");
    let slot = pair.from.value("SELECT slot_name FROM pg_replication_slots");
    let report = pair.run(&consumer(&slot)).expect("it is compared");
    let names: Vec<String> = report.tables.iter().map(|table| table.table.to_string()).collect();
    assert_eq!(names, ["public.filtered", "public.listed", "public.t"]);
    assert_eq!(report.outcome, Outcome::Equal, "{report:?}");
    assert_eq!(report.evidence(None).equal, 3);
    pair.to.run("UPDATE t SET v = 'b'");
    let report = pair.run(&Options { settle: std::time::Duration::ZERO, ..consumer(&slot) }).expect("it is compared");
    assert_eq!(report.evidence(None).different[0].1, "the rows differ");
}

/// The source is written to all the time; each side is seen as of one moment, and what is under way arrives.
#[test]
fn a_table_that_is_written_to_is_not_taken_for_different() {
    let pair = Pair::start(17, 18);
    // Full pages, and more than one piece for each session: an update moves a row to the end.
    pair.both("CREATE TABLE t (id int PRIMARY KEY, n int, v text)");
    pair.from.run(
        "INSERT INTO t SELECT n, 0, repeat('x', 1900) FROM generate_series(1, 40000) n; CREATE PUBLICATION p FOR TABLE t",
    );
    pair.subscribe("s", "p");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut id = 0;
            while !stop.load(Ordering::Relaxed) {
                id = (id + 7919) % 40_000;
                pair.from.run(&format!("UPDATE t SET n = n + 1 WHERE id = {}", id + 1));
            }
        });
        let report = pair.run(&Options { settle: std::time::Duration::from_secs(60), jobs: 2, ..consumer("s") });
        stop.store(true, Ordering::Relaxed);
        let report = report.expect("it is compared");
        assert_eq!(report.outcome, Outcome::Equal, "{report:?}");
        assert_eq!((report.tables[0].source_rows, report.tables[0].target_rows), (Some(40_000), Some(40_000)));
    });
    pair.to.run("ALTER SUBSCRIPTION s DISABLE; UPDATE t SET n = -1 WHERE id = 7");
    pair.to.until("SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL", "0");
    let report =
        pair.run(&Options { settle: std::time::Duration::from_millis(1), ..consumer("s") }).expect("it is compared");
    assert_eq!(report.outcome, Outcome::Different, "what does not arrive stays different");
}

#[test]
fn a_physical_standby_is_compared_whole() {
    let mut source = crate::support::postgres(16).start().expect("the server starts");
    let standby = source.standby(&source.dsn("postgres")).expect("a standby starts");
    let pair = Pair::of(source, standby, "postgres");
    pair.from.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text) WITH (fillfactor = 10);
         INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series(1, 12000) n; CREATE TABLE keyless (v text);
         CREATE UNLOGGED TABLE unlogged (id int); CREATE UNLOGGED SEQUENCE off; CREATE SEQUENCE s; CREATE TABLE last ()",
    );
    pair.to.until("SELECT count(*) FROM pg_class WHERE relname = 'last'", "1");
    let told = pair.verify(&["--jobs", "3"]);
    // What was not looked at is not equal.
    assert_eq!((told.status, told.table("public.unlogged")["state"].as_str()), (Some(3), Some("unknown")), "{told:?}");
    assert_eq!(told.table("public.t")["state"], "equal");
    let told = pair.sequences(&[]);
    assert!(told.output.contains("1 at or past, 1 unknown"), "{told:?}");
}
