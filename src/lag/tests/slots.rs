//! What is made of slots, and of copies of them: whose stream it is, what goes back, is replaced or is lost.

use super::*;

#[test]
fn a_slot_that_is_found_on_a_promoted_server_may_be_another() {
    let mut bench = Bench::new();
    let slot: SlotName = "s".parse().unwrap();
    bench.poll(0, 100);
    bench.poll(1, 100);
    assert_eq!(bench.lag.life(&slot).unwrap().renewed, Renewed::No);
    bench.history = History { system: 1, timeline: Some(2) };
    bench.poll(2, 120);
    assert_eq!(bench.lag.life(&slot).unwrap().renewed, Renewed::Certainly);
    bench.history = History { system: 2, timeline: Some(1) };
    bench.poll(3, 120);
    assert_eq!(bench.lag.life(&slot).unwrap().renewed, Renewed::No, "of another system nothing was seen before");
    bench.history = History { system: 1, timeline: Some(2) };
    bench.poll(4, 140);
    assert_eq!(bench.lag.life(&slot).unwrap().renewed, Renewed::Certainly, "nobody has looked meanwhile");
}

#[test]
fn a_stream_is_shown_to_be_of_the_slot_by_a_look_that_is_begun_after_it() {
    let mut bench = Bench::new();
    let shown = |bench: &Bench| bench.lag.followed(&"s".parse().unwrap(), Lsn(100)).unwrap().shown;
    bench.poll(0, 100);
    assert!(!shown(&bench), "nobody knows whose it is");
    bench.lag.stream(&bench.stream).unwrap().served_by(Some(7));
    bench.keepalive(2, 100);
    bench.poll(1, 100);
    assert!(!shown(&bench), "the look was begun before the stream was heard");
    bench.poll(3, 100);
    assert!(shown(&bench));
    bench.look(4, 100, SlotRow { active_pid: Some(8), ..row() });
    assert!(!shown(&bench), "another process holds the slot");
}

#[test]
fn a_consumer_goes_with_its_slot_but_not_while_it_streams() {
    let mut bench = Bench::new();
    bench.poll(0, 100);
    let gone = SourcePoll { slots: BTreeMap::new(), ..bench.lag.last_look().unwrap().0.clone() };
    bench.lag.poll(gone.clone(), bench.time(1));
    assert_eq!(bench.lag.reports(bench.time(1)).len(), 1);
    bench.lag.stream(&bench.stream).unwrap().detach();
    bench.lag.poll(gone, bench.time(2));
    assert_eq!(bench.lag.reports(bench.time(2)).len(), 0);
}

#[test]
fn a_slot_that_is_lost_shows_no_figure() {
    let mut bench = Bench::new();
    bench.look(0, 100, confirmed(100));
    let lost = SlotRow { wal_status: Some("lost".into()), ..confirmed(100) };
    bench.look(1, 100, lost);
    let report = bench.report(1);
    assert_eq!((report.state, report.lag, report.stage), (State::Unknown, Lag::default(), None));
    assert_eq!(report.wal_status.as_deref(), Some("lost"));
    bench.look(2, 100, SlotRow { invalidation_reason: Some("idle_timeout".into()), ..confirmed(100) });
    assert!(bench.report(2).observe_reason.unwrap().contains("idle_timeout"));
}

#[test]
fn a_copy_of_the_slot_shows_what_was_pending_at_the_last_look() {
    let mut bench = Bench::new();
    bench.lag.stream(&bench.stream).unwrap().detach();
    bench.look(0, 100, confirmed(100));
    let slot = "s".parse().unwrap();
    bench.stream = bench.lag.attach_copy(&slot, "here", false, bench.time(1)).unwrap();
    assert_eq!(bench.report(1).observe, Observe::Poll, "an acknowledgement of before the copy is of other commits");
    bench.look(2, 308, confirmed(100));
    assert_eq!(bench.report(2).state, State::Bounded);
    bench.transaction(2, 200);
    bench.transaction(2, 300);
    // Committed after the look, and perhaps acknowledged by now.
    bench.transaction(3, 400);
    let report = bench.report(3);
    assert_eq!((report.state, report.observe, report.observe_reason), (State::Live, Observe::Slot, None));
    assert_eq!((report.lag.transactions, report.lag.seconds), (Some(2), Some(0.0)));
    bench.look(5, 408, confirmed(208));
    let report = bench.report(5);
    assert_eq!(
        (report.lag.transactions, report.lag.seconds, report.stage),
        (Some(2), Some(3.0), Some(Stage::Consumer))
    );
    bench.look(6, 408, confirmed(408));
    assert_eq!(bench.report(6).lag.seconds, Some(0.0));
}

