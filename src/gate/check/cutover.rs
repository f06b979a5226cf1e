//! May we switch now: everything that was committed before the fence has arrived, and nothing was after it.

use super::consumer::{no_subscription, slot, subscription, subscription_of};
use super::post::unreplicated;
use super::{Finds, Outcome, Rule, first_of};
use crate::gate::case::Case;
use crate::gate::evidence::{ConsumerSide, SlotEvidence};
use crate::gate::fence::{Fence, Stray, is_flushed, listed};
use crate::gate::sequence::{Standing, compare};
use crate::gate::terms::{Kind, Phase};
use crate::ident::SlotName;
use crate::lag::{Followed, SlotKind};
use crate::lsn::Lsn;
use crate::units::size;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "fence",
        expected: "a fence stands, and the source is of the same history as when it was set",
        check: fence,
    },
    Rule {
        id: "writers",
        expected: "no transaction id, prepared transaction or DDL under way on the source",
        check: writers,
    },
    Rule {
        id: "caught-up",
        expected: "every commit up to the fence is acknowledged by every consumer",
        check: caught_up,
    },
    Rule { id: "applied", expected: "the target itself shows that it has everything up to the fence", check: applied },
    Rule { id: "stray-writes", expected: "nothing was committed after the fence but the barrier", check: stray_writes },
    Rule { id: "slot", expected: "one healthy slot in use for every consumer", check: slot },
    Rule {
        id: "subscription",
        expected: "every subscription runs, with all its tables and no new error",
        check: subscription,
    },
    Rule { id: "sequences", expected: "every sequence of the target is at or past the source's", check: sequences },
    Rule {
        id: "unreplicated",
        expected: "everything that replication leaves out is accepted by name",
        check: unreplicated,
    },
    Rule { id: "data", expected: "rows and digests are equal on both sides", check: data },
];

/// The fence that is asked about.
fn standing_fence<'a>(case: &Case<'a>) -> Result<std::borrow::Cow<'a, Fence>, String> {
    case.fence().ok_or_else(|| "no fence stands".to_owned())
}

fn fence(case: &Case<'_>) -> Outcome {
    let Some(fence) = case.fence() else {
        let back = case.asked.phase == Phase::Rollback;
        let (flag, parameter) = if back { (" --phase rollback", "?phase=rollback") } else { ("", "") };
        let name = &case.terms.name;
        let fix = format!("stop writes, then walgate gate fence {name}{flag} (POST /v1/gates/{name}/fence{parameter})");
        let why = "no fence stands; one that was set before walgate started, or for other servers or slots, is not remembered";
        return Ok(Finds::fail(why).with_fix(fix));
    };
    if let Some(why) = &fence.lost {
        return Ok(Finds::fail(format!("the fence at {} holds no longer: {why}", fence.target_lsn)).with_fix(SET_AGAIN));
    }
    let now = case.fresh(&case.evidence.source.standing)?;
    if now.in_recovery {
        return Ok(Finds::fail("the source is a standby").with_fix("name the server that is written to as the source"));
    }
    if let Some(then) = fence.history.filter(|then| then.contradicts(now.history)) {
        let observed = format!("the source is {} now; the fence was set on {then}", now.history);
        return Ok(Finds::fail(observed).with_fix(SET_AGAIN));
    }
    let target = fence.target_lsn;
    if now.flushed < target {
        let observed = format!("the source's WAL ends at {}, before the fence at {target}", now.flushed);
        return Ok(match fence.set_at {
            Some(_) => Finds::fail(format!("{observed}: it is another server, or was restored")).with_fix(SET_AGAIN),
            None => Finds::wait(observed),
        });
    }
    Ok(Finds::pass(match (&fence.set_at, &fence.nonce) {
        (Some(at), Some(_)) => format!("{target}, behind a barrier that was committed at {at}, on {}", now.history),
        (Some(at), None) => format!("{target}, taken at {at} without writing, on {}", now.history),
        (None, _) => format!("{target}, a position of the caller's, on {}", now.history),
    }))
}

const SET_AGAIN: &str = "stop writes on the source that is in use now, and set the fence again";

fn writers(case: &Case<'_>) -> Outcome {
    let activity = case.activity()?;
    let mut at_work = activity.writers.clone();
    at_work.extend(activity.ddl.iter().filter(|ddl| !activity.writers.iter().any(|w| w.pid == ddl.pid)).cloned());
    if at_work.is_empty() {
        return Ok(Finds::pass("nobody"));
    }
    let fix = "stop what writes, and end what is left: pg_terminate_backend(pid), ROLLBACK PREPARED";
    Ok(Finds::wait(listed(&at_work)).with_fix(fix))
}

