//! Checks of the cutover.

use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::scene::{BLUE, Scene, T, assert_each, report, seen, table};
use crate::lag::{Figures, History, Renewed, Volume};
use crate::units::Size;

#[test]
fn whoever_may_still_commit_holds_a_cutover() {
    let writer = || Writer { pid: Some(4711), name: "app".into(), state: "active".into(), ..Writer::default() };
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    scene.evidence.source.activity.edit(|now| now.writers.push(writer()));
    assert_eq!(scene.check("writers"), (Status::Wait, "pid 4711 \"app\" (active)".into()));
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    scene.evidence.source.activity.edit(|now| now.ddl.push(writer()));
    assert_eq!(scene.check("writers").0, Status::Wait);
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    scene.evidence.source.activity = Piece::Unseen("no rights".into());
    assert_eq!(scene.check("writers").0, Status::Unknown);
}

#[test]
fn a_consumer_has_caught_up_by_its_stream_or_by_its_slot() {
    use Status::{Fail, Pass, Unknown, Wait};
    let behind = |scene: &mut Scene| scene.row(|row| row.confirmed_flush = Some(Lsn(0xe00)));
    // Either proof is enough.
    let mut scene = Scene::of(Kind::Slot, Phase::Cutover);
    behind(&mut scene);
    assert_eq!(scene.verdict().state, Pass);
    let mut scene = Scene::of(Kind::Slot, Phase::Cutover);
    scene.consumer().stream = Piece::Unseen("none".into());
    assert_eq!(scene.verdict().state, Pass);
    assert_each(
        Kind::Slot,
        Phase::Cutover,
        &[
            ("caught-up", Wait, "3 transactions (41 rows) to acknowledge before 0/1000", |scene| {
                scene.row(|row| row.confirmed_flush = Some(Lsn(0xe00)));
                scene.stream(|stream| {
                    stream.pending = Figures { transactions: 3, volume: Volume { rows: 41, bytes: 0 } }
                });
            }),
            ("caught-up", Wait, "16 bytes to decode", |scene| {
                scene.row(|row| row.confirmed_flush = Some(Lsn(0xe00)));
                scene.stream(|stream| stream.decoded = Lsn(0xff0));
            }),
            ("caught-up", Wait, "confirmed 0/E00", |scene| {
                scene.row(|row| row.confirmed_flush = Some(Lsn(0xe00)));
                scene.stream(|stream| stream.doubtful = true);
            }),
            ("caught-up", Wait, "confirmed 0/E00", |scene| {
                scene.row(|row| row.confirmed_flush = Some(Lsn(0xe00)));
                scene.stream(|stream| stream.own = false);
            }),
            ("caught-up", Wait, "confirmed 0/0", |scene| {
                scene.row(|row| row.confirmed_flush = None);
                scene.consumer().stream = Piece::Unseen("none".into());
            }),
            ("caught-up", Fail, "no slot", |scene| scene.consumer().slot.edit(|slot| *slot = None)),
            ("caught-up", Fail, "lost", |scene| scene.row(|row| row.wal_status = Some("lost".into()))),
            ("caught-up", Unknown, "dropped and created again", |scene| {
                scene.row(|row| row.restart_lsn = Some(Lsn(0x1008)));
                scene.consumer().slot.edit(|slot| slot.as_mut().unwrap().life.since = Lsn(0x1008));
            }),
            ("slot", Fail, "while walgate watched", |scene| {
                scene.consumer().slot.edit(|slot| slot.as_mut().unwrap().life.renewed = Renewed::Certainly);
            }),
            ("slot", Unknown, "may have been dropped", |scene| {
                scene.consumer().slot.edit(|slot| slot.as_mut().unwrap().life.renewed = Renewed::Perhaps);
            }),
            ("slot", Wait, "nobody reads", |scene| scene.row(|row| row.active = false)),
            ("slot", Fail, "unreserved", |scene| scene.row(|row| row.wal_status = Some("unreserved".into()))),
            ("slot", Unknown, "does not say", |scene| scene.row(|row| row.wal_status = None)),
        ],
    );
}

#[test]
fn where_nobody_is_to_decode_a_subscription_is_believed_what_its_slot_confirms() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    scene.consumer().stream = Piece::Unseen("none".into());
    scene.consumer().undecoded = true;
    let (is, observed) = scene.check("applied");
    assert!(is == Status::Skip && observed.contains("what its slot confirms"), "{observed}");
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
    scene.row(|row| row.confirmed_flush = Some(Lsn(T.0 - 1)));
    assert_eq!(scene.verdict().state, Status::Wait);
}

