//! Did it really happen: the target has taken over, nothing was left behind, and the old source is silent.

use super::consumer::runs;
use super::cutover::is_accepted;
use super::{Finds, Outcome, Rule, Status, first_of};
use crate::gate::case::Case;
use crate::gate::fence::{Writer, listed};
use crate::gate::terms::Kind;

pub(super) const RULES: &[Rule] = &[
    Rule { id: "fence", expected: "the cutover has passed under the fence that stands", check: fence },
    Rule { id: "promoted", expected: "the target is out of recovery and takes a write", check: promoted },
    Rule {
        id: "timeline",
        expected: "the target's timeline forks from the source's at or past the fence",
        check: timeline,
    },
    Rule { id: "reverse", expected: "what carries changes back to the source runs", check: reverse },
    Rule { id: "old-source", expected: "no client sessions and no commits on the old source", check: old_source },
    Rule { id: "leftovers", expected: "the forward slots are gone, and no inactive slot keeps WAL", check: leftovers },
];

/// Where nothing leads back.
pub(super) const NO_WAY_BACK: &[Rule] = &[Rule { id: "reverse", expected: "a way back", check: no_way_back }];

fn no_way_back(_: &Case<'_>) -> Outcome {
    Ok(Finds::fail("no way back is configured").with_fix("name the slots on the target that lead back: [gate.reverse]"))
}

/// Whether everything had arrived. Of a standby, the timeline that it goes on with says so, too.
fn fence(case: &Case<'_>) -> Outcome {
    let Some(fence) = case.fence() else {
        return Err(
            "no fence stands, so whether everything had arrived is not known; one that was set before walgate started, or \
             for other servers or slots, is not remembered"
                .into(),
        );
    };
    let target = fence.target_lsn;
    if let Some(why) = &fence.lost {
        return Ok(Finds::fail(format!("the fence at {target} holds no longer: {why}")).with_fix("verify the data"));
    }
    if let Some(stray) = &fence.stray {
        let fix = "find out what was written there, and copy it";
        return Ok(Finds::fail(format!("{stray}, after the fence at {target}")).with_fix(fix));
    }
    if !fence.passed && case.terms.kind != Kind::Standby {
        return Err(format!("the cutover has not passed under the fence at {target}"));
    }
    Ok(Finds::pass(target.to_string()))
}

fn promoted(case: &Case<'_>) -> Outcome {
    if !case.terms.kind.is_server() {
        return Ok(Finds::skip(format!("a target of kind {} is not promoted", case.terms.kind)));
    }
    let target = case.fresh(&case.evidence.target.standing)?;
    if target.in_recovery {
        return Ok(Finds::wait("the target is in recovery").with_fix("promote it: SELECT pg_promote()"));
    }
    Ok(match case.fresh(&case.evidence.target.writable)? {
        Ok(()) => Finds::pass("a transaction was committed there just now"),
        Err(why) => Finds::wait(format!("the target takes no write: {why}")),
    })
}