#[test]
fn a_copy_of_all_publications_bounds_what_is_pending_of_some() {
    let mut bench = Bench::new();
    bench.lag.stream(&bench.stream).unwrap().detach();
    bench.look(0, 100, confirmed(100));
    bench.stream = bench.lag.attach_copy(&"s".parse().unwrap(), "here", true, bench.time(0)).unwrap();
    bench.keepalive(1, 100);
    bench.look(1, 100, confirmed(100));
    assert_eq!((bench.report(1).state, bench.report(1).lag.transactions), (State::Live, Some(0)));
    bench.transaction(2, 200);
    bench.look(4, 208, confirmed(100));
    let report = bench.report(4);
    assert_eq!((report.state, report.lag.seconds, report.lag.transactions), (State::Bounded, None, None));
    assert_eq!(report.lag.seconds_max, Some(2.0));
}

#[test]
fn the_consumers_own_stream_is_better_than_a_copy() {
    let mut bench = Bench::new();
    bench.look(0, 100, confirmed(100));
    let slot = "s".parse().unwrap();
    assert!(bench.lag.attach_copy(&slot, "here", false, bench.time(0)).is_none());
    bench.lag.stream(&bench.stream).unwrap().detach();
    let copy = bench.lag.attach_copy(&slot, "here", false, bench.time(0)).unwrap();
    bench.stream = bench.lag.attach(slot, SlotKind::Logical, "here", None);
    assert!(bench.lag.stream(&copy).is_none());
    bench.keepalive(1, 100);
    bench.look(1, 100, confirmed(100));
    assert_eq!((bench.report(1).state, bench.report(1).observe), (State::Live, Observe::Proxy));
}

#[test]
fn a_slot_that_has_gone_back_is_in_doubt_until_its_consumer_is_through() {
    let mut bench = Bench::new();
    bench.look(0, 500, confirmed(400));
    bench.keepalive(0, 500);
    bench.look(1, 500, confirmed(300));
    let report = bench.report(1);
    assert_eq!((report.state, report.lag.undecoded_wal_bytes), (State::Bounded, Some(200)));
    bench.ack(2, 500);
    bench.look(2, 500, confirmed(500));
    assert_eq!((bench.report(2).state, bench.report(2).observe), (State::Live, Observe::Proxy));
}

#[test]
fn a_stream_that_starts_after_a_slot_has_gone_back_is_followed() {
    let mut bench = Bench::new();
    bench.look(0, 500, confirmed(400));
    bench.keepalive(0, 500);
    bench.look(1, 500, confirmed(300));
    bench.stream = bench.lag.attach("s".parse().unwrap(), SlotKind::Logical, "here", None);
    bench.transaction(2, 350);
    bench.keepalive(2, 500);
    let report = bench.report(2);
    assert_eq!((report.state, report.observe, report.lag.transactions), (State::Live, Observe::Proxy, Some(1)));
}