fn caught_up(case: &Case<'_>) -> Outcome {
    let target = standing_fence(case)?.target_lsn;
    let each =
        case.consumers().iter().map(|slot| consumer_caught_up(case, slot, target).unwrap_or_else(Finds::unknown));
    let each: Vec<Finds> = each.collect();
    if each.is_empty() {
        return Err("the gate names no consumer".into());
    }
    let proofs: Vec<String> = each.iter().map(|finds| finds.observed.clone()).collect();
    Ok(Finds::worst(each, Finds::pass(proofs.join("; "))))
}

fn consumer_caught_up(case: &Case<'_>, slot: &SlotName, target: Lsn) -> Outcome {
    let consumer = case.consumer(slot)?;
    let Some(evidence) = case.fresh(&consumer.slot).map_err(|why| format!("{slot}: {why}"))? else {
        return Ok(Finds::fail(format!("there is no slot {slot}")).with_fix("set its consumer up anew"));
    };
    let row = &evidence.row;
    if row.is_lost() {
        return Ok(Finds::fail(format!("{slot} is lost")).with_fix("set its consumer up anew"));
    }
    if row.kind == SlotKind::Physical {
        return Ok(match row.reader.flush.or(row.restart_lsn) {
            Some(flushed) if flushed >= target => Finds::pass(format!("{slot} has flushed up to {flushed}")),
            Some(flushed) => {
                Finds::wait(format!("{slot} has {} to flush before {target}", size(target.bytes_since(flushed))))
            }
            None => Finds::wait(format!("{slot} has flushed nothing yet")),
        });
    }
    if !is_same_slot(evidence, target) {
        let observed = format!(
            "{slot} cannot be told from one that was dropped and created again after the fence: it was not seen before {}",
            evidence.life.since
        );
        return Ok(Finds::unknown(observed).with_fix("verify the data, and set the fence again"));
    }
    let stream = stream_of(case, consumer).ok();
    if let Some(stream) = stream.filter(|stream| is_proof(stream, target)) {
        return Ok(Finds::pass(format!(
            "{slot} has acknowledged every commit up to {}, where the server's decoding is",
            stream.decoded
        )));
    }
    let acked = row.confirmed_flush.unwrap_or_default();
    if acked >= target {
        return Ok(Finds::pass(format!("{slot} has confirmed {acked}")));
    }
    Ok(Finds::wait(match stream.filter(|stream| !stream.doubtful) {
        Some(stream) if stream.pending.transactions > 0 => format!(
            "{slot} has {} to acknowledge before {target}",
            amount(stream.pending.transactions, stream.pending.volume.rows)
        ),
        Some(stream) if stream.decoded < target => return Ok(to_decode(slot, stream.decoded, target)),
        _ => format!("{slot} has confirmed {acked}, which is {} before {target}", size(target.bytes_since(acked))),
    }))
}

/// What a consumer's stream has shown, if it is of the slot that was looked at.
fn stream_of<'a>(case: &Case<'a>, consumer: &'a ConsumerSide) -> Result<&'a Followed, String> {
    let stream = case.fresh(&consumer.stream)?;
    let why = "the last look at the source does not show yet whose stream it is";
    if stream.shown { Ok(stream) } else { Err(why.to_owned()) }
}

/// Whether it is the slot of before the fence: it was seen by then, or keeps WAL of before. One that is created reserves
/// WAL from where the server then is (`ReplicationSlotReserveWal`).
fn is_same_slot(evidence: &SlotEvidence, target: Lsn) -> bool {
    evidence.life.since <= target || evidence.row.restart_lsn.is_some_and(|restart| restart < target)
}

/// Whether the consumer's own stream proves that it has everything up to the position.
fn is_proof(stream: &Followed, target: Lsn) -> bool {
    stream.own && !stream.doubtful && stream.decoded >= target && stream.pending.transactions == 0
}

fn amount(transactions: u64, rows: u64) -> String {
    let plural = |count| if count == 1 { "" } else { "s" };
    format!("{transactions} transaction{} ({rows} row{})", plural(transactions), plural(rows))
}