fn timeline(case: &Case<'_>) -> Outcome {
    if case.terms.kind != Kind::Standby {
        return Ok(Finds::skip(format!("a target of kind {} has a history of its own", case.terms.kind)));
    }
    let Some(fence) = case.fence() else {
        return Err(
            "no fence stands, so what was to be there is not known; one that was set before walgate started is not \
                    remembered"
                .into(),
        );
    };
    let Some(then) = fence.history else {
        return Err("of a position of the caller's the timeline is not known".into());
    };
    let lsn = fence.target_lsn;
    let now = *case.fresh(&case.evidence.target.replication)?;
    if now.system != then.system {
        return Ok(Finds::fail(format!("the target is {now}, and the fence was set on {then}: they share no history")));
    }
    let (Some(now), Some(then)) = (now.timeline, then.timeline) else {
        return Err("which timeline the target is on is not known".into());
    };
    let is_other = |timeline| {
        let observed =
            format!("timeline {timeline} does not come from the source's {then}: it is of another promotion");
        Finds::fail(observed).with_fix(LOST)
    };
    if now == then {
        return Ok(if case.fresh(&case.evidence.target.standing)?.in_recovery {
            Finds::wait(format!("the target is still on timeline {now}")).with_fix("promote it: SELECT pg_promote()")
        } else {
            let promoted = case.evidence.target.standing.at();
            if case.evidence.target.replication.at() < promoted {
                return Ok(Finds::wait("the target was promoted, and has not said yet on which timeline it is"));
            }
            is_other(now)
        });
    }
    let forks = case.fresh(&case.evidence.target.forks)?;
    let before = fence.forks.as_ref().ok_or("where the source's own timelines forked was not seen")?;
    if !before.iter().eq(forks.iter().filter(|fork| fork.timeline < then)) {
        return Ok(is_other(now));
    }
    Ok(match forks.iter().find(|fork| fork.timeline == then) {
        Some(fork) if fork.at >= lsn && then > 1 && !fence.passed => {
            return Err(format!(
                "timeline {now} forks from {then}, of which there may be another by another promotion, and the cutover has not \
                 passed under this fence"
            ));
        }
        Some(fork) if fork.at >= lsn => {
            Finds::pass(format!("timeline {now} forks from {then} at {}, past the fence at {lsn}", fork.at))
        }
        Some(fork) => Finds::fail(format!(
            "timeline {now} forks from {then} at {}, before the fence at {lsn}: what was committed between is lost",
            fork.at
        ))
        .with_fix(LOST),
        None => is_other(now),
    })
}

const LOST: &str = "do not open the target; go back to the old source, or copy what is missing";

fn reverse(case: &Case<'_>) -> Outcome {
    let Some(reverse) = &case.terms.reverse else {
        return Ok(Finds::skip("no way back is configured"));
    };
    let back = case.fresh(&case.evidence.source.subscriptions)?;
    let slots = &case.fresh(&case.evidence.target.standing)?.slots;
    let each = reverse.consumers.iter().map(|slot| {
        match (slots.get(slot), back.iter().find(|subscription| subscription.slot.as_ref() == Some(slot))) {
            (None, _) => Finds::fail(format!("the target has no slot {slot}")),
            (_, None) => Finds::fail(format!("no subscription on the old source reads {slot}")),
            (Some(slot_there), Some(subscription)) => match runs(subscription, case.terms.kind, false) {
                finds if finds.status != Status::Pass => finds,
                _ if !slot_there.active => Finds::wait(format!("nobody reads {slot}")),
                runs => runs,
            },
        }
    });
    Ok(Finds::worst(each, Finds::pass(format!("{} running", reverse.consumers.len()))))
}

fn old_source(case: &Case<'_>) -> Outcome {
    let source = &case.evidence.source;
    if case.terms.accept_stopped_source && case.fresh(&source.stopped) == Ok(&true) {
        return Ok(Finds::pass("nothing listens there, as accept_stopped_source allows"));
    }
    if let Err(why) = case.fresh(&source.activity) {
        return Ok(Finds::unknown(why).with_fix("if it is shut down for good: accept_stopped_source = true"));
    }
    let history = case.fresh(&source.standing)?.history;
    let then = case.fence().and_then(|fence| fence.history);
    if let Some(then) = then.filter(|then| then.contradicts(history)) {
        let observed = format!("what answers as the old source is {history}; the fence was set on {then}");
        return Ok(Finds::fail(observed).with_fix("let the source's dsn lead to the old source itself"));
    }
    let activity = case.activity()?;
    if let Some(clients) = first_of(activity.clients.iter()) {
        let observed = format!("connected to the old source: {clients}");
        return Ok(Finds::wait(observed).with_fix("move these clients to the target"));
    }
    // What comes back is committed there too, by the workers of the way back.
    let writers = activity.writers.iter().filter(|writer| case.terms.reverse.is_none() || !is_apply_worker(writer));
    let writers: Vec<_> = writers.cloned().collect();
    if !writers.is_empty() {
        return Ok(Finds::wait(listed(&writers)));
    }
    if case.terms.reverse.is_some() {
        return Ok(Finds::pass("no client is connected"));
    }
    let Some(until) = case.fence().and_then(|fence| fence.quiet_until) else {
        return Err(
            "whether anything was committed since is not known: the server was not quiet when the fence was set".into(),
        );
    };
    Ok(if activity.next_xid == until {
        Finds::pass("no client is connected, and no transaction id was given since the fence")
    } else {
        let given = activity.next_xid.saturating_sub(until);
        Finds::fail(format!("{given} transaction ids were given on the old source since the fence"))
            .with_fix("find out what was written there, and copy it")
    })
}