#[test]
fn a_slot_that_is_further_than_its_client_has_said_was_moved_on_by_somebody_else() {
    let moved = |bench: &mut Bench, away: bool, acked: u64| {
        bench.ack(1, 150);
        if away {
            bench.lag.stream(&bench.stream).unwrap().detach();
        }
        bench.look(2, 300, confirmed(acked));
        bench.stream = bench.lag.attach("s".parse().unwrap(), SlotKind::Logical, "here", None);
        bench.lag.followed(&"s".parse().unwrap(), Lsn(300)).unwrap().moved
    };
    assert_eq!(moved(&mut Bench::new(), true, 150), None);
    assert_eq!(moved(&mut Bench::new(), true, 200), Some(Lsn(200)));
    // While it streams nobody else can; its own word is on the way.
    assert_eq!(moved(&mut Bench::new(), false, 200), None);
}

#[test]
fn a_standby_that_was_set_up_anew_is_as_far_as_it_says() {
    let mut bench = Bench::new();
    bench.lag.stream(&bench.stream).unwrap().detach();
    let replayed = |position| SlotRow {
        kind: SlotKind::Physical,
        plugin: None,
        reader: Reader { replay: Some(Lsn(position)), ..Reader::default() },
        ..row()
    };
    bench.look(0, 500, replayed(500));
    assert_eq!(bench.report(0).state, State::Live);
    bench.look(1, 500, replayed(100));
    assert_eq!((bench.report(1).state, bench.report(1).lag.undecoded_wal_bytes), (State::Bounded, Some(400)));
}

#[test]
fn every_slot_is_shown() {
    let mut bench = Bench::new();
    assert_eq!(bench.lag.slots(bench.time(0)).len(), 0);
    bench.look(0, 100, confirmed(90));
    let slots = bench.lag.slots(bench.time(0));
    assert_eq!((slots[0].retained_wal_bytes, slots[0].confirmed_flush_lsn), (Some(90), Some(Lsn(90))));
    assert_eq!(bench.lag.slots(bench.time(16)).len(), 0, "what is too old is not shown");
}

#[test]
fn a_reading_holds_what_lies_behind_the_confirmed_position_however_early_it_is_first_heard() {
    let mut bench = Bench::new();
    let holds = |position| SlotRow { active_pid: Some(7), ..confirmed(position) };
    let from = |bench: &Bench| bench.lag.followed(&"s".parse().unwrap(), Lsn(u64::MAX)).unwrap().from;
    bench.lag.stream(&bench.stream).unwrap().served_by(Some(7));
    // The server reads from the restart position, and says so to whoever asks.
    bench.keepalive(1, 50);
    assert_eq!(from(&bench), None, "what was confirmed is not known");
    bench.look(2, 300, holds(200));
    assert_eq!(from(&bench), Some(Lsn(200)));
    bench.keepalive(3, 300);
    bench.look(4, 300, holds(300));
    assert_eq!(from(&bench), Some(Lsn(200)), "what is confirmed later was sent in this reading");
}

#[test]
fn a_slot_that_was_replaced_before_its_first_stream_casts_no_doubt_on_what_that_shows() {
    let mut bench = Bench::new();
    let slot: SlotName = "s".parse().unwrap();
    let look = |bench: &mut Bench, second, flushed, pid| {
        bench.look(second, flushed, SlotRow { active_pid: pid, restart_lsn: Some(Lsn(flushed)), ..confirmed(100) });
        let followed = bench.lag.followed(&slot, Lsn(u64::MAX)).unwrap();
        (followed.doubtful, followed.pending.transactions, bench.lag.life(&slot).unwrap().renewed)
    };
    let stream = |bench: &mut Bench, pid| {
        bench.stream = bench.lag.attach(slot.clone(), SlotKind::Logical, "here", None);
        bench.lag.stream(&bench.stream).unwrap().served_by(Some(pid));
    };
    bench.look(0, 100, SlotRow { active_pid: None, ..confirmed(100) });
    stream(&mut bench, 7);
    bench.transaction(1, 150);
    assert_eq!(look(&mut bench, 2, 200, Some(7)), (false, 1, Renewed::Perhaps));
    stream(&mut bench, 8);
    bench.transaction(3, 250);
    assert_eq!(
        look(&mut bench, 4, 300, Some(8)),
        (true, 0, Renewed::Perhaps),
        "what the first has shown may be of another"
    );
}
