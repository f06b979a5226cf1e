//! Every check both ways: what passes when all is well, and what one thing that is wrong makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sequence::{Definition, Position, Sequence};
use super::*;
use crate::ident::{SlotName, TableName};
use crate::lag::{Figures, Followed, History, Renewed, SlotKind, SlotLife, SlotRow, Volume};
use crate::time::PgTimestamp;

const T: Lsn = Lsn(0x1000);
const BLUE: History = History { system: 7, timeline: Some(1) };

fn slot() -> SlotName {
    "green_sub".parse().unwrap()
}

fn table(name: &str) -> TableName {
    TableName { schema: "public".into(), name: name.into() }
}

/// A gate with all evidence that it can have; as it stands, every phase but the rollback passes.
struct Scene {
    terms: Terms,
    evidence: Evidence,
    fence: Option<Fence>,
    settling: Settling,
    asked: Asked,
    now: Instant,
}

impl Scene {
    fn of(kind: Kind, phase: Phase) -> Scene {
        let now = Instant::now() + Duration::from_secs(3600);
        let terms = Terms {
            name: "blue-green".into(),
            source: "blue".into(),
            consumers: vec![slot()],
            kind,
            limits: Limits::default(),
            accept_unreplicated: BTreeSet::new(),
            accept_stopped_source: false,
            data: false,
            asks_replica: kind == Kind::Zero,
            reverse: None,
        };
        let fence = Fence {
            target_lsn: T,
            nonce: Some("n".into()),
            set_at: Some(PgTimestamp(0)),
            taken: Some(now - Duration::from_secs(1)),
            history: Some(BLUE),
            forks: Some(Vec::new()),
            barrier_lsn: None,
            passed: false,
            quiet_until: Some(100),
            stray: None,
            lost: None,
        };
        let mut settling = Settling::default();
        let behind = report(0.0, 0);
        for second in (0..60).rev() {
            settling.note([Some(&behind)], now - Duration::from_secs(second));
        }
        let mut scene =
            Scene { terms, evidence: evidence(kind, now), fence: Some(fence), settling, asked: Asked::of(phase), now };
        if kind == Kind::Standby && phase != Phase::Post {
            scene.evidence.target.replication.edit(|now| now.timeline = Some(1));
        }
        if phase == Phase::Post {
            // It has taken over.
            scene.evidence.source.standing.edit(|source| source.slots.clear());
            scene.evidence.target.standing.edit(|target| target.in_recovery = false);
        }
        scene
    }

    fn verdict(&self) -> Verdict {
        let Scene { terms, evidence, fence, settling, asked, now } = self;
        judge(&Case { terms, asked: *asked, asked_at: None, evidence, fence: fence.as_ref(), settling, now: *now })
    }

    /// How a check stands, and what it says.
    #[track_caller]
    fn check(&self, id: &str) -> (Status, String) {
        let verdict = self.verdict();
        let check = verdict.checks.iter().find(|check| check.id == id);
        let check = check.unwrap_or_else(|| panic!("no check {id} in {verdict:#?}"));
        (check.status, check.observed.clone())
    }
}