fn applied(case: &Case<'_>) -> Outcome {
    let target = standing_fence(case)?.target_lsn;
    match case.terms.kind {
        Kind::Slot => Ok(Finds::skip("of a target of kind slot nothing is known but what it acknowledges")),
        Kind::Zero => replica_applied(case, target),
        Kind::Subscription | Kind::Pglogical => {
            let each = case.consumers().iter();
            let each = each.map(|slot| origin_applied(case, slot, target).unwrap_or_else(Finds::unknown));
            let each: Vec<Finds> = each.collect();
            let proofs: Vec<String> = each.iter().map(|finds| finds.observed.clone()).collect();
            Ok(Finds::worst(each, Finds::pass(proofs.join("; "))))
        }
        Kind::Standby => replayed(case, target),
    }
}

/// Compares a position of the target's with the last commit that was published to a consumer, as its stream has shown:
/// `None` if none was.
fn against_last(case: &Case<'_>, slot: &SlotName, target: Lsn, compare: impl FnOnce(Option<Lsn>) -> Finds) -> Outcome {
    let consumer = case.consumer(slot)?;
    let stream = stream_of(case, consumer);
    let stream = stream.map_err(|why| format!("the last commit for {slot} is not known: {why}"))?;
    if stream.doubtful {
        return Err(format!("commits of {slot} may have been missed, so the last one is not known"));
    }
    if let Some(moved) = stream.moved {
        let observed =
            format!("{slot} was moved on to {moved} while its consumer was away, which may lack what came before");
        return Ok(Finds::fail(observed).with_fix("verify the data, and restart walgate"));
    }
    if stream.decoded < target {
        return Ok(to_decode(slot, stream.decoded, target));
    }
    Ok(compare(stream.newest))
}

fn to_decode(slot: &SlotName, decoded: Lsn, until: Lsn) -> Finds {
    Finds::wait(format!("{slot}: the server has {} to decode before {until}", size(until.bytes_since(decoded))))
}

fn replica_applied(case: &Case<'_>, target: Lsn) -> Outcome {
    if !case.terms.asks_replica {
        return Ok(Finds::skip("the gate names no /statz of zero-cache's"));
    }
    let replica = *case.fresh(&case.evidence.replica)?;
    // zero-cache is sent the barrier too, and is then where that begins to commit, at the least.
    if let Some(barrier) = standing_fence(case)?.barrier_lsn {
        return Ok(if replica >= barrier {
            Finds::pass(format!("zero-cache's replica is at {replica}, behind the barrier at {barrier}"))
        } else {
            Finds::wait(format!("zero-cache's replica is at {replica}, before the barrier at {barrier}"))
        });
    }
    let each = case.consumers().iter().map(|slot| {
        let compared = against_last(case, slot, target, |last| match last {
            // It is where the last transaction begins to commit, never behind it.
            Some(last) if replica < last => {
                Finds::wait(format!("zero-cache's replica is at {replica}, before the last commit at {last}"))
            }
            Some(_) => Finds::pass(""),
            None => Finds::unknown(format!("nothing was published to {slot} since walgate reads along"))
                .with_fix("set the fence with a barrier, which zero-cache is sent: barrier = true"),
        });
        compared.unwrap_or_else(Finds::unknown)
    });
    Ok(Finds::worst(each, Finds::pass(format!("zero-cache's replica is at {replica}"))))
}

fn origin_applied(case: &Case<'_>, slot: &SlotName, target: Lsn) -> Outcome {
    let subscription = subscription_of(case, slot)?;
    let Some(subscription) = subscription else {
        return Ok(no_subscription(slot));
    };
    let name = &subscription.name;
    let undecoded = case.evidence.consumers.get(slot).is_some_and(|consumer| consumer.undecoded);
    if case.terms.kind == Kind::Pglogical || undecoded {
        // Of pglogical the plugin is not decoded, and else nothing is where only positions are wanted: so the last commit is
        // not known. A subscription confirms nothing that it has not applied.
        let applied = subscription.applied.map_or("nothing".into(), |applied| format!("up to {applied}"));
        return Ok(Finds::skip(format!("{name} has applied {applied}; what its slot confirms is what it has applied")));
    }
    against_last(case, slot, target, |last| match (last, subscription.applied) {
        (None, _) => Finds::pass(format!("nothing was published to {name} since walgate reads along")),
        // The origin is at the end of a commit, which is behind where it begins.
        (Some(last), Some(applied)) if applied > last => {
            Finds::pass(format!("{name} has applied up to {applied}, past {last}"))
        }
        (Some(last), applied) => {
            let applied = applied.map_or("nothing yet".into(), |applied| format!("up to {applied}"));
            Finds::wait(format!("{name} has applied {applied}; the last commit is at {last}"))
                .with_fix("if it stays so, rows were dropped or skipped on the target: verify the data")
        }
    })
}