#[test]
fn a_target_shows_by_itself_what_it_has() {
    use Status::{Fail, Unknown, Wait};
    assert_each(
        Kind::Subscription,
        Phase::Cutover,
        &[
            ("applied", Wait, "last commit is at 0/F00", |scene| {
                scene.subscription(|sub| sub.applied = Some(Lsn(0xf00)))
            }),
            ("applied", Wait, "nothing yet", |scene| scene.subscription(|sub| sub.applied = None)),
            ("applied", Unknown, "is not known", |scene| scene.consumer().stream = Piece::Unseen("none".into())),
            ("applied", Fail, "was moved on to 0/F80", |scene| scene.stream(|stream| stream.moved = Some(Lsn(0xf80)))),
            ("subscription", Fail, "no subscription", |scene| scene.subscription(|sub| sub.slot = None)),
            ("subscription", Fail, "disabled", |scene| scene.subscription(|sub| sub.enabled = false)),
            ("subscription", Wait, "no worker", |scene| scene.subscription(|sub| sub.running = false)),
            ("subscription", Fail, "1 errors", |scene| scene.subscription(|sub| sub.errors = Some(4))),
            ("subscription", Fail, "skip", |scene| scene.subscription(|sub| sub.skip = Some(T))),
            ("subscription", Wait, "has received up to 0/FFF, and not 0/1000", |scene| received(scene, 0xfff, true)),
            ("subscription", Wait, "has received nothing yet", |scene| {
                scene.subscription(|sub| sub.received = [None, None]);
            }),
            ("subscription", Fail, "it reads another server", |scene| received(scene, 0x1011, true)),
            // What was answered later than the source was looked at may be ahead of that.
            ("subscription", Wait, "has received nothing yet", |scene| received(scene, 0x1011, false)),
            ("subscription", Wait, "public.orders (state d)", |scene| {
                scene.subscription(|sub| {
                    sub.tables.insert(table("orders"), "d".into());
                });
            }),
            ("subscription", Fail, "does not know: public.items", |scene| {
                scene.consumer().published.edit(|published| {
                    Arc::make_mut(published).insert(table("items"));
                });
            }),
            ("sequences", Wait, "would give 41, and 42", |scene| {
                scene.evidence.target.sequences.edit(|all| all[0].position.as_mut().unwrap().last_value = 41);
            }),
            ("sequences", Fail, "nothing, and 42", |scene| scene.evidence.target.sequences.edit(Vec::clear)),
            ("sequences", Unknown, "may not read", |scene| {
                scene.evidence.source.sequences.edit(|all| all[0].position = None);
            }),
        ],
    );
    assert_each(
        Kind::Zero,
        Phase::Cutover,
        &[
            ("applied", Wait, "before the last commit", |scene| {
                scene.evidence.replica.edit(|replica| *replica = Lsn(0xeff))
            }),
            ("applied", Unknown, "no answer", |scene| scene.evidence.replica = Piece::Unseen("no answer".into())),
            ("applied", Unknown, "nothing was published", |scene| scene.stream(|stream| stream.newest = None)),
            ("applied", Wait, "before the barrier at 0/FF0", |scene| scene.fence().barrier_lsn = Some(Lsn(0xff0))),
        ],
    );
    assert_each(
        Kind::Standby,
        Phase::Cutover,
        &[
            ("applied", Wait, "1 bytes to replay", |scene| {
                scene.evidence.target.receiver.edit(|receiver| receiver.replayed = Some(Lsn(0xfff)));
            }),
            ("applied", Unknown, "does not say", |scene| {
                scene.evidence.target.receiver.edit(|receiver| receiver.replayed = None);
            }),
            ("applied", Fail, "system 8", |scene| scene.evidence.target.standing.edit(|now| now.history.system = 8)),
            ("applied", Fail, "no standby any more", |scene| {
                scene.evidence.target.standing.edit(|now| now.in_recovery = false);
            }),
            ("applied", Fail, "replays system 7, timeline 3", |scene| {
                scene.evidence.target.replication.edit(|now| now.timeline = Some(3));
            }),
            ("applied", Fail, "timeline 2", |scene| {
                scene.evidence.target.receiver.edit(|receiver| receiver.timeline = Some(2));
            }),
        ],
    );
}