/// What is well on both sides.
fn evidence(kind: Kind, now: Instant) -> Evidence {
    let at = now - Duration::from_secs(1);
    let physical = kind == Kind::Standby;
    let row = SlotRow {
        kind: if physical { SlotKind::Physical } else { SlotKind::Logical },
        plugin: match kind {
            Kind::Standby => None,
            Kind::Pglogical => Some("pglogical_output".into()),
            _ => Some("pgoutput".into()),
        },
        database: Some("app".into()),
        temporary: false,
        two_phase: false,
        active: true,
        active_pid: Some(1),
        restart_lsn: Some(Lsn(0x900)),
        confirmed_flush: (!physical).then_some(Lsn(0x1010)),
        wal_status: Some("reserved".into()),
        safe_wal_size: None,
        invalidation_reason: None,
        inactive_since: None,
        decoded_transactions: None,
        reader: crate::lag::Reader { flush: Some(Lsn(0x1010)), ..Default::default() },
    };
    let followed = Followed {
        own: true,
        decoded: Lsn(0x1010),
        pending: Figures::default(),
        newest: Some(Lsn(0xf00)),
        behind: None,
        from: Some(Lsn(0x900)),
        doubtful: false,
        moved: None,
        shown: true,
        heard: Some(at),
    };
    let life = SlotLife::new(&row, Lsn(0x800), None);
    let consumer = ConsumerSide {
        slot: seen(Some(SlotEvidence { row, life }), at),
        stream: if matches!(kind, Kind::Pglogical | Kind::Standby) {
            Piece::Unseen("its stream is not decoded".into())
        } else {
            seen(followed, at)
        },
        report: Some(report(0.0, 0)),
        undecoded: false,
        published: seen(BTreeSet::from([table("orders")]), at),
    };
    let standing = |in_recovery, slots| Standing { history: BLUE, in_recovery, flushed: Lsn(0x1010), slots };
    let summary = SlotSummary { active: true, retained: Some(10) };
    let activity = Activity {
        next_xid: 100,
        quiet: true,
        inserted: Some(Lsn(0x1010)),
        history: Some(BLUE),
        ..Activity::default()
    };
    let settings = Settings {
        major: 17,
        wal_level: "logical".into(),
        slots: (10, 1),
        senders: (10, 1),
        logical_workers: (4, 1),
        workers: (8, 2),
        origins: (10, 1),
        encoding: "UTF8".into(),
        collation: "C".into(),
        extensions: BTreeMap::from([("citext".into(), "1.6".into())]),
    };
    let column = Column { type_name: "bigint".into(), not_null: true, generated: false, has_default: true };
    let orders =
        Table { columns: BTreeMap::from([("id".into(), column)]), constraints: vec!["PRIMARY KEY (id)".into()] };
    let schema = Arc::new(Schema { tables: BTreeMap::from([(table("orders"), orders)]) });
    let definition = Definition { data_type: "bigint".into(), increment: 1, min: 1, max: i64::MAX, cycle: false };
    let position = Some(Position { last_value: 42, is_called: false });
    let sequence = Sequence { name: table("orders_id_seq"), definition, position };
    let subscription = Subscription {
        name: "green_sub".into(),
        slot: Some(slot()),
        enabled: true,
        running: true,
        status: None,
        publications: vec!["p".into()],
        tables: BTreeMap::from([(table("orders"), "r".into())]),
        applied: Some(Lsn(0xf30)),
        errors: Some(3),
        conflicts: None,
        baseline: Some(3),
        skip: None,
    };
    let source = Side {
        standing: seen(standing(false, BTreeMap::from([(slot(), summary)])), at),
        findings: seen(Vec::new(), at),
        activity: seen(activity.clone(), at),
        settings: seen(settings.clone(), at),
        replication: seen(BLUE, at),
        forks: seen(Vec::new(), at),
        schema: seen(Arc::clone(&schema), at),
        sequences: seen(vec![sequence.clone()], at),
        unreplicated: seen(Vec::new(), at),
        subscriptions: seen(Vec::new(), at),
        receiver: Piece::default(),
        writable: Piece::default(),
        stopped: seen(false, at),
    };
    let target = Side {
        standing: seen(standing(physical, BTreeMap::new()), at),
        findings: seen(Vec::new(), at),
        activity: seen(activity, at),
        settings: seen(settings, at),
        replication: seen(History { timeline: Some(2), ..BLUE }, at),
        forks: seen(vec![Fork { timeline: 1, at: Lsn(0x1010) }], at),
        schema: seen(schema, at),
        sequences: seen(vec![sequence], at),
        unreplicated: seen(Vec::new(), at),
        subscriptions: seen(vec![subscription], at),
        receiver: seen(
            Receiver {
                status: Some("streaming".into()),
                timeline: Some(1),
                slot: Some(slot()),
                replayed: Some(Lsn(0x1010)),
            },
            at,
        ),
        writable: seen(Ok(()), at),
        stopped: seen(false, at),
    };
    Evidence {
        source,
        consumers: BTreeMap::from([(slot(), consumer)]),
        target,
        replica: seen(Lsn(0xf00), at),
        data: Piece::default(),
    }
}

fn seen<U>(value: U, at: Instant) -> Piece<U> {
    Piece::Seen { value, at, from: "a test" }
}

fn report(seconds: f64, bytes: u64) -> crate::lag::ConsumerReport {
    use crate::lag::{ConsumerReport, Lag, Observe, Positions, Rates, State};
    ConsumerReport {
        source: "blue".into(),
        slot: slot(),
        kind: SlotKind::Logical,
        plugin: None,
        active: Some(true),
        state: State::Live,
        stage: None,
        lag: Lag {
            seconds: Some(seconds),
            seconds_max: Some(seconds),
            bytes: Some(bytes),
            bytes_max: Some(bytes),
            undecoded_wal_bytes: Some(0),
            ..Lag::default()
        },
        retained_wal_bytes: None,
        wal_status: None,
        safe_wal_bytes: None,
        positions: Positions::default(),
        rates: Rates::default(),
        eta_seconds: None,
        tables: Vec::new(),
        observed_age_seconds: None,
        observe: Observe::Proxy,
        observe_reason: None,
    }
}