fn replayed(case: &Case<'_>, target: Lsn) -> Outcome {
    let source = case.fresh(&case.evidence.source.standing)?;
    let standby = case.fresh(&case.evidence.target.standing)?;
    if standby.history.system != source.history.system {
        return Ok(Finds::fail(format!("the target is {}, and the source {}", standby.history, source.history))
            .with_fix("name a standby of the source as the target"));
    }
    if !standby.in_recovery {
        return Ok(Finds::fail("the target is no standby any more").with_fix("ask for the phase post"));
    }
    // Which timeline it replays, whether or not it receives anything: of another promotion's, positions say nothing.
    let replays = *case.fresh(&case.evidence.target.replication)?;
    if replays.timeline.is_none() || replays.contradicts(source.history) {
        return Ok(Finds::fail(format!("the target replays {replays}, and the source is {}", source.history))
            .with_fix("name a standby of the source as the target"));
    }
    // Two servers that were promoted are on timelines of the same number, and only where these fork tells them apart.
    if replays.timeline > Some(1) {
        let Some(own) = standing_fence(case)?.forks.clone() else {
            let fix = "set the fence once the source takes a replication connection of walgate's (max_wal_senders, pg_hba.conf)";
            return Ok(Finds::unknown("where the source's own timelines forked was not seen").with_fix(fix));
        };
        if own != *case.fresh(&case.evidence.target.forks)? {
            return Ok(Finds::fail(format!(
                "the target's timeline {replays} is of another promotion than the source's"
            ))
            .with_fix("name a standby of the source as the target"));
        }
    }
    let receiver = case.fresh(&case.evidence.target.receiver)?;
    if let Some(slot) = receiver.slot.as_ref().filter(|slot| !case.consumers().contains(slot)) {
        return Ok(Finds::fail(format!("the target reads slot {slot}, which the gate does not name")));
    }
    if let Some((timeline, own)) = receiver.timeline.zip(source.history.timeline).filter(|(is, own)| is != own) {
        return Ok(Finds::fail(format!("the target receives timeline {timeline}, and the source is on {own}")));
    }
    Ok(match receiver.replayed {
        Some(replayed) if replayed >= target => Finds::pass(format!("replayed up to {replayed}")),
        Some(replayed) => Finds::wait(format!("{} to replay before {target}", size(target.bytes_since(replayed)))),
        None => return Err("the target does not say how far it has replayed".into()),
    })
}

fn stray_writes(case: &Case<'_>) -> Outcome {
    let fence = standing_fence(case)?;
    let strays = case.consumers().iter().filter_map(|slot| {
        let stream = case.evidence.consumers.get(slot)?;
        // However old: what was seen was there.
        stream.stream.value()?.behind.clone().map(Stray::from)
    });
    if let Some(stray) = fence.stray.clone().into_iter().chain(strays).next() {
        let observed = format!("{stray}, after the fence at {}", fence.target_lsn);
        return Ok(Finds::fail(observed).with_fix("find who writes and stop it, then set the fence again"));
    }
    let activity = case.activity()?;
    if case.is_still(&fence) {
        return Ok(Finds::pass(format!("no transaction id was given since: {} is still the next", activity.next_xid)));
    }
    // Not the flush position: a commit without synchronous_commit is flushed later.
    let inserted = activity.inserted.ok_or("the source does not say how far its WAL is written")?;
    if inserted < fence.target_lsn {
        return Ok(Finds::wait(format!("the source's WAL is written up to {inserted} only")));
    }
    let each = case
        .consumers()
        .iter()
        .map(|slot| nothing_published(case, slot, &fence, inserted).unwrap_or_else(Finds::unknown));
    Ok(Finds::worst(
        each,
        Finds::pass(format!("transactions were committed since, and up to {inserted} none was published")),
    ))
}