/// What the subscription has received, answered before the source was looked at or after that.
fn received(scene: &mut Scene, position: u64, before: bool) {
    let looked_at = scene.evidence.source.activity.at().unwrap();
    let by = if before { looked_at } else { looked_at + Duration::from_millis(1) };
    scene.subscription(|sub| sub.received = [Some((Lsn(position), by)), None]);
}

#[test]
fn a_subscription_is_heard_by_what_it_had_received_when_the_source_was_looked_at() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    received(&mut scene, 0x9999, false);
    let looked_at = scene.evidence.source.activity.at();
    scene.subscription(|sub| sub.received[1] = looked_at.map(|at| (Lsn(0x1008), at)));
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
    // pglogical shows what it has applied, which may be long before the fence, but not behind what there is.
    let mut scene = Scene::of(Kind::Pglogical, Phase::Cutover);
    received(&mut scene, 0xf00, true);
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
    received(&mut scene, 0x1011, true);
    assert_eq!(scene.check("subscription").0, Status::Fail);
}

#[test]
fn a_standby_of_another_promotion_is_told_by_where_its_timelines_forked() {
    let scene = |own: Option<u64>| {
        let mut scene = Scene::of(Kind::Standby, Phase::Cutover);
        let second = History { timeline: Some(2), ..BLUE };
        let forked = |at| vec![Fork { timeline: 1, at: Lsn(at) }];
        (scene.fence().history, scene.fence().forks) = (Some(second), own.map(forked));
        scene.evidence.source.standing.edit(|now| now.history = second);
        scene.evidence.source.activity.edit(|now| now.history = Some(second));
        scene.evidence.target.standing.edit(|now| now.history = second);
        scene.evidence.target.replication.edit(|now| *now = second);
        scene.evidence.target.receiver.edit(|receiver| receiver.timeline = None);
        scene.evidence.target.forks.edit(|forks| *forks = forked(0x800));
        scene
    };
    assert_eq!(scene(Some(0x800)).verdict().state, Status::Pass, "{:#?}", scene(Some(0x800)).verdict());
    assert_eq!(scene(Some(0x801)).check("applied").0, Status::Fail);
    assert_eq!(scene(None).check("applied").0, Status::Unknown);
}

#[test]
fn what_a_large_catalog_says_counts_for_as_long_as_nothing_is_written_behind_the_fence() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    scene.fence().taken = Some(scene.now - Duration::from_secs(600));
    let read = scene.now - Duration::from_secs(599);
    let published = scene.consumer().published.value().unwrap().clone();
    scene.consumer().published = seen(published, read);
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
    scene.evidence.source.activity.edit(|now| now.next_xid = 101);
    assert_eq!(scene.check("subscription").0, Status::Unknown);
}

#[test]
fn wal_that_is_left_is_for_those_who_begin() {
    for (phase, expected) in [(Phase::Preflight, Status::Fail), (Phase::Cutover, Status::Pass)] {
        let mut scene = Scene::of(Kind::Slot, phase);
        scene.row(|row| row.safe_wal_size = Some(10 << 20));
        let (is, observed) = scene.check("slot");
        assert!(is == expected && (is == Status::Pass || observed.contains("10 MB more")), "{phase}: {observed}");
    }
}

#[test]
fn a_write_behind_the_fence_is_noticed_by_its_transaction_id_or_on_the_stream() {
    use Status::{Fail, Pass, Unknown, Wait};
    let moved = |scene: &mut Scene| scene.evidence.source.activity.edit(|now| now.next_xid = 101);
    // Somebody has committed, and the stream shows that it was nothing published.
    let mut scene = Scene::of(Kind::Slot, Phase::Cutover);
    moved(&mut scene);
    assert_eq!(scene.verdict().state, Pass);
    assert_each(
        Kind::Slot,
        Phase::Cutover,
        &[
            ("stray-writes", Fail, "table public.orders was written to at 0/1004", |scene| {
                scene.stream(|stream| stream.behind = Some((Lsn(0x1004), Some(table("orders")))));
            }),
            ("stray-writes", Fail, "table a was written to", |scene| {
                scene.fence().stray = Some(Stray { commit_lsn: Lsn(0x1004), table: Some("a".into()) });
            }),
            ("stray-writes", Wait, "to be decoded", |scene| {
                scene.evidence.source.activity.edit(|now| now.next_xid = 101);
                scene.stream(|stream| stream.decoded = Lsn(0x1008));
            }),
            ("stray-writes", Unknown, "is not known", |scene| {
                scene.evidence.source.activity.edit(|now| now.next_xid = 101);
                scene.consumer().stream = Piece::Unseen("none".into());
            }),
            ("stray-writes", Unknown, "without a break since the fence", |scene| {
                scene.evidence.source.activity.edit(|now| now.next_xid = 101);
                scene.stream(|stream| stream.from = Some(Lsn(0x1001)));
            }),
            ("stray-writes", Unknown, "may have been missed", |scene| {
                scene.fence().quiet_until = None;
                scene.stream(|stream| stream.doubtful = true);
            }),
        ],
    );
}

