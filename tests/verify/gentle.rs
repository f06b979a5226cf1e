//! What cannot be looked at is unknown, and nobody is kept waiting.

use std::thread;

use crate::scene::{Pair, gate};
use crate::support::{Sql, eventually};

#[test]
fn what_cannot_be_read_is_unknown_and_says_why() {
    let pair = Pair::start(14, 18);
    pair.both(
        "CREATE ROLE reader LOGIN; CREATE TABLE fine (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY);
         CREATE TABLE part (id int PRIMARY KEY); CREATE TABLE rows (id int PRIMARY KEY); INSERT INTO rows VALUES (1), (2);
         CREATE TABLE locked (id int PRIMARY KEY); GRANT SELECT ON fine, rows, locked TO reader; GRANT SELECT (id) ON part TO reader;
         ALTER TABLE part ADD COLUMN hidden text",
    );
    pair.to.run("ALTER TABLE rows ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON rows USING (id = 1)");
    let holder = Sql::connect(&pair.target.dsn("postgres"));
    holder.run("BEGIN; LOCK TABLE locked IN ACCESS EXCLUSIVE MODE");
    let [source, target] = [&pair.source, &pair.target].map(|server| format!("{} user=reader", server.dsn("postgres")));
    let told = gate(&["verify", "--source", &source, "--target", &target, "--format", "json"]);
    assert_eq!(told.status, Some(3), "{told:?}");
    for (name, reason) in [
        ("secret", "permission denied"),
        ("part", "permission denied"),
        ("rows", "on the target: query would be affected by row-level security policy"),
        ("locked", "on the target: canceling statement due to lock timeout; somebody holds a lock on it"),
    ] {
        let table = told.table(&format!("public.{name}"));
        assert_eq!(table["state"], "unknown", "{table}");
        assert!(table["reason"].as_str().unwrap().contains(reason), "{table}");
        assert!(table["source_rows"].is_null() && table["target_rows"].is_null(), "{table}");
    }
    assert_eq!(told.table("public.fine")["state"], "equal", "after all the others");
}

#[test]
fn a_range_that_takes_too_long_is_given_up() {
    let pair = Pair::start(15, 16);
    pair.both("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n");
    let told = pair.verify(&["--range-timeout", "1ms"]);
    // The catalog may be too slow for that as well, which nobody is told to be equal by.
    assert_eq!(told.status, Some(3), "{told:?}");
    assert!(format!("{told:?}").contains("--range-timeout"), "{told:?}");
}

#[test]
fn whoever_wants_to_alter_the_table_is_not_kept_waiting() {
    let pair = Pair::start(17, 18);
    // A page a row: more than two pieces.
    pair.both(
        "CREATE TABLE t (id int PRIMARY KEY, v text) WITH (fillfactor = 10);
         INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series(1, 12000) n",
    );
    thread::scope(|scope| {
        let verifying = scope.spawn(|| pair.verify(&["--max-rate", "1MB", "--jobs", "1"]));
        let reading = "SELECT count(*) > 0 FROM pg_locks WHERE relation = 't'::regclass AND pid <> pg_backend_pid()";
        pair.from.until(reading, "t");
        // Reading on at that rate would take minutes.
        pair.from.run("SET statement_timeout = '30s'; ALTER TABLE t ADD COLUMN w int");
        let told = verifying.join().expect("it ends");
        assert_eq!(told.status, Some(3), "{told:?}");
        let reason = told.table("public.t")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("somebody waits to alter or lock it"), "{reason}");
    });
}

#[test]
fn a_pair_that_cannot_be_compared_is_refused() {
    let pair = Pair::start(18, 18);
    let dsn = pair.source.dsn("postgres");
    for command in ["verify", "sequences"] {
        let same = gate(&[command, "--source", &dsn, "--target", &pair.source.socket_dsn("postgres")]);
        assert_eq!(same.status, Some(2), "{same:?}");
        assert!(same.errors.contains("the same database"), "{same:?}");
        let gone = format!("host=127.0.0.1 port={} user=u password=hunter2", walgate::scratch::free_port().unwrap());
        let unreachable = gate(&[command, "--source", &dsn, "--target", &gone]);
        assert_eq!(unreachable.status, Some(4), "{unreachable:?}");
        assert!(unreachable.errors.contains("target") && !unreachable.errors.contains("hunter2"), "{unreachable:?}");
        assert_eq!(gate(&[command, "--source", "hots=x", "--target", &dsn]).status, Some(2));
    }
    assert_eq!(pair.verify(&["--table", "public.nosuch"]).status, Some(2));
    assert_eq!(pair.verify(&["--publication", "nosuch"]).status, Some(2));
    let nothing = pair.verify(&[]);
    assert_eq!(nothing.status, Some(3), "nothing was proved: {nothing:?}");
}

#[test]
fn a_verification_that_is_dropped_leaves_nothing_behind() {
    use walgate::verify::{self, Options};
    let pair = Pair::start(16, 17);
    pair.both("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 1000) n");
    let [source, target] =
        [&pair.source, &pair.target].map(|server| crate::support::client::connector(&server.dsn("postgres")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walgate verify'";
    runtime.block_on(async {
        let options = Options { max_rate: Some(1), ..Options::default() };
        let begun = tokio::sync::Notify::new();
        let tell = |progress: &verify::Progress| {
            if progress.bytes_done > 0 {
                begun.notify_one();
            }
        };
        tokio::select! {
            ended = verify::run(&source, &target, &options, &tell) => panic!("it ended: {ended:?}"),
            () = begun.notified() => {}
        }
    });
    assert_ne!(pair.from.value(sessions), "");
    drop(runtime);
    for sql in [&pair.from, &pair.to] {
        sql.until(sessions, "0");
    }
    // It can be handed to any thread.
    fn is_send<T: Send>(_: &T) {}
    let options = Options::default();
    is_send(&verify::run(&source, &target, &options, &|_| {}));
    eventually("the end", || Ok::<(), ()>(()));
}