/// Whether a stream shows that nothing was published up to where the source's WAL is written.
fn nothing_published(case: &Case<'_>, slot: &SlotName, fence: &Fence, inserted: Lsn) -> Outcome {
    // What is no pgoutput, nobody here decodes.
    if matches!(case.terms.kind, Kind::Pglogical | Kind::Standby) {
        let observed = "transactions were committed after the fence, and what they wrote is not known";
        let fix = "find out who writes (autovacuum counts too), and set the fence again while the server is quiet";
        return Ok(Finds::unknown(observed).with_fix(fix));
    }
    let fix = "set the fence again while the server is quiet, let the consumer connect through the proxy, or set observe = \
               \"slot\" for the source";
    let not_known = |why: &str| {
        Finds::unknown(format!(
            "transactions were committed after the fence; whether they were published to {slot} is not known: {why}"
        ))
        .with_fix(fix)
    };
    Ok(match stream_of(case, case.consumer(slot)?) {
        Err(why) => not_known(&why),
        Ok(stream) if stream.doubtful => Finds::unknown(format!("commits of {slot} may have been missed")),
        // What was acknowledged while nobody read along is not sent again.
        Ok(stream) if stream.from.is_none_or(|from| from > fence.target_lsn) => {
            not_known("its stream was not read without a break since the fence")
        }
        Ok(stream) if !is_flushed(inserted, stream.decoded) => Finds::wait(format!(
            "transactions were committed after the fence, and of {slot} {} are still to be decoded",
            size(inserted.bytes_since(stream.decoded))
        )),
        Ok(_) => Finds::pass(""),
    })
}

fn sequences(case: &Case<'_>) -> Outcome {
    if !case.terms.kind.is_database() {
        return Ok(Finds::nothing_to_compare(case));
    }
    let (source, target) = (case.fresh(&case.evidence.source.sequences)?, case.fresh(&case.evidence.target.sequences)?);
    let compared = compare(source, target).into_iter().filter(|one| !is_accepted(case, &one.sequence.to_string()));
    let names_of = |standing| {
        first_of(compared.clone().filter(move |one| one.standing == standing).map(|one| one.sequence.to_string()))
    };
    let of = |standing: Standing| {
        let names = compared.clone().filter(move |one| one.standing == standing).map(|one| {
            let next = |next: Option<String>| next.unwrap_or("nothing".into());
            format!(
                "{} would give {}, and {} on the source",
                one.sequence,
                next(one.target_next),
                next(one.source_next)
            )
        });
        first_of(names)
    };
    if let Some(different) = of(Standing::Different) {
        return Ok(Finds::fail(different).with_fix("make the target's sequences like the source's"));
    }
    if let Some(unknown) = names_of(Standing::Unknown) {
        let fix = "GRANT SELECT ON ALL SEQUENCES IN SCHEMA … TO walgate's role, on both servers";
        return Ok(Finds::unknown(format!("walgate's role may not read {unknown}")).with_fix(fix));
    }
    if let Some(missing) = of(Standing::Missing) {
        return Ok(Finds::fail(missing).with_fix("create what is missing on the target"));
    }
    Ok(match of(Standing::Behind) {
        None => Finds::pass(format!("{} at or past", source.len())),
        Some(behind) => Finds::wait(behind).with_fix(command(case, "sequences", " --apply")),
    })
}

/// Whether the configuration says that this may be missing on the target.
pub(super) fn is_accepted(case: &Case<'_>, name: &str) -> bool {
    case.terms.accept_unreplicated.contains(name)
}

/// What a person runs for this gate, with its file; in a rollback the other way round.
fn command(case: &Case<'_>, does: &str, options: &str) -> String {
    let back = if case.asked.phase.is_back() { " --phase rollback" } else { "" };
    format!("walgate gate {does} {} -c FILE{back}{options}", case.terms.name)
}

fn data(case: &Case<'_>) -> Outcome {
    if !case.terms.data {
        return Ok(Finds::skip("not asked for (data = true)"));
    }
    let taken = standing_fence(case)?.taken.ok_or("data are compared under a fence that walgate has set")?;
    let Some(data) = case.evidence.data.value() else {
        case.fresh(&case.evidence.data)?;
        return Err("the data have not been compared yet".into());
    };
    if data.under != Some(taken) {
        return Ok(Finds::wait(
            "the data were not compared under this fence yet: that begins once everything else passes",
        ));
    }
    if let Some(different) = first_of(data.different.iter().map(|(table, how)| format!("{table}: {how}"))) {
        return Ok(Finds::fail(different).with_fix(command(case, "verify", "")));
    }
    if let Some((table, why)) = data.unseen.first() {
        return Ok(Finds::unknown(format!("{table} was not compared whole: {why}")));
    }
    // Nothing is proved by having looked at nothing.
    if data.equal == 0 {
        return Ok(Finds::unknown("there was no table to compare"));
    }
    Ok(Finds::pass(format!("{} tables are equal", data.equal)))
}