const DROP_IT: &str = "DROP SUBSCRIPTION on the target, once the application is there";

fn leftovers(case: &Case<'_>) -> Outcome {
    let source = &case.evidence.source;
    let stopped = case.terms.accept_stopped_source && case.fresh(&source.stopped) == Ok(&true);
    if !stopped {
        let slots = &case.fresh(&source.standing)?.slots;
        let left = case.terms.consumers.iter().filter_map(|slot| slots.get_key_value(slot));
        if let Some((slot, summary)) = left.min_by_key(|(_, summary)| summary.active) {
            if summary.active {
                return Ok(Finds::wait(format!("the forward slot {slot} is still in use")).with_fix(DROP_IT));
            }
            let fix = format!("{DROP_IT}; of a standby: SELECT pg_drop_replication_slot('{slot}') on the old source");
            return Ok(Finds::fail(format!("the forward slot {slot} is still there, and keeps WAL")).with_fix(fix));
        }
    }
    if !case.terms.kind.is_server() {
        return Ok(Finds::pass("none"));
    }
    let slots = &case.fresh(&case.evidence.target.standing)?.slots;
    Ok(match slots.iter().find(|(_, slot)| !slot.active && slot.retained.is_some()) {
        Some((slot, _)) => Finds::fail(format!("nobody reads slot {slot} of the target, and it keeps WAL"))
            .with_fix(format!("SELECT pg_drop_replication_slot('{slot}')")),
        None => Finds::pass("none"),
    })
}

/// Everything that replication leaves out is accepted by name.
pub(super) fn unreplicated(case: &Case<'_>) -> Outcome {
    if matches!(case.terms.kind, Kind::Slot | Kind::Zero) {
        return Ok(Finds::skip(format!("a target of kind {} does not take the source's place", case.terms.kind)));
    }
    let left_out = case.settled(&case.evidence.source.unreplicated)?;
    // A standby has the rows of everything else.
    let missing = left_out.iter().filter(|item| case.terms.kind != Kind::Standby || item.what.starts_with("unlogged"));
    // One database is looked at.
    let within = if case.terms.kind == Kind::Standby { " of the database that the source's dsn names" } else { "" };
    let mut open = missing.clone().filter(|item| !is_accepted(case, &item.name));
    let all = first_of(open.clone().map(|item| format!("{} ({})", item.name, item.what)));
    let Some((first, all)) = open.next().zip(all) else {
        // What was written there since the cutover is to go back as well.
        let by_hand = left_out.iter().filter(|item| item.by_hand && case.asked.phase.is_back() && !case.terms.data);
        return Ok(match first_of(by_hand.map(|item| &item.name)) {
            None => Finds::pass(format!("{} left out{within}, all accepted", missing.count())),
            Some(tables) => Finds::unknown(format!("whether the rows of {tables} were copied back is not known"))
                .with_fix("have the data compared: data = true"),
        });
    };
    let fix = format!("carry it over by hand, and add {:?} to accept_unreplicated", first.name);
    Ok(Finds::fail(format!("not replicated: {all}")).with_fix(fix))
}

/// Whether it is a worker that applies what comes from elsewhere, by its `backend_type`.
fn is_apply_worker(writer: &Writer) -> bool {
    writer.state.starts_with("logical replication") || writer.state.starts_with("pglogical apply")
}
