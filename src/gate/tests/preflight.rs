//! Checks of a start.

use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::scene::{Scene, assert_each, report, slot, table};

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
                let cache = Unreplicated { name: "public.cache".into(), what: "unlogged table".into(), by_hand: false };
                scene.evidence.source.unreplicated.edit(|all| Arc::make_mut(all).push(cache));
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
    let cache = Unreplicated { name: "public.cache".into(), what: "unlogged table".into(), by_hand: false };
    scene.evidence.source.unreplicated.edit(|all| Arc::make_mut(all).push(cache));
    scene.evidence.source.schema.edit(|schema| {
        Arc::make_mut(schema).tables.insert(table("audit_log"), Table::default());
    });
    assert_eq!(scene.verdict().state, Status::Pass, "{:#?}", scene.verdict());
}
