//! Every check both ways: what passes when all is well, and what one thing that is wrong makes of it.

mod cutover;
mod fence;
mod post;
mod preflight;
mod scene;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use scene::{Scene, seen, slot};

const FORWARD: [Phase; 3] = [Phase::Preflight, Phase::Cutover, Phase::Post];

#[test]
fn where_all_is_well_every_phase_of_every_kind_passes() {
    for kind in Kind::ALL {
        for phase in FORWARD {
            let verdict = Scene::of(kind, phase).verdict();
            assert_eq!(verdict.state, Status::Pass, "{kind} {phase}: {verdict:#?}");
        }
    }
}

#[test]
fn nothing_passes_without_evidence_or_on_old_evidence() {
    for kind in Kind::ALL {
        for phase in FORWARD {
            let mut old = Scene::of(kind, phase);
            old.now += old.terms.limits.staleness;
            let mut later = Scene::of(kind, phase);
            later.now -= Duration::from_secs(2);
            let unseen = Scene { evidence: Evidence::default(), ..Scene::of(kind, phase) };
            for scene in [old, later, unseen] {
                let verdict = scene.verdict();
                assert!(verdict.state != Status::Pass, "{kind} {phase}: {verdict:#?}");
            }
        }
    }
}

#[test]
fn what_was_seen_before_the_fence_says_nothing_of_what_came_after_it() {
    for kind in Kind::ALL {
        let mut scene = Scene::of(kind, Phase::Cutover);
        scene.fence().taken = Some(scene.now);
        let verdict = scene.verdict();
        assert_eq!(verdict.state, Status::Unknown, "{kind}: {verdict:#?}");
        let seen_before = |check: &&Check| check.observed.contains("has not been looked at since the fence was set");
        assert!(verdict.checks.iter().any(|check| seen_before(&check)), "{verdict:#?}");
    }
    // A table that was published, or made, just before the fence.
    for (phase, check) in [(Phase::Cutover, "subscription"), (Phase::Rollback, "unreplicated")] {
        let mut scene = Scene::of(Kind::Subscription, phase);
        scene.terms.reverse = Some(Reverse { consumers: vec![slot()] });
        scene.fence().taken = Some(scene.now);
        let now = scene.now;
        scene.evidence.target.subscriptions =
            seen(scene.evidence.target.subscriptions.value().expect("it is seen").clone(), now);
        let (is, observed) = scene.check(check);
        assert!(is == Status::Unknown && observed.contains("since the fence was set"), "{check}: {is}: {observed}");
    }
}

#[test]
fn a_way_back_wants_what_is_carried_by_hand_to_be_carried_back() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Rollback);
    scene.terms.reverse = Some(Reverse { consumers: vec![slot()] });
    scene.terms.accept_unreplicated = ["public.audit_log".into()].into();
    let audit_log =
        Unreplicated { name: "public.audit_log".into(), what: "table that nothing replicates".into(), by_hand: true };
    scene.evidence.source.unreplicated.edit(|all| Arc::make_mut(all).push(audit_log));
    assert_eq!(scene.check("unreplicated").0, Status::Unknown);
    scene.asked.phase = Phase::Cutover;
    assert_eq!(scene.check("unreplicated").0, Status::Pass);
    (scene.asked.phase, scene.terms.data) = (Phase::Rollback, true);
    assert_eq!(scene.check("unreplicated").0, Status::Pass);
}

#[test]
fn a_way_back_is_proven_like_a_way_there() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Rollback);
    assert_eq!(scene.check("reverse").0, Status::Fail);
    scene.terms.reverse = Some(Reverse { consumers: vec![slot()] });
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
    scene.fence().stray = Some(Stray { commit_lsn: Lsn(0x1004), table: None });
    assert_eq!(scene.verdict().state, Status::Fail);
}
