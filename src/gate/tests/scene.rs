//! A gate where all is well, for one thing of it to be spoilt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::sequence::{Definition, Position, Sequence};
use super::super::*;
use crate::ident::{SlotName, TableName};
use crate::lag::{Figures, Followed, History, SlotKind, SlotLife, SlotRow};
use crate::time::PgTimestamp;

pub(super) const T: Lsn = Lsn(0x1000);
pub(super) const BLUE: History = History { system: 7, timeline: Some(1) };

pub(super) fn slot() -> SlotName {
    "green_sub".parse().unwrap()
}

pub(super) fn table(name: &str) -> TableName {
    TableName { schema: "public".into(), name: name.into() }
}

/// A gate with all evidence that it can have; as it stands, every phase but the rollback passes.
pub(super) struct Scene {
    pub(super) terms: Terms,
    pub(super) evidence: Evidence,
    pub(super) fence: Option<Fence>,
    pub(super) settling: Settling,
    pub(super) asked: Asked,
    pub(super) now: Instant,
}

impl Scene {
    pub(super) fn of(kind: Kind, phase: Phase) -> Scene {
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
            passed: phase == Phase::Post,
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

    pub(super) fn verdict(&self) -> Verdict {
        let Scene { terms, evidence, fence, settling, asked, now } = self;
        judge(&Case {
            terms,
            asked: *asked,
            asked_at: None,
            named_at: None,
            evidence,
            fence: fence.as_ref(),
            settling,
            now: *now,
        })
    }

    /// How a check stands, and what it says.
    #[track_caller]
    pub(super) fn check(&self, id: &str) -> (Status, String) {
        let verdict = self.verdict();
        let check = verdict.checks.iter().find(|check| check.id == id);
        let check = check.unwrap_or_else(|| panic!("no check {id} in {verdict:#?}"));
        (check.status, check.observed.clone())
    }
}

impl Scene {
    pub(super) fn consumer(&mut self) -> &mut ConsumerSide {
        self.evidence.consumers.get_mut(&slot()).unwrap()
    }

    pub(super) fn row(&mut self, edit: impl FnOnce(&mut SlotRow)) {
        self.consumer().slot.edit(|slot| edit(&mut slot.as_mut().unwrap().row));
    }

    pub(super) fn stream(&mut self, edit: impl FnOnce(&mut Followed)) {
        self.consumer().stream.edit(edit);
    }

    pub(super) fn subscription(&mut self, edit: impl FnOnce(&mut Subscription)) {
        self.evidence.target.subscriptions.edit(|all| edit(&mut all[0]));
    }

    pub(super) fn fence(&mut self) -> &mut Fence {
        self.fence.as_mut().unwrap()
    }
}

/// What is well on both sides.
pub(super) fn evidence(kind: Kind, now: Instant) -> Evidence {
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
    let life = SlotLife::new(&row, Lsn(0x800), None, false, now);
    let consumer = ConsumerSide {
        slot: seen(Some(SlotEvidence { row, life }), at),
        stream: if matches!(kind, Kind::Pglogical | Kind::Standby) {
            Piece::Unseen("its stream is not decoded".into())
        } else {
            seen(followed, at)
        },
        report: Some(report(0.0, 0)),
        undecoded: false,
        published: seen(Arc::new(BTreeSet::from([table("orders")])), at),
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
        received: [Some((Lsn(0x1010), at)), None],
        errors: Some(3),
        conflicts: None,
        counted_since: None,
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
        unreplicated: seen(Arc::default(), at),
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
        unreplicated: seen(Arc::default(), at),
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

pub(super) fn seen<U>(value: U, at: Instant) -> Piece<U> {
    Piece::Seen { value, at, from: "a test" }
}

pub(super) fn report(seconds: f64, bytes: u64) -> crate::lag::ConsumerReport {
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
    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut U)) {
        match self {
            Piece::Seen { value, .. } => edit(value),
            Piece::Unseen(why) => panic!("{why}"),
        }
    }
}

/// One thing that is wrong, and what a check makes of it.
pub(super) type Wrong = (&'static str, Status, &'static str, fn(&mut Scene));

#[track_caller]
pub(super) fn assert_each(kind: Kind, phase: Phase, wrong: &[Wrong]) {
    for (id, status, says, spoil) in wrong {
        let mut scene = Scene::of(kind, phase);
        spoil(&mut scene);
        let (is, observed) = scene.check(id);
        assert!(is == *status && observed.contains(says), "{kind} {phase} {id}: {is}: {observed}; expected {says}");
        assert_eq!(scene.verdict().state, *status, "{id} {says}: {:#?}", scene.verdict());
    }
}
