//! S6, an operator change by a physical standby: it follows, writes stop, it is promoted, and what happened is proven.

use walgate::lsn::Lsn;
use walgate::scratch::{Server, Stop};

use crate::scene::{Answer, Gate, Way, add_role, dsn, quiet};
use crate::support::{Sql, eventually};

/// A primary with standbys, each with a slot of its own.
struct Cluster {
    primary: Server,
    standbys: Vec<Server>,
}

impl Cluster {
    #[track_caller]
    fn start(major: u32, slots: &[&str]) -> Cluster {
        let mut primary = quiet(major).start().expect("the primary starts");
        add_role(&primary);
        let sql = Sql::connect(&primary.dsn("postgres"));
        sql.run("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)");
        drop(sql);
        let standbys = slots.iter().map(|slot| {
            let place = format!("host=127.0.0.1 port={} user=postgres", primary.port());
            let standby = primary.standby(&place).expect("the standby starts");
            Sql::connect(&primary.dsn("postgres"))
                .run(&format!("SELECT pg_create_physical_replication_slot('{slot}')"));
            standby.reload_with(&[("primary_slot_name", slot)]).expect("the standby is told of its slot");
            standby
        });
        let standbys = standbys.collect();
        let cluster = Cluster { primary, standbys };
        for slot in slots {
            cluster.sql().until(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"), "t");
        }
        cluster
    }

    /// A session with the primary. Who is to see it silent lets go of it.
    #[track_caller]
    fn sql(&self) -> Sql {
        Sql::connect(&self.primary.dsn("postgres"))
    }

    #[track_caller]
    fn order(&self) {
        self.sql().run("INSERT INTO orders SELECT max(id) + 1 FROM orders");
    }

    /// A gate for the promotion of this standby.
    #[track_caller]
    fn gate(&self, slot: &str, target: &Server, more: &str) -> Gate {
        gate(&self.primary, slot, target, more)
    }
}

#[track_caller]
fn gate(source: &Server, slot: &str, target: &Server, more: &str) -> Gate {
    let target = format!("{more}\n[gate.target]\nkind = \"standby\"\ndsn = \"{}\"", dsn(target, "postgres"));
    Gate::start(&dsn(source, "postgres"), Way::Poll, &[slot], &target)
}

/// Waits for an answer after one that was a pass: what was seen half a second ago may still answer.
#[track_caller]
pub(crate) fn becomes(gate: &Gate, phase: &str, state: &str, said: &str) -> Answer {
    eventually(&format!("{phase} to become {state}: {said}"), || match gate.ask(phase, "") {
        answer if answer.is(state, said) => Ok(answer),
        answer => Err(answer),
    })
}

/// Where a standby is.
#[track_caller]
fn replayed(standby: &Server) -> Lsn {
    let sql = Sql::connect(&standby.dsn("postgres"));
    sql.value("SELECT pg_last_wal_replay_lsn()").parse().expect("a position")
}

/// Makes a standby follow nobody any more.
#[track_caller]
fn cut_off(standby: &Server) {
    standby.reload_with(&[("primary_conninfo", "")]).expect("the standby reads its settings");
    Sql::connect(&standby.dsn("postgres")).until("SELECT count(*) FROM pg_stat_wal_receiver", "0");
}

/// From preflight to the proof that nothing was left behind; `stopped` is whether the old primary may be down then.
fn change_over(major: u32, accepts_stopped: bool) {
    let mut cluster = Cluster::start(major, &["new", "lagging"]);
    let more = format!("accept_stopped_source = {accepts_stopped}");
    let gate = cluster.gate("new", &cluster.standbys[0], &more);
    gate.until("preflight", "pass", "");
    assert!(gate.cutover().is("fail", "no fence stands"));

    // Replay that is paused holds the gate, however much has been received.
    let standby = Sql::connect(&cluster.standbys[0].dsn("postgres"));
    standby.run("SELECT pg_wal_replay_pause()");
    standby.until("SELECT pg_get_wal_replay_pause_state()", "paused");
    cluster.order();
    let fence = gate.fence();
    gate.check_until("cutover", "applied", "wait", &format!("to replay before {fence}"));
    gate.check_until("cutover", "caught-up", "pass", "new has flushed up to");
    gate.until("post", "wait", "in recovery");
    standby.run("SELECT pg_wal_replay_resume()");
    drop(standby);
    assert_eq!(gate.ask("cutover", "&wait=30s").state(), "pass");

    // A write after the fence is not named, since nobody decodes; it is no pass either.
    cluster.order();
    let answer = becomes(&gate, "cutover", "unknown", "after the fence");
    assert_eq!(answer.check("stray-writes")["status"], "unknown", "{answer}");
    gate.release();

    lose_wal(&cluster);

    let fence = gate.fence();
    let answer = gate.ask("cutover", "&wait=30s");
    assert_eq!(answer.state(), "pass", "{answer}");
    assert!(replayed(&cluster.standbys[0]) >= fence);
    cluster.standbys[0].promote().expect("the standby is promoted");
    becomes(&gate, "cutover", "fail", "no standby any more");
    // Everything happened, and the old primary still keeps WAL for a standby that is none.
    gate.check_until("post", "promoted", "pass", "");
    gate.check_until("post", "timeline", "pass", "");
    let answer = gate.until("post", "fail", "the forward slot new is still there");
    for check in ["promoted", "timeline", "old-source"] {
        assert_eq!(answer.check(check)["status"], "pass", "{check}: {answer}");
    }
    assert!(answer.said("timeline").contains(&format!("past the fence at {fence}")), "{answer}");
    let application = cluster.sql();
    application.run("SELECT pg_drop_replication_slot('new')");
    becomes(&gate, "post", "wait", "connected to the old source");
    drop(application);
    gate.until("post", "pass", "");

    cluster.primary.stop(Stop::Fast).expect("the old primary stops");
    if accepts_stopped {
        gate.check_until("post", "old-source", "pass", "nothing listens there");
        gate.until("post", "pass", "");
    } else {
        becomes(&gate, "post", "unknown", "cannot be asked");
    }
    // A fence does not outlive walgate, and nothing is claimed without it.
    drop(gate);
    let gate = cluster.gate("new", &cluster.standbys[0], &more);
    let answer = gate.until("post", "unknown", "");
    assert_eq!(answer.check("timeline")["status"], "unknown", "{answer}");
    assert!(answer.said("timeline").contains("before walgate started"), "{answer}");
}

/// An operator who promotes a standby that had been cut off before the fence.
#[track_caller]
fn lose_wal(cluster: &Cluster) {
    let standby = &cluster.standbys[1];
    let gate = cluster.gate("lagging", standby, "");
    gate.until("preflight", "pass", "");
    cut_off(standby);
    cluster.order();
    let fence = gate.fence();
    gate.check_until("cutover", "applied", "wait", &format!("to replay before {fence}"));
    gate.check_until("cutover", "slot", "wait", "nobody reads lagging");
    becomes(&gate, "preflight", "wait", "");
    standby.promote().expect("the standby is promoted");
    let answer = gate.until("post", "fail", "is lost");
    assert!(answer.is("fail", &format!("before the fence at {fence}")), "{answer}");
    cluster.sql().run("SELECT pg_drop_replication_slot('lagging')");
    assert!(
        gate.until("post", "fail", "is lost").said("timeline").contains("forks from 1 at"),
        "{}",
        gate.ask("post", "")
    );
}

#[test]
fn an_operator_change_is_proven_to_have_left_nothing_behind_on_14() {
    change_over(14, false);
}

#[test]
fn an_operator_change_is_proven_to_have_left_nothing_behind_on_18() {
    change_over(18, true);
}

#[test]
fn a_target_of_another_cluster_and_one_of_another_promotion_are_told() {
    let stranger = quiet(18).start().expect("the server starts");
    add_role(&stranger);
    let mut cluster = Cluster::start(18, &["new", "other"]);
    let gate = cluster.gate("new", &stranger, "");
    gate.check_until("preflight", "standby", "fail", "and the source");
    gate.fence();
    gate.check_until("cutover", "applied", "fail", "and the source");
    gate.until("post", "fail", "they share no history");
    drop(gate);
    let [new, other] = &mut cluster.standbys[..] else { panic!("two standbys") };

    // Both are promoted, each for itself: two timelines 2 of one system.
    for standby in [&*new, &*other] {
        standby.promote().expect("the standby is promoted");
    }
    Sql::connect(&new.dsn("postgres")).run("SELECT pg_create_physical_replication_slot('other')");
    let gate = self::gate(new, "other", other, "");
    gate.check_until("preflight", "standby", "fail", "no standby");
    gate.fence();
    gate.check_until("cutover", "applied", "fail", "no standby");
    gate.check_until("post", "timeline", "fail", "of another promotion");
    drop(gate);

    // A standby of the other, promoted in its turn, comes from a timeline 2 that goes past the fence, and even forked
    // where this one did.
    let place = format!("host=127.0.0.1 port={} user=postgres", other.port());
    let grandchild = other.standby(&place).expect("the standby starts");
    grandchild.reload_with(&[("primary_slot_name", "")]).expect("the standby reads its settings");
    let far = "SELECT pg_switch_wal(); CREATE TABLE more (); SELECT pg_switch_wal(); CREATE TABLE less ()";
    let sql = Sql::connect(&other.dsn("postgres"));
    sql.run(far);
    let end = sql.value("SELECT pg_current_wal_flush_lsn()");
    drop(sql);
    Sql::connect(&grandchild.dsn("postgres")).until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");
    let gate = self::gate(new, "other", &grandchild, "");
    let fence = gate.fence();
    assert!(replayed(&grandchild) > fence);
    grandchild.promote().expect("the standby is promoted");
    gate.check_until("post", "timeline", "unknown", "there may be another by another promotion");
}
