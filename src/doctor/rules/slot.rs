//! Slots. Sources: the manual's page of `pg_replication_slots` (`wal_status`, `safe_wal_size`, `invalidation_reason`),
//! `CreateDecodingContext` in `logical.c` and `ReplicationSlotAcquire` in `slot.c`.

use super::{Found, Rule, advice, choice, many};
use crate::doctor::checkup::{Checkup, Slot};
use crate::identity::Severity::{Error, Warning};
use crate::lag::SlotKind;
use crate::units::{age, size};

pub(super) const RULES: &[Rule] = &[
    Rule { id: "slot/lost", severity: Error, check: lost },
    Rule { id: "slot/near-loss", severity: Error, check: near_loss },
    Rule { id: "slot/unread", severity: Warning, check: unread },
    Rule { id: "slot/pins-wal", severity: Warning, check: pins_wal },
];

/// The part of its allowance that a slot is to have left, as the alert WalgateSlotNearLoss has it.
const LEFT: f64 = 0.2;

fn is_lost(slot: &Slot) -> bool {
    slot.report.wal_status.as_deref() == Some("lost") || slot.report.invalidation_reason.is_some()
}

fn drop_it(slot: &Slot, warning: &str) -> String {
    choice(&format!("SELECT pg_drop_replication_slot('{}')", slot.report.slot), warning)
}

/// What its consumer needs without it.
fn anew(slot: &Slot) -> &'static str {
    match slot.report.kind {
        SlotKind::Logical => "a new initial copy",
        SlotKind::Physical => "a new base backup",
    }
}

fn kept(slot: &Slot) -> String {
    slot.report.retained_wal_bytes.map_or("an unknown amount".into(), size)
}

fn lost(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    for slot in checkup.slots.iter().filter(|slot| is_lost(slot)) {
        let why = slot.report.invalidation_reason.as_deref().unwrap_or("wal_removed");
        let name = &slot.report.slot;
        let error = match (slot.report.kind, checkup.server.major) {
            (SlotKind::Physical, ..18) => "requested WAL segment has already been removed".to_owned(),
            (SlotKind::Logical, ..18) => format!("can no longer get changes from replication slot \"{name}\""),
            _ => format!("can no longer access replication slot \"{name}\""),
        };
        let message = format!("It is lost ({why}): its consumer gets nothing any more: {error}");
        let how = match slot.report.kind {
            SlotKind::Logical => "; zero-cache: walgate slots reset; a subscription: make it anew",
            SlotKind::Physical => "",
        };
        let mend = match slot.synced {
            // Here it can neither be dropped nor read.
            true => vec![advice("it is kept in step with the primary's of its name: mend that one")],
            false => {
                let needs = advice(format!("its consumer needs {}{how}", anew(slot)));
                vec![needs, drop_it(slot, "it is of no use any more")]
            }
        };
        found.add(name.as_str(), message, mend);
    }
    (!checkup.slots.is_empty()).then(|| format!("{}, none lost", many(checkup.slots.len(), "slot")))
}

fn near_loss(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let keep = checkup.setting("max_slot_wal_keep_size").unwrap_or("-1");
    let mut least: Option<u64> = None;
    for slot in checkup.slots.iter().filter(|slot| !is_lost(slot)) {
        let left = slot.report.safe_wal_bytes.map(|left| u64::try_from(left).unwrap_or(0));
        least = least.into_iter().chain(left).min();
        let unreserved = slot.report.wal_status.as_deref() == Some("unreserved");
        let small = left.zip(slot.report.retained_wal_bytes);
        let small = small.is_some_and(|(left, kept)| (left as f64) < LEFT * (left as f64 + kept as f64));
        if unreserved || small {
            let when = match left {
                _ if unreserved => "the next checkpoint may take what it needs".to_owned(),
                left => format!("{} more WAL and it is lost", size(left.unwrap_or(0))),
            };
            let message = format!(
                "It keeps {} of max_slot_wal_keep_size = {keep}: {when}, and its consumer needs {}",
                kept(slot),
                anew(slot)
            );
            let sql = "ALTER SYSTEM SET max_slot_wal_keep_size = '<more>'; SELECT pg_reload_conf()";
            let mend = vec![
                choice(sql, "gains time, as much as the disk has room for"),
                advice("then get its consumer going: walgate lag DSN tells how far behind it is"),
            ];
            found.add(slot.report.slot.as_str(), message, mend);
        }
    }
    let room = match least {
        Some(least) => format!("{} more WAL and one may be lost", size(least)),
        None if keep == "-1" => "the disk limits what slots keep, and nothing else".to_owned(),
        None => "no slot keeps WAL".to_owned(),
    };
    (!checkup.slots.is_empty()).then(|| format!("max_slot_wal_keep_size is {keep}: {room}"))
}

/// Those of a standby that are kept in step with the primary's are not to be read there.
fn unread(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let limited = checkup.setting("max_slot_wal_keep_size").is_some_and(|size| size != "-1");
    let unread = |slot: &&Slot| !slot.report.active && !slot.synced && !is_lost(slot);
    for slot in checkup.slots.iter().filter(unread) {
        let since = slot.report.inactive_since.map(|since| checkup.server.time.since(since).as_secs_f64());
        let since = since.map_or(String::new(), |seconds| format!(", for {}", age(seconds.round())));
        let until = if limited { "it is lost" } else { "the disk is full and the server stops" };
        let rows = if slot.report.kind == SlotKind::Logical { " and dead rows of the catalog" } else { "" };
        let keeps = match slot.report.restart_lsn {
            Some(_) => format!("it keeps {} of WAL{rows}, and more with each write until {until}", kept(slot)),
            None => "it keeps no WAL, but takes one of max_replication_slots".to_owned(),
        };
        let message = format!("Nobody reads it{since}: {keeps}");
        let mut mend = vec![advice("start its consumer")];
        if !limited && slot.report.restart_lsn.is_some() {
            let sql =
                "ALTER SYSTEM SET max_slot_wal_keep_size = '<what the disk has room for>'; SELECT pg_reload_conf()";
            mend.push(choice(sql, "saves the server, at the cost of the slot"));
        }
        mend.push(drop_it(slot, &format!("only if its consumer is gone for good: it would need {}", anew(slot))));
        found.add(slot.report.slot.as_str(), message, mend);
    }
    let read = checkup.slots.iter().filter(|slot| slot.report.active).count();
    (!checkup.slots.is_empty()).then(|| format!("{} read", many(read, "slot")))
}

fn pins_wal(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let pins = |slot: &&Slot| slot.report.active && slot.report.wal_status.as_deref() == Some("extended");
    for slot in checkup.slots.iter().filter(pins) {
        let message = format!(
            "It is read, and keeps {} of WAL all the same, more than max_wal_size: its consumer is behind, or a transaction is \
             open since",
            kept(slot)
        );
        let mend =
            advice("walgate lag DSN tells which, and how far behind; transactions that are open are listed here");
        found.add(slot.report.slot.as_str(), message, vec![mend]);
    }
    let most = checkup.slots.iter().filter_map(|slot| slot.report.retained_wal_bytes).max()?;
    Some(format!("{} of WAL kept at the most", size(most)))
}
