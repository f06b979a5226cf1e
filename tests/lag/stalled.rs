//! Situations in which something on the way has stopped.

use crate::scene::{Scene, Stopped, is_silent};
use crate::support::daemon::Walgate;
use crate::support::network::{Cut, Network};
use crate::support::oracle::Habits;
use crate::support::{eventually, postgres};

#[test]
fn a_stopped_walsender_is_lag_there() {
    let scene = Scene::of(postgres(16).start().unwrap(), Habits::PLAIN);
    let stopped = Stopped::process(&scene.sql.value("SELECT active_pid FROM pg_replication_slots"));
    scene.sql.run("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10000) i");
    let early = scene.until("it grows", |report| {
        report["stage"] == "walsender" && report["lag"]["seconds_max"].as_f64() > Some(0.5)
    });
    assert_eq!(early["state"], "bounded", "{early}");
    assert!(early["lag"]["undecoded_wal_bytes"].as_u64() > Some(500_000), "{early}");
    let later = scene.until("it grows on", |report| {
        report["lag"]["seconds_max"].as_f64() > early["lag"]["seconds_max"].as_f64().map(|seconds| seconds + 1.0)
    });
    assert_eq!((&later["stage"], &later["state"]), (&"walsender".into(), &"bounded".into()), "{later}");
    scene.show("walsender stopped, 10,000 rows written");
    drop(stopped);
    scene.idle();
}

#[test]
fn a_stopped_consumer_is_lag_that_grows_with_the_clock() {
    let scene = Scene::of(postgres(18).start().unwrap(), Habits::PLAIN);
    scene.oracle.stop();
    scene.write(1, 3);
    scene.sql.run("INSERT INTO t SELECT i, 'x' FROM generate_series(11, 20) i");
    let early = scene.pending(4);
    assert_eq!((early["lag"]["rows"].as_u64(), early["stage"].as_str()), (Some(13), Some("consumer")), "{early}");
    let seconds = early["lag"]["seconds"].as_f64().expect("it is known");
    scene.until("it grows", |report| {
        report["state"] == "live" && report["lag"]["seconds"].as_f64() > Some(seconds + 1.0)
    });
    scene.show("consumer stopped, four transactions written");
    // So much that the socket is full: the walsender cannot go on.
    scene.sql.run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(101, 40100) i");
    let full = scene.until("it is bounded", |report| report["state"] == "bounded");
    scene.until("it is the consumer's", |report| report["state"] == "bounded" && report["stage"] == "consumer");
    assert!(full["lag"]["seconds"].as_f64() > Some(seconds), "{full}");
    scene.show("consumer stopped, 40 MB written");
    scene.oracle.go_on();
    scene.idle();
}

#[test]
fn a_cut_between_the_server_and_walgate_is_never_a_zero() {
    let server = postgres(17).start().unwrap();
    let network = Network::to(server.port());
    let upstream = format!("{} sslmode=disable", server.dsn_via(network.port(), "postgres"));
    let scene = Scene::with(server, Habits::PLAIN, |_| Walgate::run(&upstream, &["--stale-after", "5s"]), |dsn| dsn);
    network.cut(Cut::Replication);
    scene.write(1, 5);
    let report = scene.until("it is lag of the network", |report| report["stage"] == "network");
    assert_eq!(report["state"], "bounded", "{report}");
    scene.until("it grows", |report| report["stage"] == "network" && report["lag"]["seconds_max"].as_f64() > Some(2.0));
    scene.show("network cut under the stream, five transactions written");
    network.cut(Cut::Nothing);
    scene.idle();

    network.cut(Cut::Everything);
    scene.write(11, 5);
    let stale = eventually("what was seen last to be too old", || {
        let report = scene.walgate.lag("s").expect("it is known");
        // Before the next look is overdue, walgate cannot know.
        assert!(report["state"] != "live" || report["observed_age_seconds"].as_f64() < Some(4.0), "{report}");
        if report["state"] == "stale" { Ok(report) } else { Err(report) }
    });
    assert!(is_silent(&stale), "{stale}");
    scene.show("network cut under everything, five transactions written");
    network.cut(Cut::Nothing);
    scene.idle();
}

#[test]
fn a_cut_between_walgate_and_the_consumer_is_lag() {
    let server = postgres(15).start().unwrap();
    let mut network = None;
    let upstream = server.dsn("postgres");
    let scene = Scene::with(
        server,
        Habits::PLAIN,
        |_| Walgate::run(&upstream, &[]),
        |dsn| {
            let port = dsn.split_once("port=").and_then(|(_, rest)| rest.split(' ').next()).expect("a port").to_owned();
            let way = network.insert(Network::to(port.parse().expect("a number")));
            format!("{} sslmode=disable", dsn.replace(&format!("port={port}"), &format!("port={}", way.port())))
        },
    );
    let network = network.expect("it was made");
    network.cut(Cut::Everything);
    scene.write(1, 5);
    let report = scene.pending(5);
    assert_eq!(report["stage"], "consumer", "{report}");
    scene.show("network cut before the consumer, five transactions written");
    network.cut(Cut::Nothing);
    scene.idle();
}
