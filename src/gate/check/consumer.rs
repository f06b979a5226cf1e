//! Whether each consumer is at work as it should be: its slot, and where it has one its subscription. Preflight asks this
//! as well as the cutover.

use super::{Finds, Outcome, Status, first_of};
use crate::gate::case::Case;
use crate::gate::evidence::{SlotEvidence, Subscription};
use crate::gate::terms::{Kind, Phase};
use crate::ident::{Identifier, SlotName};
use crate::lag::{Renewed, SlotKind};
use crate::units::size;

/// One healthy slot in use for every consumer.
pub(super) fn slot(case: &Case<'_>) -> Outcome {
    let each = case.consumers().iter().map(|slot| healthy(case, slot).unwrap_or_else(Finds::unknown));
    Ok(Finds::worst(each, Finds::pass(format!("{} in use", case.consumers().len()))))
}

fn healthy(case: &Case<'_>, slot: &SlotName) -> Outcome {
    let consumer = case.consumer(slot)?;
    let Some(SlotEvidence { row, life }) = case.fresh(&consumer.slot).map_err(|why| format!("{slot}: {why}"))? else {
        return Ok(Finds::fail(format!("there is no slot {slot}")).with_fix("set its consumer up, or correct the name"));
    };
    let (kind, plugins): (_, &[&str]) = match case.terms.kind {
        Kind::Standby => (SlotKind::Physical, &[]),
        Kind::Subscription | Kind::Zero => (SlotKind::Logical, &["pgoutput"]),
        Kind::Pglogical => (SlotKind::Logical, &["pglogical_output"]),
        Kind::Slot => (row.kind, &[]),
    };
    let plugin = row.plugin.as_deref().unwrap_or_default();
    if row.kind != kind || !(plugins.is_empty() || plugins.contains(&plugin)) {
        let is = format!("{slot} is a {} slot {plugin}", row.kind.as_str());
        return Ok(Finds::fail(format!("{}, not one for {}", is.trim_end(), case.terms.kind)));
    }
    if row.is_lost() {
        return Ok(Finds::fail(format!("{slot} is lost")).with_fix("set its consumer up anew"));
    }
    let fix = "set its consumer up anew or verify the data, and restart walgate";
    match life.renewed {
        Renewed::No => {}
        // Equal data are a better proof than that nobody did it.
        Renewed::Perhaps if case.terms.data => {}
        Renewed::Perhaps => {
            let observed = format!(
                "{slot} was let go and taken again while nobody looked, and may have been dropped and created again between"
            );
            return Ok(Finds::unknown(observed).with_fix(format!("{fix}; or have the data compared (data = true)")));
        }
        Renewed::Certainly => {
            let observed = format!(
                "{slot} was dropped and created again while walgate watched, or its server failed over: what was committed \
                 between is missing at its consumer"
            );
            return Ok(Finds::fail(observed).with_fix(fix));
        }
    }
    match row.wal_status.as_deref() {
        Some("reserved" | "extended") => {}
        Some(status) => {
            return Ok(Finds::fail(format!("the WAL that {slot} needs is {status}: it is about to be lost")));
        }
        None if row.restart_lsn.is_none() => return Ok(Finds::wait(format!("{slot} was never used"))),
        None => return Err(format!("the server does not say whether the WAL that {slot} needs is there")),
    }
    // Whoever has caught up needs none of the WAL that is there.
    let headroom = Some(case.terms.limits.headroom).filter(|_| case.asked.phase == Phase::Preflight);
    let left = row.safe_wal_size.map(|left| u64::try_from(left).unwrap_or(0));
    if let Some((left, headroom)) = left.zip(headroom).filter(|(left, headroom)| *left < headroom.0) {
        return Ok(Finds::fail(format!("{} more WAL and {slot} is lost (limit {headroom})", size(left)))
            .with_fix("raise max_slot_wal_keep_size"));
    }
    Ok(if row.active { Finds::pass("") } else { Finds::wait(format!("nobody reads {slot}")) })
}

/// The subscription on the target that reads this slot.
pub(super) fn subscription_of<'a>(case: &Case<'a>, slot: &SlotName) -> Result<Option<&'a Subscription>, String> {
    let subscriptions = case.fresh(&case.evidence.target.subscriptions)?;
    Ok(subscriptions.iter().find(|subscription| subscription.slot.as_ref() == Some(slot)))
}

/// Every subscription runs.
pub(super) fn subscription(case: &Case<'_>) -> Outcome {
    if !case.terms.kind.is_database() {
        return Ok(Finds::skip(format!("a target of kind {} has none", case.terms.kind)));
    }
    let each = case.consumers().iter().map(|slot| {
        let subscription = match subscription_of(case, slot) {
            Ok(subscription) => subscription,
            Err(why) => return Finds::unknown(why),
        };
        match subscription {
            None => no_subscription(slot),
            Some(subscription) => {
                let each = [hears(case, subscription), knows_all(case, slot, subscription)];
                Finds::worst(each.map(|finds| finds.unwrap_or_else(Finds::unknown)), Finds::pass(""))
            }
        }
    });
    Ok(Finds::worst(each, Finds::pass(format!("{} of {} running", case.consumers().len(), case.consumers().len()))))
}