impl<U> Piece<U> {
    /// Makes something else of what was seen.
    fn edit(&mut self, edit: impl FnOnce(&mut U)) {
        match self {
            Piece::Seen { value, .. } => edit(value),
            Piece::Unseen(why) => panic!("{why}"),
        }
    }
}

impl Scene {
    fn consumer(&mut self) -> &mut ConsumerSide {
        self.evidence.consumers.get_mut(&slot()).unwrap()
    }

    fn row(&mut self, edit: impl FnOnce(&mut SlotRow)) {
        self.consumer().slot.edit(|slot| edit(&mut slot.as_mut().unwrap().row));
    }

    fn stream(&mut self, edit: impl FnOnce(&mut Followed)) {
        self.consumer().stream.edit(edit);
    }

    fn subscription(&mut self, edit: impl FnOnce(&mut Subscription)) {
        self.evidence.target.subscriptions.edit(|all| edit(&mut all[0]));
    }

    fn fence(&mut self) -> &mut Fence {
        self.fence.as_mut().unwrap()
    }
}

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

/// One thing that is wrong, and what a check makes of it.
type Wrong = (&'static str, Status, &'static str, fn(&mut Scene));

#[track_caller]
fn assert_each(kind: Kind, phase: Phase, wrong: &[Wrong]) {
    for (id, status, says, spoil) in wrong {
        let mut scene = Scene::of(kind, phase);
        spoil(&mut scene);
        let (is, observed) = scene.check(id);
        assert!(is == *status && observed.contains(says), "{kind} {phase} {id}: {is}: {observed}; expected {says}");
        assert_eq!(scene.verdict().state, *status, "{id} {says}: {:#?}", scene.verdict());
    }
}

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
            ("slot", Fail, "10 MB more", |scene| scene.row(|row| row.safe_wal_size = Some(10 << 20))),
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
            ("subscription", Wait, "public.orders (state d)", |scene| {
                scene.subscription(|sub| {
                    sub.tables.insert(table("orders"), "d".into());
                });
            }),
            ("subscription", Fail, "does not know: public.items", |scene| {
                scene.consumer().published.edit(|published| {
                    published.insert(table("items"));
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
fn a_start_wants_everything_that_a_cutover_will_need() {
    use Status::{Fail, Unknown, Wait};
    let finding = || crate::identity::Finding {
        rule: "pg/no-identity",
        severity: crate::identity::Severity::Error,
        table: Some(table("orders")),
        publication: None,
        message: "it breaks".into(),
        mend: None,
    };
    let mut scene = Scene::of(Kind::Subscription, Phase::Preflight);
    scene.evidence.source.findings.edit(|findings| findings.push(finding()));
    assert_eq!(scene.check("identity"), (Fail, "public.orders: pg/no-identity: it breaks".into()));
    assert_each(
        Kind::Subscription,
        Phase::Preflight,
        &[
            ("wal-level", Fail, "replica on the source", |scene| {
                scene.evidence.source.settings.edit(|settings| settings.wal_level = "replica".into());
            }),
            ("wal-level", Fail, "replica on the target", |scene| {
                scene.terms.reverse = Some(Reverse { consumers: vec![slot()] });
                scene.evidence.target.settings.edit(|settings| settings.wal_level = "replica".into());
            }),
            ("capacity", Fail, "10 of max_replication_slots = 10 are in use on the target", |scene| {
                scene.terms.reverse = Some(Reverse { consumers: vec![slot()] });
                scene.evidence.target.settings.edit(|settings| settings.slots = (10, 10));
            }),
            ("role", Unknown, "may not", |scene| scene.evidence.source.replication = Piece::Unseen("may not".into())),
            ("identity", Unknown, "no rights", |scene| {
                scene.evidence.source.findings = Piece::Unseen("no rights".into())
            }),
            ("lag", Wait, "up to 6 s", |scene| scene.consumer().report = Some(report(6.0, 0))),
            ("lag", Wait, "17 MB", |scene| scene.consumer().report = Some(report(0.0, 17 << 20))),
            ("lag", Wait, "for 0 s, of 30 s", |scene| scene.settling = Settling::default()),
            ("lag", Unknown, "cannot be told", |scene| {
                scene.consumer().report.as_mut().unwrap().state = crate::lag::State::Stale;
            }),
            ("transactions", Wait, "for 16 s", |scene| {
                let open = Duration::from_secs(16);
                let old =
                    Writer { pid: Some(1), open: Some(open), state: "idle in transaction".into(), ..Writer::default() };
                scene.evidence.source.activity.edit(|now| now.oldest = Some((old, open)));
            }),
            ("transactions", Wait, "prepared", |scene| {
                let prepared = Writer { name: "gid".into(), state: "prepared".into(), ..Writer::default() };
                scene.evidence.source.activity.edit(|now| now.writers.push(prepared));
            }),
            ("schema", Fail, "public.items is missing", |scene| {
                scene.evidence.source.schema.edit(|schema| {
                    Arc::make_mut(schema).tables.insert(table("items"), Table::default());
                });
            }),
            ("schema", Fail, "is bigint and on the target integer", |scene| {
                scene.evidence.target.schema.edit(|schema| {
                    let orders = Arc::make_mut(schema).tables.get_mut(&table("orders")).unwrap();
                    orders.columns.get_mut("id").unwrap().type_name = "integer".into();
                });
            }),
            ("schema", Fail, "on the target only: CHECK", |scene| {
                scene.evidence.target.schema.edit(|schema| {
                    let orders = Arc::make_mut(schema).tables.get_mut(&table("orders")).unwrap();
                    orders.constraints.push("CHECK (id > 7)".into());
                });
            }),
            ("sequences", Fail, "missing", |scene| scene.evidence.target.sequences.edit(Vec::clear)),
            ("sequences", Fail, "differently", |scene| {
                scene.evidence.target.sequences.edit(|all| all[0].definition.increment = 2);
            }),
            ("unreplicated", Fail, "public.cache (unlogged table)", |scene| {
                let cache = Unreplicated { name: "public.cache".into(), what: "unlogged table".into() };
                scene.evidence.source.unreplicated.edit(|all| all.push(cache));
            }),
            ("encoding", Fail, "LATIN1", |scene| {
                scene.evidence.target.settings.edit(|settings| settings.encoding = "LATIN1".into());
            }),
            ("extensions", Fail, "citext 1.6 is missing", |scene| {
                scene.evidence.target.settings.edit(|settings| settings.extensions.clear());
            }),
            ("extensions", Fail, "and 1.5 on the target", |scene| {
                scene.evidence.target.settings.edit(|settings| {
                    settings.extensions.insert("citext".into(), "1.5".into());
                });
            }),
        ],
    );
    assert_each(
        Kind::Standby,
        Phase::Preflight,
        &[
            ("standby", Wait, "no WAL receiver", |scene| scene.evidence.target.receiver.edit(|is| is.status = None)),
            ("standby", Fail, "another timeline", |scene| {
                scene.evidence.target.receiver.edit(|is| is.timeline = Some(2));
            }),
            ("standby", Fail, "which the gate does not name", |scene| {
                scene.evidence.target.receiver.edit(|is| is.slot = Some("other".parse().unwrap()));
            }),
        ],
    );
}

#[test]
fn what_is_accepted_by_name_stands_in_nobodys_way() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Preflight);
    scene.terms.accept_unreplicated = ["public.cache".into(), "public.audit_log".into()].into();
    let cache = Unreplicated { name: "public.cache".into(), what: "unlogged table".into() };
    scene.evidence.source.unreplicated.edit(|all| all.push(cache));
    scene.evidence.source.schema.edit(|schema| {
        Arc::make_mut(schema).tables.insert(table("audit_log"), Table::default());
    });
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
}

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

#[test]
fn a_way_back_is_proven_like_a_way_there() {
    let mut scene = Scene::of(Kind::Subscription, Phase::Rollback);
    assert_eq!(scene.check("reverse").0, Status::Fail);
    scene.terms.reverse = Some(Reverse { consumers: vec![slot()] });
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
    scene.fence().stray = Some(Stray { commit_lsn: Lsn(0x1004), table: None });
    assert_eq!(scene.verdict().state, Status::Fail);
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
    assert!(Fence::take(unwritten(0x2030, 0x2000)).is_err());
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
        judge(&Case { terms, asked: *asked, asked_at: Some(*now), evidence, fence, settling, now: *now })
    };
    assert_eq!(verdict.state, Status::Unknown);
}
