//! What a fence holds, and when it is refused.

use super::super::*;
use super::scene::{BLUE, Scene, T, assert_each};
use crate::time::PgTimestamp;

#[test]
fn a_fence_holds_as_long_as_the_history_does() {
    use Status::{Fail, Unknown, Wait};
    assert_each(
        Kind::Subscription,
        Phase::Cutover,
        &[
            ("fence", Fail, "no fence stands", |scene| scene.fence = None),
            ("fence", Fail, "holds no longer", |scene| scene.fence().lost = Some("it moved".into())),
            ("fence", Fail, "system 8", |scene| scene.evidence.source.standing.edit(|now| now.history.system = 8)),
            ("fence", Fail, "timeline 2", |scene| {
                scene.evidence.source.standing.edit(|now| now.history.timeline = Some(2))
            }),
            ("fence", Fail, "standby", |scene| scene.evidence.source.standing.edit(|now| now.in_recovery = true)),
            ("fence", Fail, "WAL ends at 0/FFF", |scene| {
                scene.evidence.source.standing.edit(|now| now.flushed = Lsn(0xfff))
            }),
            ("fence", Unknown, "away", |scene| scene.evidence.source.standing = Piece::Unseen("away".into())),
            ("fence", Wait, "WAL ends at 0/1010", |scene| scene.asked.target_lsn = Some(Lsn(0x2000))),
        ],
    );
}

#[test]
fn a_fence_is_refused_while_anybody_may_still_commit() {
    let quiet = |next_xid| Activity { next_xid, quiet: true, ..Activity::default() };
    let taken = Taken {
        before: quiet(100),
        barrier: Barrier::Written { nonce: "n".into(), xid: 100, at: Lsn(0xff0) },
        flushed: T,
        after: quiet(101),
        history: BLUE,
        forks: None,
        in_recovery: false,
        at: PgTimestamp(0),
    };
    assert_eq!(Fence::take(taken.clone()).unwrap().quiet_until, Some(101));
    // Somebody else got a transaction id, or holds one that no list shows.
    for (before, after) in [(99, 101), (100, 102), (100, 100)] {
        let taken = Taken { before: quiet(before), after: quiet(after), ..taken.clone() };
        assert_eq!(Fence::take(taken).unwrap().quiet_until, None);
    }
    let busy = Activity { quiet: false, ..quiet(101) };
    assert_eq!(Fence::take(Taken { after: busy, ..taken.clone() }).unwrap().quiet_until, None);
    let writing = Activity { writers: vec![Writer::default()], ..quiet(100) };
    for taken in [Taken { before: writing.clone(), ..taken.clone() }, Taken { after: writing, ..taken.clone() }] {
        assert!(matches!(Fence::take(taken), Err(Refusal::Writers(_))));
    }
    let of = |names: &[&str]| Activity {
        writers: names.iter().map(|name| Writer { name: (*name).into(), ..Writer::default() }).collect(),
        ..quiet(100)
    };
    match Fence::take(Taken { before: of(&["gone", "both"]), after: of(&["both", "new"]), ..taken.clone() }) {
        Err(Refusal::Writers(writers)) => {
            assert_eq!(writers.iter().map(|writer| &*writer.name).collect::<Vec<_>>(), ["both", "new", "gone"]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(Fence::take(Taken { in_recovery: true, ..taken.clone() }), Err(Refusal::Standby));

    // Without writing: everything that is in the WAL must be on disk.
    let unwritten = |inserted: u64, flushed: u64| Taken {
        barrier: Barrier::Unwritten(Lsn(inserted)),
        flushed: Lsn(flushed),
        after: quiet(100),
        ..taken.clone()
    };
    assert_eq!(Fence::take(unwritten(0x1000, 0x1000)).unwrap().quiet_until, Some(100));
    assert!(matches!(Fence::take(unwritten(0x1008, 0x1000)), Err(Refusal::Unflushed { .. })));
    // At the end of a page the insert position is behind the next page's header already.
    assert!(Fence::take(unwritten(0x2018, 0x2000)).is_ok());
    assert!(Fence::take(unwritten(0x100_0028, 0x100_0000)).is_ok(), "a segment begins with a longer one");
    // The last bytes of a record that begins on the page before.
    for inserted in [0x2020, 0x2028, 0x2030] {
        assert!(Fence::take(unwritten(inserted, 0x2000)).is_err());
    }
}

#[test]
fn a_receipt_says_whether_the_fence_was_the_callers_own() {
    let mut scene = Scene::of(Kind::Slot, Phase::Cutover);
    let issued = |scene: &Scene| {
        let Scene { terms, evidence, fence, settling, asked, now } = scene;
        let fence = fence.as_ref();
        let case = Case { terms, asked: *asked, asked_at: None, named_at: None, evidence, fence, settling, now: *now };
        let receipt = Receipt::issue(&case, &ReceiptTerms::default(), PgTimestamp(0));
        (receipt.target_lsn, receipt.fenced_at, receipt.nonce)
    };
    assert_eq!(issued(&scene), (Some(T), Some(PgTimestamp(0)), Some("n".into())));
    scene.asked.target_lsn = Some(Lsn(0xf80));
    assert_eq!(issued(&scene), (Some(Lsn(0xf80)), None, None));
    scene.asked = Asked::of(Phase::Preflight);
    assert_eq!(issued(&scene), (None, None, None), "before the fence nothing was proven of it");
}
