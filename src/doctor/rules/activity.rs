//! Transactions, prepared ones, and queues for locks. A logical slot is made once every transaction has ended that had a
//! transaction id when it began (`SnapBuildFindSnapshot` in `snapbuild.c`), and its WAL is kept from the oldest one that is
//! open. Whoever asks for a lock that conflicts with a waiting one waits behind it (`LockAcquireExtended` in `lock.c`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Found, Rule, advice, choice, many};
use crate::doctor::checkup::{Checkup, Prepared, Transaction, Wait};
use crate::gate::Limits;
use crate::ident::Literal;
use crate::identity::Severity::{Error, Info, Warning};
use crate::units::age;

pub(super) const RULES: &[Rule] = &[
    Rule { id: "transaction/idle", severity: Warning, check: idle },
    Rule { id: "transaction/long", severity: Warning, check: long },
    Rule { id: "transaction/prepared", severity: Warning, check: prepared },
    Rule { id: "lock/slot-creation", severity: Error, check: slot_creation },
    Rule { id: "lock/queue", severity: Warning, check: queue },
];

/// How long a lock may be waited for: what `deadlock_timeout`, and with it `log_lock_waits`, takes for long by default.
const WAITED: f64 = 1.0;

/// What stands for a prepared transaction among process ids (`pg_blocking_pids`).
const PREPARED: i32 = 0;

/// How long a transaction may be open, as gates have it.
fn usual() -> Duration {
    Limits::default().transaction
}

fn old(checkup: &Checkup) -> Option<impl Iterator<Item = &Transaction>> {
    let transactions = checkup.transactions.seen()?;
    Some(transactions.iter().filter(|transaction| transaction.open_seconds > usual().as_secs_f64()))
}

fn is_idle(transaction: &Transaction) -> bool {
    transaction.state.as_deref().is_some_and(|state| state.starts_with("idle in transaction"))
}

fn who(name: Option<&str>, user: Option<&str>, database: Option<&str>) -> String {
    let name = name.filter(|name| !name.is_empty());
    let user = user.map(|user| format!("role {user}"));
    let database = database.map(|database| format!("database {database}"));
    let parts: Vec<String> = name.map(str::to_owned).into_iter().chain(user).chain(database).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn of(transaction: &Transaction) -> String {
    who(transaction.name.as_deref(), transaction.user.as_deref(), transaction.database.as_deref())
}

fn end(pid: i32) -> String {
    choice(&format!("SELECT pg_terminate_backend({pid})"), "ends the session, and rolls its transaction back")
}

fn consequence(transaction: &Transaction) -> &'static str {
    match transaction.writes {
        true => "a new logical slot waits for its end, and slots keep WAL from its beginning on",
        false => "DDL on what it has read waits for its end, and others behind that",
    }
}

fn idle(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    for transaction in old(checkup)?.filter(|transaction| is_idle(transaction)) {
        let message = format!(
            "Its client{} does nothing, with a transaction open for {}: {}",
            of(transaction),
            age(transaction.open_seconds.round()),
            consequence(transaction)
        );
        let mend = vec![
            advice("have the application commit, or set idle_in_transaction_session_timeout for its role"),
            end(transaction.pid),
        ];
        found.add(format!("pid {}", transaction.pid), message, mend);
    }
    Some(format!("no transaction idle for more than {}", age(usual().as_secs_f64())))
}

fn long(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    // Who waits for a lock is told of by whom it waits for.
    let works = |transaction: &&Transaction| {
        !is_idle(transaction) && !transaction.waits_for.as_deref().is_some_and(|event| event.starts_with("Lock "))
    };
    for transaction in old(checkup)?.filter(works) {
        let command = transaction.command.as_deref().map(|command| format!(" with {command}")).unwrap_or_default();
        let message = format!(
            "It is at work{command} as a {}{}, its transaction open for {}: {}",
            transaction.kind,
            of(transaction),
            age(transaction.open_seconds.round()),
            consequence(transaction)
        );
        // A report or a copy may take as long as it takes.
        let severity = if transaction.writes { Warning } else { Info };
        found.with(severity, format!("pid {}", transaction.pid), message, vec![end(transaction.pid)]);
    }
    let open = checkup.transactions.seen()?.len();
    Some(format!("{} open, none at work for more than {}", many(open, "transaction"), age(usual().as_secs_f64())))
}

/// A standby does not show those that it will have after its promotion.
fn prepared(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let prepared = checkup.prepared.seen().filter(|_| !checkup.server.in_recovery)?;
    for Prepared { gid, user, database, open_seconds } in prepared {
        if *open_seconds <= usual().as_secs_f64() {
            continue;
        }
        let message = format!(
            "It is prepared{} for {}, and stays so over restarts until somebody decides: its locks are held, a new logical slot \
             waits for its end, and slots keep WAL from its beginning on",
            who(None, user.as_deref(), Some(database)),
            age(open_seconds.round())
        );
        let mend = vec![
            advice(format!("in database {database}, as its owner or a superuser; its transaction manager knows which")),
            choice(&format!("COMMIT PREPARED {}", Literal(gid)), "or"),
            choice(&format!("ROLLBACK PREPARED {}", Literal(gid)), "what it has changed is gone then"),
        ];
        found.add(gid, message, mend);
    }
    Some(format!("{} prepared, none for more than {}", many(prepared.len(), "transaction"), age(usual().as_secs_f64())))
}

