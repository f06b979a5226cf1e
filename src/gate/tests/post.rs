//! Checks of what was promoted.

use super::super::*;
use super::scene::{BLUE, Scene, assert_each, seen, slot};
use crate::lag::History;

#[test]
fn a_takeover_is_proven_by_the_timeline_and_by_silence() {
    use Status::{Fail, Unknown, Wait};
    assert_each(
        Kind::Standby,
        Phase::Post,
        &[
            ("promoted", Wait, "in recovery", |scene| {
                scene.evidence.target.standing.edit(|now| now.in_recovery = true)
            }),
            ("promoted", Wait, "read-only", |scene| {
                scene.evidence.target.writable.edit(|writable| *writable = Err("read-only".into()));
            }),
            ("timeline", Fail, "what was committed between is lost", |scene| {
                scene.evidence.target.forks.edit(|forks| forks[0].at = Lsn(0xfff));
            }),
            ("timeline", Fail, "another promotion", |scene| scene.evidence.target.forks.edit(Vec::clear)),
            ("timeline", Fail, "share no history", |scene| {
                scene.evidence.target.replication.edit(|now| now.system = 8)
            }),
            ("timeline", Wait, "still on timeline 1", |scene| {
                scene.evidence.target.standing.edit(|now| now.in_recovery = true);
                scene.evidence.target.replication.edit(|now| now.timeline = Some(1));
            }),
            // Promoted, and on a timeline of the same number as the source's: each was promoted for itself.
            ("timeline", Fail, "another promotion", |scene| {
                scene.evidence.target.replication.edit(|now| now.timeline = Some(1));
            }),
            ("timeline", Fail, "another promotion", |scene| second_promotion(scene, Some(Lsn(0x801)))),
            ("timeline", Unknown, "was not seen", |scene| second_promotion(scene, None)),
            ("old-source", Wait, "connected to the old source: 1 app", |scene| {
                scene.evidence.source.activity.edit(|now| now.clients.push("1 app".into()));
            }),
            ("old-source", Fail, "2 transaction ids", |scene| {
                scene.evidence.source.activity.edit(|now| now.next_xid = 102);
            }),
            ("old-source", Fail, "system 7, timeline 3", |scene| {
                scene.evidence.source.standing.edit(|now| now.history.timeline = Some(3));
            }),
            ("leftovers", Wait, "still in use", |scene| {
                let forward = SlotSummary { active: true, retained: None };
                scene.evidence.source.standing.edit(|now| {
                    now.slots.insert(slot(), forward);
                });
            }),
            ("leftovers", Fail, "still there", |scene| {
                let forward = SlotSummary { active: false, retained: None };
                scene.evidence.source.standing.edit(|now| {
                    now.slots.insert(slot(), forward);
                });
            }),
            ("leftovers", Fail, "nobody reads slot old", |scene| {
                let old = SlotSummary { active: false, retained: Some(1) };
                scene.evidence.target.standing.edit(|now| {
                    now.slots.insert("old".parse().unwrap(), old);
                });
            }),
        ],
    );
    let mut scene = Scene::of(Kind::Standby, Phase::Post);
    scene.fence = None;
    assert_eq!(scene.check("timeline").0, Unknown);
    let mut scene = Scene::of(Kind::Standby, Phase::Post);
    second_promotion(&mut scene, Some(Lsn(0x800)));
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
    // Two promotions can fork at one position, and only a gate that has seen them follow knows them apart.
    scene.fence().passed = false;
    assert_eq!(scene.check("timeline").0, Unknown);
    // The old source is down, which only counts where that is accepted.
    let mut scene = Scene::of(Kind::Standby, Phase::Post);
    let at = scene.now;
    scene.evidence.source = Side { stopped: seen(true, at), ..Side::unseen("refused") };
    assert_eq!(scene.verdict().state, Unknown);
    scene.terms.accept_stopped_source = true;
    assert_eq!(scene.verdict().state, Status::Pass);
}

#[test]
fn a_takeover_is_one_only_if_everything_had_arrived_under_the_fence() {
    use Status::{Fail, Pass, Unknown};
    for kind in Kind::ALL {
        let asked = |change: fn(&mut Scene)| {
            let mut scene = Scene::of(kind, Phase::Post);
            scene.terms.reverse = Some(Reverse { consumers: Vec::new() });
            change(&mut scene);
            scene.verdict().state
        };
        assert_eq!(asked(|_| {}), Pass, "{kind}");
        assert_eq!(asked(|scene| scene.fence = None), Unknown, "{kind}");
        assert_eq!(asked(|scene| scene.fence().lost = Some("it moved".into())), Fail, "{kind}");
        let stray = |scene: &mut Scene| scene.fence().stray = Some(Stray { commit_lsn: Lsn(0x1004), table: None });
        assert_eq!(asked(stray), Fail, "{kind}");
        // The timeline that a standby goes on with proves it as well.
        let expected = if kind == Kind::Standby { Pass } else { Unknown };
        assert_eq!(asked(|scene| scene.fence().passed = false), expected, "{kind}");
    }
}

/// The source was promoted itself once, where the fence has seen it fork, and the target comes from a timeline 2.
fn second_promotion(scene: &mut Scene, source_forked: Option<Lsn>) {
    let source = History { timeline: Some(2), ..BLUE };
    let first = Fork { timeline: 1, at: Lsn(0x800) };
    let forked = |at| vec![Fork { at, ..first }];
    (scene.fence().history, scene.fence().forks) = (Some(source), source_forked.map(forked));
    scene.fence().passed = true;
    scene.evidence.source.standing.edit(|now| now.history = source);
    scene.evidence.source.activity.edit(|now| now.history = Some(source));
    scene.evidence.target.replication.edit(|now| now.timeline = Some(3));
    scene.evidence.target.forks.edit(|forks| *forks = vec![first, Fork { timeline: 2, at: Lsn(0x1010) }]);
}