/// The target is not the one that is meant, or the slot.
pub(super) fn no_subscription(slot: &SlotName) -> Finds {
    let fix = "correct the target's dsn or consumers; on the target: SELECT subname, subslotname FROM pg_subscription";
    Finds::fail(format!("no subscription on the target reads {slot}")).with_fix(fix)
}

/// Whether what a subscription reads is the source, and not a slot of the same name on another server: who has heard the
/// source is not before the fence, and has heard nothing that it had not written when it was looked at later.
fn hears(case: &Case<'_>, subscription: &Subscription) -> Outcome {
    let name = &subscription.name;
    let (inserted, looked_at) = (case.activity()?.inserted, case.evidence.source.activity.at());
    let heard = subscription.received.iter().flatten().find(|(_, by)| looked_at.is_some_and(|at| *by <= at));
    let heard = heard.map(|(received, _)| *received);
    if let Some((heard, written)) = heard.zip(inserted).filter(|(heard, written)| heard > written) {
        let observed = format!(
            "{name} has received up to {heard}, and the source's WAL is written up to {written} only: it reads another server"
        );
        return Ok(
            Finds::fail(observed).with_fix("let the target's dsn lead to the server that subscribes to this source")
        );
    }
    // pglogical shows only what it has applied.
    let is_fenced = case.is_fenced() && case.terms.kind == Kind::Subscription;
    let target = case.target_lsn().filter(|target| is_fenced && subscription.running && heard < Some(*target));
    Ok(target.map_or(Finds::pass(""), |target| {
        let heard = heard.map_or("nothing yet".into(), |heard| format!("up to {heard}"));
        Finds::wait(format!("{name} has received {heard}, and not {target}"))
            .with_fix("if it stays so, it reads another server than the source")
    }))
}

/// Whether a subscription is at work on every table that is published to it. Rows of one that it was not told of since it
/// was published are dropped without a word (`should_apply_changes_for_rel` in `worker.c`); pglogical applies those.
fn knows_all(case: &Case<'_>, slot: &SlotName, subscription: &Subscription) -> Outcome {
    let finds = runs(subscription, case.terms.kind, case.terms.data);
    if finds.status != Status::Pass || case.terms.kind == Kind::Pglogical {
        return Ok(finds);
    }
    let consumer = case.consumer(slot)?;
    let published = case.settled(&consumer.published)?;
    let name = &subscription.name;
    Ok(match first_of(published.iter().filter(|table| !subscription.tables.contains_key(*table))) {
        None => finds,
        Some(missing) => Finds::fail(format!("{name} drops the rows of tables that it does not know: {missing}"))
            .with_fix(format!("ALTER SUBSCRIPTION {} REFRESH PUBLICATION on the target", Identifier(name))),
    })
}

/// Whether a subscription is at work on all its tables, and nothing went wrong since walgate looks; what did makes no
/// difference where the data are compared.
pub(super) fn runs(subscription: &Subscription, kind: Kind, compared: bool) -> Finds {
    let name = &subscription.name;
    let troubles = subscription.troubles();
    let new = troubles.saturating_sub(subscription.baseline.unwrap_or(troubles));
    if !subscription.enabled {
        return Finds::fail(format!("{name} is disabled"))
            .with_fix(format!("ALTER SUBSCRIPTION {} ENABLE", Identifier(name)));
    }
    if let Some(skip) = subscription.skip {
        return Finds::fail(format!("{name} is told to skip the transaction that ends at {skip}"))
            .with_fix(format!("verify the data, and ALTER SUBSCRIPTION {} SKIP (lsn = NONE)", Identifier(name)));
    }
    if new > 0 && !compared {
        let fix = "see the target's log; verify the data, and pg_stat_reset_subscription_stats() once they are equal";
        return Finds::fail(format!(
            "{name} has met {new} errors or conflicts since walgate looks (a lost connection counts as one)"
        ))
        .with_fix(fix);
    }
    if !subscription.running {
        let status = subscription.status.as_deref().unwrap_or("no worker runs");
        return Finds::wait(format!("{name}: {status}")).with_fix("see the target's log");
    }
    let unready = subscription.tables.iter().filter(|(_, state)| *state != "r");
    if let Some(unready) = first_of(unready.map(|(table, state)| format!("{table} (state {state})"))) {
        return Finds::wait(format!("{name} has tables that are not ready: {unready}"));
    }
    // pglogical lists only those that it has copied.
    if subscription.tables.is_empty() && kind != Kind::Pglogical {
        return Finds::fail(format!("{name} replicates no table"))
            .with_fix(format!("ALTER SUBSCRIPTION {} REFRESH PUBLICATION", Identifier(name)));
    }
    Finds::pass("")
}