#[test]
fn errors_of_before_make_no_difference_where_the_data_are_compared() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    scene.subscription(|sub| sub.errors = Some(4));
    assert_eq!(scene.check("subscription").0, Status::Fail);
    scene.terms.data = true;
    assert_eq!(scene.check("subscription").0, Status::Pass);
}

#[test]
fn data_are_equal_only_if_they_were_compared_whole_under_this_fence() {
    let compared = |data: DataEvidence, under: i64| {
        let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
        scene.terms.data = true;
        let taken = scene.fence().taken.unwrap();
        let under = if under == 0 { taken } else { taken - Duration::from_secs(60) };
        let data = DataEvidence { under: Some(under), ..data };
        scene.evidence.data = seen(data, scene.now - Duration::from_secs(600));
        scene.check("data").0
    };
    let equal = DataEvidence { equal: 1, ..DataEvidence::default() };
    assert_eq!(compared(equal.clone(), 0), Status::Pass);
    assert_eq!(compared(equal.clone(), -60), Status::Wait);
    assert_eq!(compared(DataEvidence { equal: 0, ..equal.clone() }, 0), Status::Unknown, "nothing was looked at");
    let tables = vec![(table("orders"), "1 row is missing".to_owned())];
    assert_eq!(compared(DataEvidence { different: tables.clone(), ..equal.clone() }, 0), Status::Fail);
    assert_eq!(compared(DataEvidence { unseen: tables, ..equal }, 0), Status::Unknown);
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    scene.terms.data = true;
    assert_eq!(scene.check("data").0, Status::Unknown);
}

#[test]
fn a_position_of_the_callers_passes_by_nothing_that_has_happened_to_the_fence() {
    let asked = |scene: &mut Scene, lsn| scene.asked.target_lsn = Some(lsn);
    for (lsn, stray) in [(T, true), (Lsn(0xf80), true), (Lsn(0xf80), false)] {
        let mut scene = Scene::of(Kind::Slot, Phase::Cutover);
        asked(&mut scene, lsn);
        assert_ne!(scene.verdict().state, Status::Fail);
        if stray {
            scene.fence().stray = Some(Stray { commit_lsn: Lsn(0x1004), table: None });
        } else {
            scene.fence().lost = Some("it moved".into());
        }
        assert_eq!(scene.verdict().state, Status::Fail);
    }
    // What was seen before the caller asked is of before the position.
    let mut scene = Scene::of(Kind::Slot, Phase::Cutover);
    asked(&mut scene, Lsn(0xf80));
    scene.evidence.source.activity.edit(|now| now.next_xid = 101);
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
    let verdict = {
        let Scene { terms, evidence, fence, settling, asked, now } = &scene;
        let fence = fence.as_ref();
        judge(&Case {
            terms,
            asked: *asked,
            asked_at: Some(*now),
            named_at: None,
            evidence,
            fence,
            settling,
            now: *now,
        })
    };
    assert_eq!(verdict.state, Status::Unknown);
}

#[test]
fn a_limit_of_the_callers_is_kept_in_a_switch_too() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Cutover);
    assert!(!scene.verdict().checks.iter().any(|check| check.id == "lag"), "the gate's own limits are for the start");
    scene.consumer().report = Some(report(3.0, 300));
    for (max_age, max_lag, expected) in [
        (None, Some(Size(300)), Status::Pass),
        (None, Some(Size(299)), Status::Wait),
        (Some(Duration::from_secs(3)), None, Status::Pass),
        (Some(Duration::from_secs(2)), None, Status::Wait),
        (Some(Duration::from_secs(2)), Some(Size(300)), Status::Wait),
    ] {
        scene.asked = Asked { max_age, max_lag, ..Asked::of(Phase::Cutover) };
        assert_eq!((scene.check("lag").0, scene.verdict().state), (expected, expected), "{max_age:?} {max_lag:?}");
    }
    scene.consumer().report = None;
    assert_eq!(scene.check("lag").0, Status::Unknown);
}