/// Those who wait for long, by whom they wait for in the end: who waits behind somebody that waits, waits for whom that one
/// waits for.
fn queues(waits: &[Wait]) -> BTreeMap<BTreeSet<i32>, Vec<&Wait>> {
    let behind: BTreeMap<i32, &[i32]> = waits.iter().map(|wait| (wait.pid, wait.behind.as_slice())).collect();
    let mut queues: BTreeMap<BTreeSet<i32>, Vec<&Wait>> = BTreeMap::new();
    for wait in waits.iter().filter(|wait| wait.seconds.is_some_and(|seconds| seconds > WAITED)) {
        let (mut heads, mut known, mut next) = (BTreeSet::new(), BTreeSet::from([wait.pid]), wait.behind.clone());
        while let Some(pid) = next.pop() {
            if !known.insert(pid) {
                continue;
            }
            match behind.get(&pid) {
                Some(before) => next.extend_from_slice(before),
                None => drop(heads.insert(pid)),
            }
        }
        // Who waits for nobody any more has what it waited for, or is in a deadlock, which the server ends.
        if !heads.is_empty() {
            queues.entry(heads).or_default().push(wait);
        }
    }
    queues
}

fn slot_creation(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let waits = checkup.waits.seen()?;
    for (heads, waiting) in queues(waits) {
        for wait in waiting.iter().filter(|wait| wait.creates_slot) {
            let slot = checkup.slots.iter().find(|slot| slot.report.active_pid == Some(wait.pid));
            let message = format!(
                "It is being made by pid {}{}, which waits for {} for transactions to end that were open when it began, and its \
                 consumer with it. Before it: {}",
                wait.pid,
                who(wait.name.as_deref(), wait.user.as_deref(), wait.database.as_deref()),
                waited(wait),
                described(checkup, &heads)
            );
            let slot = slot.map_or("a slot", |slot| slot.report.slot.as_str());
            found.add(slot, message, release(&heads));
        }
    }
    Some("no slot waits for transactions to be made".into())
}

fn queue(checkup: &Checkup, found: &mut Found<'_>) -> Option<String> {
    let waits = checkup.waits.seen()?;
    for (heads, waiting) in queues(waits) {
        let waiting: Vec<&Wait> = waiting.into_iter().filter(is_of_tables).collect();
        // They come in the order in which they began to wait.
        let Some((first, others)) = waiting.split_first() else { continue };
        let command = first.command.as_deref().map(|command| format!(" with {command}")).unwrap_or_default();
        let then = match others.len() {
            0 => String::new(),
            others => format!(", and {} after it", many(others, "session")),
        };
        let message = format!(
            "It waits{command}{} for {} for {}{then}. Before it: {}",
            who(first.name.as_deref(), first.user.as_deref(), first.database.as_deref()),
            waited(first),
            awaited(first),
            described(checkup, &heads)
        );
        let mut mend = release(&heads);
        if first.mode == "AccessExclusiveLock" && !others.is_empty() {
            let sql = format!("SELECT pg_cancel_backend({})", first.pid);
            mend.push(choice(&sql, "or this: it gives up for now, and lets those after it through"));
        }
        let severity = if others.is_empty() { found.rule.severity } else { Error };
        found.with(severity, format!("pid {}", first.pid), message, mend);
    }
    let waits = waits.iter().filter(is_of_tables).count();
    Some(format!("{} for a table, none for more than {}", many(waits, "wait"), age(WAITED)))
}

/// Whether it waits for a table, or for whoever may be reading one. Rows and advisory locks are the application's own affair.
fn is_of_tables(wait: &&Wait) -> bool {
    matches!(wait.on.as_str(), "relation" | "virtualxid")
}

fn awaited(wait: &Wait) -> String {
    match &wait.table {
        Some(table) => format!("{} on {table}", wait.mode),
        None if wait.on == "virtualxid" => "transactions to end that were open before it".to_owned(),
        None => format!("{} on a table of its database", wait.mode),
    }
}

fn waited(wait: &Wait) -> String {
    age(wait.seconds.unwrap_or_default().round())
}

/// Who is before the others.
fn described(checkup: &Checkup, heads: &BTreeSet<i32>) -> String {
    let transactions = checkup.transactions.seen().map(Vec::as_slice).unwrap_or_default();
    let describe = |head: &i32| match (*head, transactions.iter().find(|transaction| transaction.pid == *head)) {
        (PREPARED, _) => "a prepared transaction".to_owned(),
        (_, Some(transaction)) => {
            let state = transaction.state.as_deref().unwrap_or(&transaction.kind);
            let open = age(transaction.open_seconds.round());
            format!("pid {head}{}, {state}, its transaction open for {open}", of(transaction))
        }
        (_, None) => format!("pid {head}"),
    };
    heads.iter().map(describe).collect::<Vec<_>>().join("; ")
}

fn release(heads: &BTreeSet<i32>) -> Vec<String> {
    let release = |head: &i32| match *head {
        PREPARED => advice("commit the prepared transaction, or roll it back: SELECT * FROM pg_prepared_xacts;"),
        head => end(head),
    };
    heads.iter().map(release).collect()
}
