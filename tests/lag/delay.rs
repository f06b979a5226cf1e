//! The seconds follow a consumer whose delay is known and varies.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use walgate::scratch::Server;
use walgate::time::PgTimestamp;

use crate::support::daemon::Walgate;
use crate::support::oracle::{Commit, Habits, Ledger, Oracle};
use crate::support::{Sql, eventually, postgres};

/// What is said may be of so long ago, and off by as much: 20 ms in all.
const CLOSE: Duration = Duration::from_millis(10);

/// For how long the consumer keeps which delay, in milliseconds.
const SCHEDULE: [(u64, u64); 4] = [(1000, 0), (1500, 200), (3500, 2000), (1500, 50)];

#[test]
fn the_seconds_follow_a_known_delay_within_20_ms_at_1_to_5000_commits_a_second() {
    let server = postgres(18).start().expect("the server starts");
    let walgate = Walgate::run(&server.dsn("postgres"), &[]);
    thread::scope(|scope| {
        for rate in [1, 10, 100] {
            let (server, walgate) = (&server, &walgate);
            scope.spawn(move || follow(server, walgate, rate));
        }
    });
    follow(&server, &walgate, 1000);
    follow(&server, &walgate, 5000);
}

/// One consumer through the whole schedule, with a writer that commits at this rate.
fn follow(server: &Server, walgate: &Walgate, rate: u64) {
    let slot = format!("s{rate}");
    let sql = Sql::connect(&server.dsn("postgres"));
    sql.run(&format!("CREATE TABLE {slot} (id int PRIMARY KEY, v text)"));
    sql.run(&format!("CREATE PUBLICATION {slot} FOR TABLE {slot}"));
    sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    let dsn = walgate.dsn(server.superuser(), "postgres");
    let oracle = Oracle::start(&dsn, &slot, &slot, Habits::PLAIN);
    walgate.lag_until(&slot, "exact figures", |report| report["state"] == "live");
    let commits = SCHEDULE.iter().map(|(millis, _)| millis * rate / 1000).sum::<u64>();
    let writer = Sql::connect(&server.dsn("postgres"));
    let begun = Instant::now();
    let (samples, took) = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            writer.run(&format!(
                "DO $$ DECLARE begun timestamptz := clock_timestamp(); BEGIN FOR i IN 1..{commits} LOOP
                     INSERT INTO {slot} VALUES (i, 'a row of some forty bytes or so, no more'); COMMIT;
                     PERFORM pg_sleep(extract(epoch FROM begun - clock_timestamp()) + i / {rate}.0);
                 END LOOP; END $$"
            ));
            begun.elapsed()
        });
        let mut until = begun;
        let samples = SCHEDULE.map(|(millis, delay)| {
            oracle.delay(Duration::from_millis(delay));
            until += Duration::from_millis(millis);
            sample(walgate, &slot, until)
        });
        (samples, writing.join().expect("the writer ends"))
    });
    eventually("every commit to be acknowledged", || match oracle.ledger() {
        ledger if ledger.done() as u64 == commits => Ok(()),
        ledger => Err((ledger.done(), ledger.ended.clone())),
    });
    let achieved = commits as f64 / took.as_secs_f64();
    for ((_, delay), samples) in SCHEDULE.iter().zip(samples) {
        let errors = Errors::of(&samples, &oracle.ledger());
        println!("{rate:>5} commits/s ({achieved:.0} achieved), delay {delay:>4} ms: {errors}");
        assert!(!errors.0.is_empty(), "{rate} commits/s, delay {delay} ms: no sample told anything: {errors}");
        assert!(errors.at(0.99) <= CLOSE, "{rate} commits/s, delay {delay} ms: {errors}");
    }
}

/// What was said, between two moments.
struct Sample {
    asked: (Instant, PgTimestamp),
    answered: (Instant, PgTimestamp),
    seconds: Duration,
}

/// Asks walgate until then.
fn sample(walgate: &Walgate, slot: &str, until: Instant) -> Vec<Sample> {
    let mut samples = Vec::new();
    while Instant::now() < until {
        let now = || (Instant::now(), PgTimestamp::now());
        let asked = now();
        let report = walgate.lag(slot).expect("it is known");
        let answered = now();
        let figure = |name: &str| report["lag"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {report}"));
        assert!(figure("seconds_max") >= figure("seconds"), "{report}");
        samples.push(Sample { asked, answered, seconds: Duration::from_secs_f64(figure("seconds")) });
        thread::sleep(Duration::from_millis(3));
    }
    samples
}

/// How far each sample is outside of what the ledger allows, in order; and how many samples told nothing.
struct Errors(Vec<Duration>, usize);

impl Errors {
    /// With hindsight. What walgate said can be no less than the age of what had been sent when it was asked and was
    /// pending when it had answered, and no more than that of what had been committed by then and was pending at any time
    /// between. Where these are too far apart to tell anything, because the machine was busy or the oldest commits were
    /// acknowledged just then, the sample is of no use.
    fn of(samples: &[Sample], ledger: &Ledger) -> Errors {
        let (mut errors, commits) = (Errors(Vec::new(), 0), ledger.commits());
        for Sample { asked, answered, seconds } in samples {
            let begin = asked.0 - CLOSE;
            let pending = &commits[commits.partition_point(|commit| commit.acked < Some(begin))..];
            let age = |commit: &Commit, now: PgTimestamp| now.since(commit.commit_ts);
            let possible =
                pending.iter().take_while(|commit| commit.received < answered.0 || commit.commit_ts <= answered.1);
            let certain = pending.iter().take_while(|commit| commit.received < begin);
            let certain = certain.filter(|commit| commit.acked > Some(answered.0));
            let most = possible.map(|commit| age(commit, answered.1)).max().unwrap_or_default();
            let least = certain.map(|commit| age(commit, asked.1)).max().unwrap_or_default();
            if most - least <= CLOSE * 3 {
                errors.0.push(least.saturating_sub(*seconds).max(seconds.saturating_sub(most)));
            } else {
                errors.1 += 1;
            }
        }
        errors.0.sort();
        errors
    }

    fn at(&self, quantile: f64) -> Duration {
        let index = (self.0.len() as f64 * quantile) as usize;
        self.0.get(index.min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| self.at(quantile).as_secs_f64() * 1000.0);
        write!(f, "off by {p50:.2} ms (p50), {p99:.2} (p99), {max:.2} (max) in {} samples", self.0.len())?;
        write!(f, ", {} told nothing", self.1)
    }
}
